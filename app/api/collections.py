"""Collections: list, create, describe, change, drop."""

from dataclasses import replace
from typing import Annotated, Literal

from fastapi import APIRouter, Body, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from app.api import examples
from app.api.encode import json_response
from app.api.ids import check_name, check_new_name
from app.api.limits import DIMENSION_MIN, NAME_SCHEMA, RECALL_MAX, RECALL_MIN, WAIT_S_DEFAULT, WAIT_S_MAX
from app.api.openapi import answer, problems
from app.api.rights import key_of, needs
from app.api.strict_route import StrictRoute
from app.engine.errors import Refused
from app.engine.types import (
    DEFAULT_RECALL,
    DIMENSION_MAX,
    SPARSE_DIMENSION_MAX,
    CollectionSettings,
    Dtype,
    Engine,
    IdType,
    IndexKind,
    IndexSpec,
    Metric,
)

Name = Annotated[
    str, Path(description="the collection's name", examples=[examples.COLLECTION], json_schema_extra=NAME_SCHEMA)
]
Recall = Annotated[float, Field(ge=RECALL_MIN, le=RECALL_MAX, allow_inf_nan=False)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class IndexBody(Strict):
    """The index a collection wants. Parameters that are not given are chosen for the data."""

    kind: IndexKind = "auto"
    m: int | None = Field(default=None, description="hnsw: links of a vector")
    ef_construction: int | None = Field(default=None, description="hnsw: breadth of the search while building")
    nlist: int | None = Field(default=None, description="ivf: number of lists")
    pq_m: int | None = Field(default=None, description="ivf: sub-quantisers of a vector's code")

    def spec(self) -> IndexSpec:
        """Ranges, and which parameter belongs to which kind, are the engine's to check."""
        return IndexSpec(self.kind, self.model_dump(exclude={"kind"}, exclude_none=True))


class CreateBody(Strict):
    dimension: int = Field(
        ge=DIMENSION_MIN, le=SPARSE_DIMENSION_MAX, description=f"up to {DIMENSION_MAX}, more where it is sparse"
    )
    sparse: bool = Field(
        default=False,
        description="vectors are `{indices, values}`, stored so and searched exactly, by cosine or dot, without index",
    )
    metric: Metric = "cosine"
    dtype: Dtype = "float32"
    id_type: IdType = "auto"
    index: IndexBody = IndexBody()
    recall: Recall = DEFAULT_RECALL


class ChangeBody(Strict):
    recall: Recall


def _wanted(engine: Engine, name: str, body: CreateBody) -> CollectionSettings:
    """What is given, over what the collection has: a field left out differs from nothing, also after a change."""
    given = {field: getattr(body, field) for field in body.model_fields_set - {"index"}}
    if "index" in body.model_fields_set:
        given["index"] = body.index.spec()
    try:
        base = engine.settings(name)
    except Refused:
        base = CollectionSettings(body.dimension)
    return replace(base, **given)


def router(engine: Engine) -> APIRouter:
    """`/v1/collections` and below, but for what is in a collection."""
    routes = APIRouter(prefix="/v1/collections", tags=["collections"], route_class=StrictRoute)
    _add_listing(routes, engine)
    _add_creating(routes, engine)
    _add_describing(routes, engine)
    return routes


def _add_listing(routes: APIRouter, engine: Engine) -> None:
    @routes.get(
        "",
        summary="List collections",
        responses=answer(200, {"collections": [examples.COLLECTION]}) | problems("unknown-field"),
        openapi_extra=needs("any"),
    )
    async def list_collections(request: Request) -> Response:
        """Those that the key reaches."""
        key = key_of(request.scope)
        return json_response({"collections": sorted(name for name in engine.names() if key.reaches(name))})


def _add_creating(routes: APIRouter, engine: Engine) -> None:
    @routes.put(
        "/{collection}",
        summary="Create a collection",
        status_code=201,
        responses=answer(201, examples.DESCRIBED)
        | answer(200, examples.DESCRIBED, "It was there, with settings that agree")
        | problems(
            "malformed-body",
            "settings-differ",
            "unsupported-media-type",
            "invalid-request",
            "out-of-range",
            "unknown-field",
            "collection-closed",
            "disk-full",
        ),
    )
    async def create_collection(
        collection: Name,
        body: Annotated[CreateBody, Body(openapi_examples={"colours": {"value": examples.CREATE}})],
    ) -> Response:
        """Creating again with fields that agree answers 200; a field that differs 409. It never empties one."""
        name = check_new_name(collection)
        created = await engine.create(name, _wanted(engine, name, body))
        return json_response(await engine.describe(name), 201 if created else 200)

    @routes.patch(
        "/{collection}",
        summary="Change a collection's settings",
        responses=answer(200, examples.DESCRIBED)
        | problems("malformed-body", "collection-not-found", "unsupported-media-type", "invalid-request"),
    )
    async def change_collection(
        collection: Name,
        body: Annotated[ChangeBody, Body(openapi_examples={"recall": {"value": examples.RECALL}})],
    ) -> Response:
        """The recall that searches aim at. The index is built anew only where no effort of it reaches that, and
        another would have been chosen for it."""
        name = check_name(collection)
        await engine.set_recall(name, body.recall)
        return json_response(await engine.describe(name))


def _add_describing(routes: APIRouter, engine: Engine) -> None:
    @routes.get(
        "/{collection}",
        summary="Describe a collection",
        responses=answer(200, examples.DESCRIBED) | problems("collection-not-found", "invalid-request"),
        openapi_extra=needs("read"),
    )
    async def get_collection(
        collection: Name,
        wait: Annotated[Literal["ready"] | None, Query(description="answer when the index is ready")] = None,
        timeout_s: Annotated[
            float, Query(ge=0, le=WAIT_S_MAX, allow_inf_nan=False, description="of `wait`: answer then, ready or not")
        ] = WAIT_S_DEFAULT,
    ) -> Response:
        """Settings, counts and the state of the index."""
        name = check_name(collection)
        if wait is None:
            return json_response(await engine.describe(name))
        return json_response(await engine.wait_ready(name, timeout_s))

    @routes.delete(
        "/{collection}",
        summary="Drop a collection",
        status_code=204,
        responses=answer(204, None) | problems("collection-not-found", "collection-aliased", "unknown-field"),
    )
    async def drop_collection(collection: Name) -> Response:
        """With all that it holds; refused while aliases lead to it."""
        await engine.drop(check_name(collection))
        return Response(status_code=204)
