"""Add, upsert, patch and delete."""

import xxhash
from msgspec import UNSET, Raw
from msgspec.json import Decoder
from starlette.responses import Response

from app.api import examples
from app.api.bodies import JSON, off_loop_if_large
from app.api.encode import json_response
from app.api.filter_in import EVERYTHING, filter_in
from app.api.ids import check_id_count, check_ids, shown
from app.api.json_in import decode
from app.api.limits import IDEMPOTENCY_KEY
from app.api.metadata_in import compact
from app.api.refusals import InvalidMetadata, one
from app.api.resource import Call, Operation, Resource
from app.api.rows_in import decoder
from app.api.schemas import DeleteBody, PatchBody, PatchManyBody, WriteBody, WriteQuery
from app.api.sparse_in import rows
from app.engine.errors import IdNotFound, Invalid
from app.engine.types import CollectionSettings, Engine, Id, Idempotency, Rows, Vectors, Written
from seedvec.filters.ast import Filter

_PATCH = Decoder(PatchBody)
_DELETE = Decoder(DeleteBody)
_PATCH_MANY = Decoder(PatchManyBody)

_WRITE_EXAMPLES = {
    "items": examples.ADD,
    "columns": examples.ADD_COLUMNS,
    "ids assigned": examples.ADD_WITHOUT_IDS,
}
_WRITE_PROBLEMS = (
    "malformed-body",
    "collection-not-found",
    "too-large",
    "unsupported-media-type",
    "dimension-mismatch",
    "not-finite",
    "zero-vector",
    "id-type-mismatch",
    "invalid-metadata",
    "out-of-range",
    "unknown-field",
    "invalid-request",
    "too-many-pending",
    "collection-closed",
    "outcome-unknown",
    "disk-full",
)


def resources(engine: Engine) -> list[Resource]:
    """The routes that write; those of one item share theirs with reading (`reads.resources`)."""
    return [
        Resource(engine, "/v1/collections/{collection}/vectors/delete", [DELETE_MANY]),
        Resource(engine, "/v1/collections/{collection}/vectors/patch", [PATCH_MANY]),
    ]


async def add(call: Call) -> Response:
    rows, idempotency = await _rows(call)
    return _written(await call.engine.add(call.name, rows, idempotency), 201)


async def upsert(call: Call) -> Response:
    rows, _ = await _rows(call)
    return _written(await call.engine.upsert(call.name, rows), 200)


async def patch(call: Call) -> Response:
    call.no_query()
    settings = call.settings()
    id = call.id()
    _, body = await call.body()
    metadata, vector = await off_loop_if_large(len(body), lambda: _parse_patch(body, settings))
    await call.engine.patch(call.name, id, metadata, vector)
    return json_response({"count": 1})


def _parse_patch(body: bytes | bytearray, settings: CollectionSettings) -> tuple[bytes | None, Vectors | None]:
    """The merge patch and the new vector, each None where it is not given. Raises Malformed and Invalid's family."""
    given = decode(_PATCH, body)
    if given.metadata is UNSET and given.vector is UNSET:
        raise one(Invalid, "metadata", "missing: give metadata, vector or both")
    metadata = None if given.metadata is UNSET else _merge_patch(given.metadata)
    vector = None if given.vector is UNSET else rows([given.vector], settings, "vector")
    return metadata, vector


def _merge_patch(raw: Raw) -> bytes:
    metadata = compact(raw, "metadata")
    if metadata is None:
        raise one(InvalidMetadata, "metadata", "must be an object (a null inside it removes a field), not null")
    return metadata


async def delete_one(call: Call) -> Response:
    call.no_query()
    id = call.id()
    if not await call.engine.delete(call.name, [id]):
        raise IdNotFound(f"there is no item {shown(id) if isinstance(id, str) else id}")
    return Response(status_code=204)


async def delete_many(call: Call) -> Response:
    call.no_query()
    settings = call.settings()
    _, body = await call.body()

    def parse() -> tuple[DeleteBody, Chosen]:
        given = decode(_DELETE, body)
        return given, _chosen(given, settings)

    given, chosen = await off_loop_if_large(len(body), parse)
    idempotency = await _idempotency(call, body)
    if chosen is None:
        count = await call.engine.delete_all(call.name, given.dry_run, idempotency)
    elif isinstance(chosen, Filter):
        count = await call.engine.delete_where(call.name, chosen, given.dry_run, idempotency)
    else:
        count = await call.engine.delete(call.name, chosen, given.dry_run, idempotency)
    return json_response({"deleted": count})


async def patch_many(call: Call) -> Response:
    call.no_query()
    settings = call.settings()
    _, body = await call.body()

    def parse() -> tuple[PatchManyBody, Chosen, bytes]:
        given = decode(_PATCH_MANY, body)
        return given, _chosen(given, settings), _merge_patch(given.metadata)

    given, chosen, metadata = await off_loop_if_large(len(body), parse)
    idempotency = await _idempotency(call, body)
    ids, wanted = (chosen, None) if isinstance(chosen, list) else (None, chosen or EVERYTHING)
    count = await call.engine.patch_many(call.name, ids, wanted, metadata, given.dry_run, idempotency)
    return json_response({"patched": count})


Chosen = list[Id] | Filter | None
"""The items of a bulk operation: by id, by filter, or all (None)."""


def _chosen(given: DeleteBody | PatchManyBody, settings: CollectionSettings) -> Chosen:
    """Raises Invalid's family; a filter that every item matches wants to be confirmed, however it is written."""
    if (given.ids is UNSET) == (given.filter is UNSET):
        raise one(Invalid, "ids", "give exactly one of ids and filter")
    if given.ids is not UNSET:
        if given.all:
            raise one(Invalid, "all", "goes with an empty filter, not with ids")
        check_id_count(len(given.ids))
        check_ids(given.ids, settings.id_type, "ids[{}]")
        return given.ids
    wanted = filter_in(given.filter)
    if wanted is None and not given.all:
        raise one(Invalid, "filter", 'every item matches this filter: add "all": true where that is meant')
    if wanted is not None and given.all:
        raise one(Invalid, "all", "goes with an empty filter, not with one that chooses")
    return wanted


async def _rows(call: Call) -> tuple[Rows, Idempotency | None]:
    query = call.query(WriteQuery)
    settings = call.settings()
    media, body = await call.body(npy=True)
    idempotency = await _idempotency(call, body)
    rows = await off_loop_if_large(len(body), decoder(media, body, query.first_id, settings))
    return rows, idempotency


async def _idempotency(call: Call, body: bytes | bytearray) -> Idempotency | None:
    key = call.header(b"idempotency-key")
    if key is None or call.scope["method"] != "POST":
        return None
    if IDEMPOTENCY_KEY.fullmatch(key) is None:
        raise one(Invalid, "Idempotency-Key", "must be 1 to 255 printable ASCII characters without spaces")

    def digest() -> str:
        hasher = xxhash.xxh3_64()
        scope = call.scope
        # NUL stands in none of the parts before the body, so that no two requests run together to the same text.
        content_type = (call.header(b"content-type") or JSON).encode("latin-1")
        for part in (scope["method"].encode("ascii"), scope["path"].encode(), scope["query_string"], content_type):
            hasher.update(part + b"\0")
        hasher.update(body)
        return hasher.hexdigest()

    return Idempotency(key, await off_loop_if_large(len(body), digest))


def _written(written: Written, status: int) -> Response:
    value: dict[str, object] = {"count": written.count}
    if written.first_id is not None:
        value["first_id"] = written.first_id
    return json_response(value, status)


ADD = Operation(
    "POST",
    "add",
    "Add vectors",
    add,
    201,
    {"count": 3},
    (*_WRITE_PROBLEMS, "id-exists", "idempotency-mismatch"),
    WriteBody,
    _WRITE_EXAMPLES,
    npy=True,
    query=WriteQuery,
    description="Ids may be left out: the server assigns them and answers `first_id`, the first of the run. An id "
    "that exists, or stands twice in the body, refuses the whole request. An `Idempotency-Key` makes it safe to "
    "repeat for 24 hours. `application/x-npy` is one n×d matrix, its ids from `?first_id=` or assigned. In a sparse "
    "collection a vector is `{indices, values}`, values left out are ones, and there is no `.npy`.",
)
UPSERT = Operation(
    "PUT",
    "upsert",
    "Add or replace vectors",
    upsert,
    200,
    {"count": 1},
    _WRITE_PROBLEMS,
    WriteBody,
    {"replace": examples.UPSERT},
    npy=True,
    query=WriteQuery,
    description="Vector and metadata are replaced; metadata that is left out is cleared. Of an id twice in one body "
    "the last wins.",
)
PATCH = Operation(
    "PATCH",
    "patch_item",
    "Change an item",
    patch,
    200,
    {"count": 1},
    (*_WRITE_PROBLEMS, "id-not-found"),
    PatchBody,
    {"merge": examples.PATCH},
    description="`metadata` is merged by RFC 7396 (null removes a field); `vector` is replaced, metadata kept.",
)
DELETE_ONE = Operation(
    "DELETE",
    "delete_item",
    "Delete an item",
    delete_one,
    204,
    None,
    ("collection-not-found", "id-not-found", "id-type-mismatch", "unknown-field", "collection-closed"),
    description="404 where it is not there; to who sends it again that says that it is gone.",
)
DELETE_MANY = Operation(
    "POST",
    "delete",
    "Delete items",
    delete_many,
    200,
    {"deleted": 2},
    (
        "malformed-body",
        "collection-not-found",
        "too-large",
        "unsupported-media-type",
        "id-type-mismatch",
        "out-of-range",
        "invalid-filter",
        "unknown-field",
        "invalid-request",
        "idempotency-mismatch",
        "too-many-pending",
        "collection-closed",
        "outcome-unknown",
        "disk-full",
    ),
    DeleteBody,
    {
        "by id": examples.DELETE,
        "by filter": examples.DELETE_MATCHING,
        "everything, counted only": examples.DELETE_ALL,
    },
    description="By ids, of which those that are not there are passed over, or by a filter on metadata, all in one "
    "transaction. A filter that every item matches wants `all` besides. `dry_run` counts only.",
)
PATCH_MANY = Operation(
    "POST",
    "patch",
    "Change items' metadata",
    patch_many,
    200,
    {"patched": 1},
    (
        "malformed-body",
        "collection-not-found",
        "too-large",
        "unsupported-media-type",
        "id-type-mismatch",
        "invalid-metadata",
        "out-of-range",
        "invalid-filter",
        "unknown-field",
        "invalid-request",
        "idempotency-mismatch",
        "too-many-pending",
        "collection-closed",
        "outcome-unknown",
        "disk-full",
    ),
    PatchManyBody,
    {"by id": examples.PATCH_IDS, "by filter": examples.PATCH_MATCHING},
    description="`metadata` is merged into that of every item by RFC 7396 (null removes a field). The items are chosen "
    "as in delete: by ids, of which those that are not there are passed over, or by a filter. `dry_run` counts only.",
)
