"""Whole files in and out, one collection into another, and cutting one short."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal

import orjson
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.json import Decoder
from starlette.responses import Response

from app.api import examples
from app.api.encode import json_response
from app.api.ids import check_name
from app.api.json_in import decode
from app.api.limits import NAME_SCHEMA
from app.api.problems import problem_json, request_id
from app.api.resource import Call, Operation, Resource
from app.api.rights import require
from app.api.streamed import StreamedResponse
from app.api.transfer_in import TAR, ImportQuery, body_size, idempotency, import_asked, uploads
from app.engine.errors import Refused
from app.engine.types import Engine, ExportAsked

NDJSON = "application/x-ndjson"
BINARY = "application/octet-stream"
Events = AsyncGenerator[dict[str, Any], None]


class ExportQuery(Struct, forbid_unknown_fields=True):
    """What file is wanted."""

    format: Annotated[str, Meta(description="`npy`, `npz`, `hdf5`, …")] = "npy"
    compression: Annotated[str, Meta(description="one that the format offers; default: none")] | UnsetType = UNSET
    sidecars: Annotated[
        Literal[0, 1], Meta(description="0: without ids and metadata where the format cannot hold them")
    ] = 1


class CopyBody(Struct, forbid_unknown_fields=True, rename={"source": "from"}):
    """All items of another collection, as they stand now, with their ids and metadata."""

    source: Annotated[str, Meta(extra_json_schema=NAME_SCHEMA)]
    mode: Literal["add", "upsert"] = "add"


class TruncateBody(Struct, forbid_unknown_fields=True):
    """How many items are kept: the first in the order in which they were stored."""

    rows: Annotated[int, Meta(ge=0)]


_COPY = Decoder(CopyBody)
_TRUNCATE = Decoder(TruncateBody)


def resources(engine: Engine) -> list[Resource]:
    path = "/v1/collections/{collection}"
    return [
        Resource(engine, f"{path}/import", [IMPORT]),
        Resource(engine, f"{path}/export", [EXPORT]),
        Resource(engine, f"{path}/copy", [COPY]),
        Resource(engine, f"{path}/truncate", [TRUNCATE]),
    ]


async def import_file(call: Call) -> Response:
    asked = import_asked(call)
    return await _told(call, call.engine.import_file(call.name, asked, uploads(call), body_size(call)))


async def copy(call: Call) -> Response:
    call.no_query()
    call.settings()
    _, body = await call.body()
    given = decode(_COPY, body)
    source = check_name(given.source)
    require(call.scope, "read", source)
    once = idempotency(call, bytes(body))
    return await _told(call, call.engine.copy(call.name, source, given.mode, once))


async def _told(call: Call, events: Events) -> Response:
    """The answer alone, or a line for each thing that is told on the way to it."""
    if not call.accepts(NDJSON):
        answer: dict[str, Any] = {}
        async with aclosing(events):
            async for event in events:
                answer = event
        return json_response(answer, 201)
    try:
        first = await anext(events)  # what is refused before has a status of its own
    except BaseException:
        await events.aclose()
        raise
    return StreamedResponse(_lines(first, events, request_id(call.scope)), 201, NDJSON)


async def _lines(first: dict[str, Any], events: Events, instance: str) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        yield orjson.dumps(first) + b"\n"
        try:
            async for event in events:
                yield orjson.dumps(event) + b"\n"
        except Refused as e:
            yield problem_json(e, instance) + b"\n"


async def export(call: Call) -> Response:
    query = call.query(ExportQuery)
    call.settings()
    compression = None if query.compression is UNSET else query.compression
    asked = ExportAsked(query.format, compression, bool(query.sidecars))
    exported = await call.engine.export(call.name, asked)
    headers = {"content-disposition": f'attachment; filename="{exported.name}"'}
    if exported.size is not None:
        headers["content-length"] = str(exported.size)
    return StreamedResponse(exported.chunks, 200, TAR if exported.name.endswith(".tar") else BINARY, headers)


async def truncate(call: Call) -> Response:
    call.no_query()
    call.settings()
    _, body = await call.body()
    return json_response({"deleted": await call.engine.truncate(call.name, decode(_TRUNCATE, body).rows)})


_PROBLEMS = (
    "malformed-body",
    "collection-not-found",
    "id-exists",
    "conflict",
    "unsupported-media-type",
    "bad-file",
    "dimension-mismatch",
    "not-finite",
    "zero-vector",
    "id-type-mismatch",
    "invalid-metadata",
    "out-of-range",
    "unknown-field",
    "invalid-request",
    "idempotency-mismatch",
    "collection-closed",
    "outcome-unknown",
    "disk-full",
)
IMPORT = Operation(
    "POST",
    "import",
    "Import a file",
    import_file,
    201,
    examples.IMPORTED,
    _PROBLEMS,
    query=ImportQuery,
    files=True,
    answers=(NDJSON,),
    description="The body is one file (`curl -X POST -T emb.npy`), or several parts (`-F vectors=@emb.npy -F "
    "ids=@ids.npy -F metadata=@meta.jsonl`; several `vectors` are joined), or a tar of a folder "
    "(`Content-Type: application/x-tar`), without limit of size. It is read and checked whole, and its rows then "
    "appear all at once (with `mode=upsert`, which replaces, some 50,000 at a time); a file with anything wrong in it "
    "imports nothing. A collection that does not exist is made: dimension and id type from the file, float16 kept, "
    "everything else as float32, cosine. With `Accept: application/x-ndjson` the answer is a line for each step, "
    '`{"rows", "of"}`, and a last one: this answer, or the problem. An `Idempotency-Key` makes it safe to send again.',
    tag="files",
)
EXPORT = Operation(
    "GET",
    "export",
    "Export a collection as a file",
    export,
    200,
    None,
    ("collection-not-found", "unknown-field", "invalid-request", "bad-file", "collection-closed", "disk-full"),
    query=ExportQuery,
    answers=(BINARY, TAR),
    description="All items as they stand now, in the order in which they were stored, streamed in constant memory. "
    "What the format cannot hold (`npy`: ids and metadata) comes in files beside it, all in one tar; so does a format "
    "that is a folder. `sidecars=0` leaves these files out.",
    tag="files",
    rights="read",
)
COPY = Operation(
    "POST",
    "copy",
    "Copy another collection's items into this one",
    copy,
    201,
    examples.IMPORTED,
    _PROBLEMS,
    CopyBody,
    {"extend": examples.COPY},
    answers=(NDJSON,),
    description="On the server, with ids and metadata, as they stand now, all or nothing. An id that exists here "
    "refuses the copy, unless `mode` is `upsert`. An `Idempotency-Key` makes it safe to send again.",
    tag="files",
)
TRUNCATE = Operation(
    "POST",
    "truncate",
    "Keep only the first items",
    truncate,
    200,
    {"deleted": 0},
    (
        "malformed-body",
        "collection-not-found",
        "unsupported-media-type",
        "out-of-range",
        "unknown-field",
        "invalid-request",
        "too-many-pending",
        "collection-closed",
        "outcome-unknown",
        "disk-full",
    ),
    TruncateBody,
    {"keep a thousand": {"rows": 1000}},
    description="In the order in which they were stored (an item that was replaced counts from then). The others are "
    "deleted, in one transaction.",
    tag="files",
)
