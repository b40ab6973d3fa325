"""FastAPI routes as strict as the hot ones: no unknown query parameter, no JSON that only Python would take."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from app.api.bodies import media_type, off_loop_if_large, read_body
from app.api.ids import shown
from app.api.json_in import plain_json
from app.api.refusals import UnknownField
from app.api.rights import RIGHTS, Rights, require
from app.engine.errors import MAX_FAULTS, Fault

Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


class StrictRoute(APIRoute):
    """Checks the key's rights, the query string's names and the body's syntax before FastAPI sees the request.

    FastAPI ignores unknown parameters and parses with the standard library, which takes NaN and ignores a wrong
    media type.
    """

    def get_route_handler(self) -> Endpoint:
        handler = super().get_route_handler()
        rights: Rights = (self.openapi_extra or {}).get(RIGHTS, "write")
        known = {field.alias for field in self.dependant.query_params}
        takes_body = self.body_field is not None

        async def strict(request: Request) -> Response:
            require(request.scope, rights, request.path_params.get("collection"))
            _refuse_unknown(request, known)
            if takes_body:
                await _check_body(request)
            return await handler(request)

        return strict


def _refuse_unknown(request: Request, known: set[str]) -> None:
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        faults = [Fault(name, "unknown query parameter") for name in unknown[:MAX_FAULTS]]
        taken = f"this route knows {', '.join(sorted(known))}" if known else "this route knows none"
        raise UnknownField(f"unknown query parameter {shown(unknown[0])}: {taken}", faults, len(unknown))


async def _check_body(request: Request) -> None:
    body = bytes(await read_body(request.scope, request.receive, media_type(request.scope, npy=False)))
    await off_loop_if_large(len(body), lambda: plain_json(body))
    request._body = body  # where Starlette keeps a body that was read: FastAPI reads it from here
