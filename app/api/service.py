"""Probes, version and limits, and the explanations of problems."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from app.api.encode import json_response
from app.api.ids import shown
from app.api.limits import shown as shown_limits
from app.api.openapi import answer, problems
from app.api.problems import TABLE
from app.api.refusals import NotReady, RouteNotFound
from app.api.rights import needs
from app.api.strict_route import StrictRoute
from app.engine.types import Engine
from seedvec import __version__

Code = Annotated[str, Path(description="the last part of a problem's `type`", examples=["id-exists"])]


@dataclass(slots=True)
class Health:
    """leaving: the server was told to stop, and goes on for a while: set by whoever was told."""

    leaving: bool = False


def router(engine: Engine, health: Health) -> APIRouter:
    """What is about the server and not about a collection."""
    routes = APIRouter(tags=["service"], route_class=StrictRoute)
    _add_probes(routes, engine, health)

    about = {"name": "seedvec", "version": __version__, "limits": shown_limits()}

    @routes.get(
        "/v1",
        summary="Version and limits",
        responses=answer(200, about) | problems("unknown-field"),
        openapi_extra=needs("any"),
    )
    async def service() -> Response:
        """How much one request may be; most of it is set by the server's settings."""
        return json_response(about)

    @routes.get(
        "/problems/{code}",
        summary="What a problem means",
        responses=answer(200, {"type": "/problems/id-exists", "status": 409, "title": TABLE["id-exists"].title})
        | problems("not-found", "unknown-field"),
        openapi_extra=needs("open"),
    )
    async def problem(code: Code) -> Response:
        """The `type` of a problem answer is the address of its explanation."""
        kind = TABLE.get(code)
        if kind is None:
            raise RouteNotFound(f"there is no problem {shown(code)}; those that exist: {', '.join(sorted(TABLE))}")
        return json_response(
            {
                "type": f"/problems/{code}",
                "status": kind.status,
                "title": kind.title,
                "explanation": kind.explanation,
            }
        )

    return routes


def _add_probes(routes: APIRouter, engine: Engine, health: Health) -> None:
    @routes.get(
        "/livez",
        summary="Is the process alive",
        responses=answer(200, {"status": "alive"}) | problems("unknown-field"),
        openapi_extra=needs("open"),
    )
    async def livez() -> Response:
        """As long as this is answered, also late, a restart helps nobody."""
        return json_response({"status": "alive"})

    @routes.get(
        "/readyz",
        summary="Can the server serve",
        responses=answer(200, {"status": "ready", "closed": {}}) | problems("not-ready", "unknown-field"),
        openapi_extra=needs("open"),
    )
    async def readyz(
        strict: Annotated[bool, Query(description="503 where any collection is closed")] = False,
    ) -> Response:
        """200 while the server can serve; names every collection that is closed, and why."""
        if health.leaving:
            raise NotReady("the server is stopping")
        closed = engine.closed()
        if strict and closed:
            raise NotReady("closed: " + "; ".join(f"{name}: {why}" for name, why in sorted(closed.items())))
        return json_response({"status": "ready", "closed": closed})
