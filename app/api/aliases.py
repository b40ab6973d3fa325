"""Aliases: names that lead to collections, switched in one step."""

from typing import Annotated

from fastapi import APIRouter, Body, Path
from pydantic import Field
from starlette.responses import Response

from app.api import examples
from app.api.collections import Strict
from app.api.encode import json_response
from app.api.ids import check_name, check_new_name, shown
from app.api.limits import NAME, NAME_SCHEMA
from app.api.openapi import answer, problems
from app.api.rights import needs
from app.api.strict_route import StrictRoute
from app.engine.errors import AliasNotFound
from app.engine.types import Engine

Alias = Annotated[str, Path(description="the alias", examples=[examples.ALIAS], json_schema_extra=NAME_SCHEMA)]


class AliasBody(Strict):
    collection: str = Field(json_schema_extra=NAME_SCHEMA)


def router(engine: Engine) -> APIRouter:
    """`/v1/aliases` and below."""
    routes = APIRouter(prefix="/v1/aliases", tags=["aliases"], route_class=StrictRoute)

    @routes.get(
        "",
        summary="List aliases",
        openapi_extra=needs("read"),
        responses=answer(200, {"aliases": [examples.ALIASED]}) | problems("unknown-field"),
    )
    async def list_aliases() -> Response:
        """Each with the collection that it leads to, by name."""
        led = engine.aliases()
        return json_response({"aliases": [{"alias": a, "collection": led[a]} for a in sorted(led)]})

    @routes.put(
        "/{alias}",
        summary="Make or switch an alias",
        openapi_extra=needs("write"),
        status_code=201,
        responses=answer(201, examples.ALIASED)
        | answer(200, examples.ALIASED, "It was there, and leads to this collection from now on")
        | problems(
            "malformed-body",
            "collection-not-found",
            "name-taken",
            "unsupported-media-type",
            "out-of-range",
            "unknown-field",
            "disk-full",
        ),
    )
    async def put_alias(
        alias: Alias,
        body: Annotated[AliasBody, Body(openapi_examples={"colours": {"value": examples.POINT}})],
    ) -> Response:
        """Works wherever a collection's name does. One transaction: each request is answered wholly by the collection
        of before or wholly by that of after, and each that begins after the answer by that of after."""
        name, collection = check_new_name(alias, "alias"), check_name(body.collection)
        made = await engine.point_alias(name, collection)
        return json_response({"alias": name, "collection": collection}, 201 if made else 200)

    @routes.delete(
        "/{alias}",
        summary="Delete an alias",
        openapi_extra=needs("write"),
        status_code=204,
        responses=answer(204, None) | problems("alias-not-found", "unknown-field"),
    )
    async def delete_alias(alias: Alias) -> Response:
        """The collection stays."""
        if NAME.fullmatch(alias) is None:
            raise AliasNotFound(f"there is no alias {shown(alias)}")
        await engine.remove_alias(alias)
        return Response(status_code=204)

    return routes
