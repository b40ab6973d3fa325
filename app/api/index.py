"""The index of a collection: build it anew, or stop a build."""

from typing import Annotated

from fastapi import APIRouter, Body
from starlette.responses import Response

from app.api import examples
from app.api.collections import IndexBody, Name
from app.api.encode import json_response
from app.api.ids import check_name
from app.api.openapi import answer, problems
from app.api.strict_route import StrictRoute
from app.engine.types import Engine


def router(engine: Engine) -> APIRouter:
    """`/v1/collections/{collection}/index`."""
    routes = APIRouter(prefix="/v1/collections/{collection}/index", tags=["index"], route_class=StrictRoute)

    @routes.put(
        "",
        summary="Build the index anew",
        status_code=202,
        responses=answer(202, examples.DESCRIBED, "The build will start; GET the collection for its progress")
        | problems(
            "malformed-body",
            "collection-not-found",
            "unsupported-media-type",
            "out-of-range",
            "unknown-field",
            "insufficient-memory",
        ),
    )
    async def rebuild_index(
        collection: Name,
        body: Annotated[IndexBody, Body(openapi_examples={"hnsw": {"value": examples.INDEX}})],
    ) -> Response:
        """In the background, while the old index serves. `{}` builds again what the collection has."""
        name = check_name(collection)
        spec = body.spec() if body.model_fields_set else engine.settings(name).index
        await engine.rebuild_index(name, spec)
        return json_response(await engine.describe(name), 202)

    @routes.delete(
        "/build",
        summary="Cancel a build",
        status_code=204,
        responses=answer(204, None) | problems("collection-not-found", "unknown-field"),
    )
    async def cancel_build(collection: Name) -> Response:
        """The index that serves stays as it is. No build under way is no error."""
        await engine.cancel_build(check_name(collection))
        return Response(status_code=204)

    return routes
