"""The HTTP application over an engine."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from app.api import collections, index, reads, search, service
from app.api.openapi import document
from app.api.problems import on_http_exception, on_refused, on_validation
from app.api.request_ids import RequestIds
from app.api.resource import Resource
from app.engine.errors import Refused
from app.engine.types import Engine
from seedvec import __version__

_DOCS = Path(__file__).with_name("docs.html").read_text("utf-8")
_ABOUT = "Vector similarity search. Every error is RFC 9457 problem JSON; see `/problems/{code}`."


class Application(FastAPI):
    """FastAPI, with the hot routes in its router and in its OpenAPI."""

    hot: list[Resource]
    typed: list[APIRouter]

    def openapi(self) -> dict[str, Any]:
        if not self.openapi_schema:
            self.openapi_schema = document(self, self.hot, self.typed)
        return self.openapi_schema


def create_app(engine: Engine) -> FastAPI:
    """The application of one worker. The engine is started and closed by whoever made it."""
    app = Application(
        title="Seedvec",
        version=__version__,
        description=_ABOUT,
        docs_url=None,  # FastAPI's page takes its scripts from a CDN
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.hot = [*search.resources(engine), *reads.resources(engine)]
    app.router.routes[:0] = app.hot  # first: routes are tried one after the other
    app.typed = [service.router(engine), collections.router(engine), index.router(engine)]
    for router in app.typed:
        app.include_router(router)
    app.add_route("/docs", _docs, include_in_schema=False)
    app.add_exception_handler(Refused, on_refused)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_middleware(RequestIds)
    return app


async def _docs(request: Request) -> Response:
    return HTMLResponse(_DOCS)
