"""The HTTP application over an engine."""

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api import aliases, collections, index, limits, metrics, reads, recall, search, service, snapshots, transfer
from app.api.bodies import ClientGone, Room
from app.api.gate import Gate
from app.api.keys import load_keys
from app.api.openapi import document
from app.api.problems import on_http_exception, on_refused, on_validation, refusal_response, request_id
from app.api.rates import Rates
from app.api.request_ids import RequestIds
from app.api.resource import Resource, raw_path
from app.api.seen import Seen, Traces, route_series
from app.engine.errors import Refused
from app.engine.types import Engine
from app.settings import Settings
from seedvec import __version__

_DOCS = Path(__file__).with_name("docs.html").read_text("utf-8")
_SCRIPT = _DOCS.partition("<script>")[2].partition("</script>")[0]
_DOCS_HEADERS = {
    # People type keys into this page: nothing runs on it but its own script, and that speaks to this server alone.
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
    f"script-src 'sha256-{b64encode(sha256(_SCRIPT.encode()).digest()).decode()}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
_ABOUT = (
    "Vector similarity search. Every error is RFC 9457 problem JSON; see `/problems/{code}`. Unknown fields and query "
    "parameters are refused; of a key that stands twice in one JSON object the last counts."
)
_BEHIND = "/v1/collections/{collection}/"
"""What the path of every hot route begins with."""
_BEFORE = _BEHIND.partition("{")[0].encode()


class HotPath:
    """Takes a request of a hot route past FastAPI's layers, which cost 25 µs of the 255 of a small search.

    What it does not take as it stands (another route, another method) goes on to FastAPI, whose router has the hot
    routes too.
    """

    def __init__(self, app: ASGIApp, hot: Sequence[Resource]) -> None:
        self.app = app
        self._at: dict[tuple[str, bytes], Resource] = {}
        """By the method and what the path has behind the collection."""
        self._with_id: dict[tuple[str, bytes], Resource] = {}
        """By the method and what the path has between the collection and the id."""
        for resource in hot:
            place = resource.path_format.removeprefix(_BEHIND)
            routes = self._with_id if place.endswith("/{id}") else self._at
            for method in resource.operations:
                routes[method, place.removesuffix("/{id}").encode()] = resource

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            resource, params = self._found(scope)
            if resource is not None:
                scope["raw_params"] = params
                try:
                    await resource.handle(scope, receive, send)
                except Refused as refused:
                    await refusal_response(refused, request_id(scope))(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _found(self, scope: Scope) -> tuple[Resource | None, tuple[bytes, ...]]:
        """By look-up: to match the patterns of all takes longer than to decode a query."""
        path = raw_path(scope)
        name, _, place = path[len(_BEFORE) :].partition(b"/")
        if not name or not path.startswith(_BEFORE):
            return None, ()
        resource = self._at.get((scope["method"], place))
        if resource is not None:
            return resource, (name,)
        place, _, id = place.partition(b"/")
        return (self._with_id.get((scope["method"], place)) if id else None), (name, id)


class Application(FastAPI):
    """FastAPI, with the hot routes in front, in its router and in its OpenAPI."""

    hot: list[Resource]
    typed: list[APIRouter]
    front: RequestIds
    gate: Gate
    health: service.Health

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.front(scope, receive, send)

    def build_middleware_stack(self) -> ASGIApp:
        """Without Starlette's answer to what nobody expected, plain text that shows no id: `RequestIds` gives ours."""
        outermost = super().build_middleware_stack()
        assert isinstance(outermost, ServerErrorMiddleware)
        return outermost.app

    def openapi(self) -> dict[str, Any]:
        if not self.openapi_schema:
            self.openapi_schema = document(self, self.hot, self.typed)
        return self.openapi_schema


def create_app(
    engine: Engine, settings: Settings, traces: Traces | None = None, rates: Rates | None = None
) -> Application:
    """The application of one worker. The engine is started and closed by whoever made it. Raises SettingError."""
    limits.use(settings)
    app = Application(
        title="Seedvec",
        version=__version__,
        description=_ABOUT,
        docs_url=None,  # FastAPI's page takes its scripts from a CDN
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.health = service.Health()
    app.hot = [
        *search.resources(engine),
        *reads.resources(engine),
        *recall.resources(engine),
        *transfer.resources(engine),
    ]
    app.router.routes[:0] = app.hot  # first: routes are tried one after the other
    app.typed = [
        service.router(engine, app.health),
        metrics.router(engine),
        collections.router(engine),
        index.router(engine),
        aliases.router(engine),
        snapshots.router(engine),
    ]
    for router in app.typed:
        app.include_router(router)
    app.add_route("/docs", _docs, include_in_schema=False)
    app.add_exception_handler(Refused, on_refused)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(ClientGone, _on_client_gone)
    hot = HotPath(super(Application, app).__call__, app.hot)
    app.gate = Gate(hot, load_keys(settings), rates, Room(settings.bodies_bytes), settings.queue_s)
    seen = Seen(app.gate, route_series(app.hot, app.typed), settings.access_log, settings.slow_ms, traces)
    app.front = RequestIds(seen)
    return app


async def _on_client_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


async def _docs(request: Request) -> Response:
    return HTMLResponse(_DOCS, headers=_DOCS_HEADERS)
