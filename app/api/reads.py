"""Fetch one and many, and walk a collection."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from msgspec.json import Decoder
from starlette.responses import Response

from app.api import examples, limits, writes
from app.api.bodies import NPY, off_loop_if_large
from app.api.encode import items_value, json_response, npy_response
from app.api.filter_in import EVERYTHING, filter_in
from app.api.ids import check_id_count, check_ids, shown
from app.api.json_in import decode
from app.api.refusals import at_most, one
from app.api.resource import Call, Operation, Resource
from app.api.schemas import CountBody, FetchBody, ListBody, ListQuery
from app.api.seen import note
from app.engine.errors import IdNotFound, Invalid
from app.engine.types import Engine, Items
from seedvec.filters.ast import Filter
from seedvec.sparse import SparseRows

T = TypeVar("T")
B = TypeVar("B", ListBody, CountBody)

_FETCH = Decoder(FetchBody)
_LIST = Decoder(ListBody)
_COUNT = Decoder(CountBody)
_NUMBERS_INLINE = 100_000
"""Vector components (or 100 items) that are printed on the event loop: about a millisecond."""
_ITEMS_INLINE = 1_000


def resources(engine: Engine) -> list[Resource]:
    """`{id}` comes last: it may hold slashes, and `fetch`, `list` and `delete` are its neighbours."""
    return [
        Resource(engine, "/v1/collections/{collection}/vectors/fetch", [FETCH]),
        Resource(engine, "/v1/collections/{collection}/vectors", [writes.ADD, writes.UPSERT, LIST_QUERY]),
        Resource(engine, "/v1/collections/{collection}/vectors/list", [LIST_BODY]),
        Resource(engine, "/v1/collections/{collection}/count", [COUNT]),
        *writes.resources(engine),
        Resource(engine, "/v1/collections/{collection}/vectors/{id}", [GET_ONE, writes.PATCH, writes.DELETE_ONE]),
    ]


async def get_one(call: Call) -> Response:
    call.no_query()
    id = call.id()
    bare = call.accepts(NPY)
    include = frozenset({"vector"}) if bare else frozenset({"vector", "metadata"})
    items, missing = await call.engine.fetch(call.name, [id], include)
    if missing:
        raise IdNotFound(f"there is no item {shown(id) if isinstance(id, str) else id}")
    if bare and items.vectors is not None:
        if isinstance(items.vectors, SparseRows):
            raise one(Invalid, "Accept", f"{NPY} holds dense arrays, the collection is sparse: ask for JSON")
        return npy_response(items.vectors[0])
    return json_response(items_value(items)[0])


async def fetch(call: Call) -> Response:
    call.no_query()
    settings = call.settings()
    _, body = await call.body()
    given = await off_loop_if_large(len(body), lambda: decode(_FETCH, body))
    check_id_count(len(given.ids))
    check_ids(given.ids, settings.id_type, "ids[{}]")
    items, missing = await call.engine.fetch(call.name, given.ids, frozenset(given.include))
    return await _large(items, lambda: json_response({"items": items_value(items), "missing": missing}))


async def list_query(call: Call) -> Response:
    query = call.query(ListQuery)
    return await _list(call, query, filter_in(query.filter))


async def list_body(call: Call) -> Response:
    call.no_query()
    call.settings()
    _, body = await call.body()
    given, wanted = await off_loop_if_large(len(body), lambda: _with_filter(_LIST, body))
    return await _list(call, given, wanted)


async def count(call: Call) -> Response:
    call.no_query()
    call.settings()
    _, body = await call.body()
    _, wanted = await off_loop_if_large(len(body), lambda: _with_filter(_COUNT, body))
    note(call.scope, call.name, wanted)
    return json_response({"count": await call.engine.count(call.name, wanted or EVERYTHING)})


def _with_filter(decoder: Decoder[B], body: bytes | bytearray) -> tuple[B, Filter | None]:
    """A body and its filter. Raises Malformed and Invalid's family."""
    given = decode(decoder, body)
    return given, filter_in(given.filter)


async def _list(call: Call, given: ListBody | ListQuery, wanted: Filter | None) -> Response:
    at_most("limit", given.limit, limits.current.list_max)
    note(call.scope, call.name, wanted, limit=given.limit)
    page = await call.engine.list(call.name, given.limit, given.cursor, frozenset(given.include), wanted)
    return await _large(page.items, lambda: json_response({"items": items_value(page.items), "next": page.next}))


async def _large(items: Items, build: Callable[[], Response]) -> Response:
    numbers = 0 if items.vectors is None else items.vectors.size
    if len(items.ids) > _ITEMS_INLINE or numbers > _NUMBERS_INLINE:
        return await asyncio.to_thread(build)
    return build()


_PROBLEMS = ("collection-not-found", "id-type-mismatch", "out-of-range", "unknown-field", "collection-closed")
_BODY_PROBLEMS = (*_PROBLEMS, "malformed-body", "too-large", "unsupported-media-type", "invalid-request")

GET_ONE = Operation(
    "GET",
    "get_item",
    "Get an item",
    get_one,
    200,
    examples.ITEM,
    (*_PROBLEMS, "id-not-found"),
    answers=(NPY,),
    description="The id is taken from the raw path and percent-decoded once: `a/b` and `a%2Fb` are the same id. With "
    "`Accept: application/x-npy` the bare vector in the collection's dtype.",
    rights="read",
)
FETCH = Operation(
    "POST",
    "fetch",
    "Get many items",
    fetch,
    200,
    examples.FETCHED,
    _BODY_PROBLEMS,
    FetchBody,
    {"two ids": examples.FETCH},
    description="Items in the order asked; `missing` names the ids that are not there.",
    rights="read",
)
LIST_QUERY = Operation(
    "GET",
    "list",
    "Walk a collection",
    list_query,
    200,
    examples.LISTED,
    (*_PROBLEMS, "invalid-request", "invalid-filter"),
    query=ListQuery,
    description="In key order. An item that is not touched meanwhile appears exactly once; an upserted one may appear "
    "again. `next` is the cursor of the next page, null after the last.",
    rights="read",
)
LIST_BODY = Operation(
    "POST",
    "list_body",
    "Walk a collection (parameters in the body)",
    list_body,
    200,
    examples.LISTED,
    (*_BODY_PROBLEMS, "invalid-filter"),
    ListBody,
    {"first page": examples.LIST, "what matches": examples.LIST_MATCHING},
    description="As with `GET`; for filters that are too long for a URL.",
    rights="read",
)
COUNT = Operation(
    "POST",
    "count",
    "Count items",
    count,
    200,
    {"count": 1},
    (*_BODY_PROBLEMS, "invalid-filter"),
    CountBody,
    {"what matches": examples.COUNT, "all": {}},
    description="Items whose metadata matches the filter; all where none is given.",
    rights="read",
)
