"""Snapshots: taken, listed, sent and received as tar, restored, deleted."""

from typing import Annotated

from fastapi import APIRouter, Body, Path
from pydantic import Field
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from app.api import examples
from app.api.collections import Strict
from app.api.encode import json_response
from app.api.ids import check_name, check_new_name, shown
from app.api.limits import NAME, NAME_SCHEMA, SNAPSHOT_COLLECTIONS_MAX
from app.api.openapi import Json, Responses, answer, problems
from app.api.refusals import UnsupportedMediaType
from app.api.rights import needs
from app.api.strict_route import StrictRoute
from app.engine.errors import SnapshotNotFound
from app.engine.types import Engine

TAR = "application/x-tar"
TAR_TYPES = ("", TAR, "application/tar", "application/octet-stream")
"""What `curl -T` sends, nothing, is taken too."""
BINARY: Json = {TAR: {"schema": {"type": "string", "format": "binary"}}}
DOWNLOADED: Responses = {200: {"description": "The tar", "content": BINARY}}
Name = Annotated[
    str, Path(description="the snapshot's name", examples=[examples.SNAPSHOT], json_schema_extra=NAME_SCHEMA)
]
NewName = Annotated[str, Field(json_schema_extra=NAME_SCHEMA)]
Names = Annotated[list[NewName], Field(min_length=1, max_length=SNAPSHOT_COLLECTIONS_MAX)]


class TakeBody(Strict):
    name: NewName
    collections: Names | None = Field(default=None, description="names or aliases; left out: all collections")


class RestoreBody(Strict):
    as_: NewName | None = Field(default=None, alias="as", description="the new name, of one collection alone")
    replace: bool = Field(default=False, description="take the place of a collection of that name")
    collections: Names | None = Field(default=None, description="of the snapshot; left out: all of it")


def router(engine: Engine) -> APIRouter:
    """`/v1/snapshots` and below."""
    routes = APIRouter(prefix="/v1/snapshots", tags=["snapshots"], route_class=StrictRoute)
    _add_taking(routes, engine)
    _add_tar(routes, engine)  # before the names, which its path would match too
    _add_showing(routes, engine)
    _add_restoring(routes, engine)
    return routes


def _known(name: str) -> str:
    """The name itself. Raises SnapshotNotFound: none can have been taken under another."""
    if NAME.fullmatch(name) is None:
        raise SnapshotNotFound(f"there is no snapshot {shown(name)}")
    return name


def _add_taking(routes: APIRouter, engine: Engine) -> None:
    @routes.get(
        "",
        summary="List snapshots",
        openapi_extra=needs("read"),
        responses=answer(200, {"snapshots": [examples.SNAPSHOTTED]}) | problems("unknown-field"),
    )
    async def list_snapshots() -> Response:
        """Each as it is described alone."""
        return json_response({"snapshots": await engine.snapshots.all()})

    @routes.post(
        "",
        summary="Take a snapshot",
        openapi_extra=needs("write"),
        status_code=201,
        responses=answer(201, examples.SNAPSHOTTED)
        | problems(
            "malformed-body",
            "collection-not-found",
            "name-taken",
            "unsupported-media-type",
            "out-of-range",
            "unknown-field",
            "collection-closed",
            "disk-full",
        ),
    )
    async def take_snapshot(
        body: Annotated[TakeBody, Body(openapi_examples={"colours": {"value": examples.TAKE}})],
    ) -> Response:
        """All collections as they stand at one moment, while reading and writing go on: what was acknowledged before
        the request is in it. On the same disk, by hard links: it is no backup until it has been downloaded."""
        name = check_new_name(body.name, "name")
        wanted = None if body.collections is None else [check_name(collection) for collection in body.collections]
        return json_response(await engine.take_snapshot(name, wanted), 201)


def _add_tar(routes: APIRouter, engine: Engine) -> None:
    @routes.get(
        "/{snapshot}.tar",
        summary="Download a snapshot",
        openapi_extra=needs("read"),
        response_class=StreamingResponse,
        responses=DOWNLOADED | problems("snapshot-not-found", "bad-snapshot", "unknown-field"),
    )
    async def download_snapshot(snapshot: Name) -> Response:
        """A plain tar, always the same for the same snapshot: `tar x` makes a data folder of it."""
        length, chunks = await engine.snapshots.download(_known(snapshot))
        headers = {
            "content-length": str(length),
            "content-disposition": f'attachment; filename="{snapshot}.tar"',
        }
        return StreamingResponse(chunks, headers=headers, media_type=TAR)

    @routes.put(
        "/{snapshot}.tar",
        summary="Upload a snapshot",
        status_code=201,
        openapi_extra={**needs("write"), "requestBody": {"required": True, "content": BINARY}},
        responses=answer(201, examples.SNAPSHOTTED)
        | problems(
            "name-taken",
            "unsupported-media-type",
            "out-of-range",
            "bad-snapshot",
            "unknown-field",
            "disk-full",
        ),
    )
    async def upload_snapshot(snapshot: Name, request: Request) -> Response:
        """As it was downloaded (`curl -T`). It is verified whole, and opened in a process of its own, before it
        appears; indexes in it are not taken over but built anew when it is restored."""
        name = check_new_name(snapshot, "snapshot")
        media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media not in TAR_TYPES or "content-encoding" in request.headers:
            raise UnsupportedMediaType(f"send the tar as it is, as {TAR} and without Content-Encoding")
        try:
            return json_response(await engine.snapshots.upload(name, request.stream()), 201)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is there to read it


def _add_showing(routes: APIRouter, engine: Engine) -> None:
    @routes.get(
        "/{snapshot}",
        summary="Describe a snapshot",
        openapi_extra=needs("read"),
        responses=answer(200, examples.SNAPSHOTTED) | problems("snapshot-not-found", "unknown-field"),
    )
    async def get_snapshot(snapshot: Name) -> Response:
        """`bytes` counts every file once; those that a collection still has take no room of their own."""
        return json_response(await engine.snapshots.describe(_known(snapshot)))

    @routes.delete(
        "/{snapshot}",
        summary="Delete a snapshot",
        openapi_extra=needs("write"),
        status_code=204,
        responses=answer(204, None) | problems("snapshot-not-found", "unknown-field"),
    )
    async def delete_snapshot(snapshot: Name) -> Response:
        """And all that it alone still held; what was restored from it stays."""
        await engine.snapshots.delete(_known(snapshot))
        return Response(status_code=204)


def _add_restoring(routes: APIRouter, engine: Engine) -> None:
    @routes.post(
        "/{snapshot}/restore",
        summary="Restore from a snapshot",
        openapi_extra=needs("write"),
        status_code=202,
        responses=answer(202, examples.RESTORED, "The collections are served; what has no index gets one")
        | problems(
            "malformed-body",
            "snapshot-not-found",
            "name-taken",
            "unsupported-media-type",
            "invalid-request",
            "bad-snapshot",
            "unknown-field",
            "disk-full",
        ),
    )
    async def restore_snapshot(
        snapshot: Name,
        body: Annotated[RestoreBody, Body(openapi_examples={"again": {"value": examples.RESTORE}})],
    ) -> Response:
        """Every byte is verified before anything is changed (about a second for a gigabyte); then one transaction names
        all of the collections, and with `replace` what they take the place of goes. The snapshot stays."""
        as_ = None if body.as_ is None else check_new_name(body.as_, "as")
        answered = await engine.snapshots.restore(_known(snapshot), body.collections, as_, body.replace)
        return json_response(answered, 202)
