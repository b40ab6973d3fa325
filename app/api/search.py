"""Search by vector, by vectors and by id, and the neighbours of an item."""

import asyncio
import re
import time
from typing import NamedTuple

from msgspec import UNSET, UnsetType
from msgspec.json import Decoder
from starlette.responses import Response

from app.api import examples, limits, npy
from app.api.bodies import NPY, NPZ, Media, off_loop_if_large
from app.api.encode import json_response, npz_response, search_value
from app.api.filter_in import filter_in
from app.api.ids import check_ids
from app.api.json_in import decode
from app.api.params_in import params_in
from app.api.refusals import at_most, many, one
from app.api.resource import Call, Operation, Resource
from app.api.schemas import SearchBody, SearchQuery
from app.api.seen import count_search, note
from app.api.sparse_in import refuse_arrays, rows
from app.api.vectors_in import check_columns
from app.engine.errors import Fault, Invalid, OutOfRange
from app.engine.types import EXACTLY, Asked, CollectionSettings, Engine, Id, Include, SearchAnswer, Vectors

_SEARCH = Decoder(SearchBody)
_ROW = re.compile(r"vector(?:s\[(\d+)\])?")
_METADATA: Include = frozenset({"metadata"})
_NOTHING: Include = frozenset()
_HITS_INLINE = 1_000
"""Hits that are printed on the event loop: about a millisecond."""


class Search(NamedTuple):
    """A decoded search: of queries (q, d), or of a stored item.

    several: answer `results` instead of `hits`; place: how an error names query i.
    """

    queries: Vectors | None
    id: Id | None
    asked: Asked
    several: bool
    place: str = "vector"


def resources(engine: Engine) -> list[Resource]:
    return [
        Resource(engine, "/v1/collections/{collection}/search", [SEARCH]),
        Resource(engine, "/v1/collections/{collection}/neighbors/{id}", [NEIGHBORS]),
    ]


async def search(call: Call) -> Response:
    settings = call.settings()
    query = call.query(SearchQuery) if call.scope["query_string"] else None
    media, body = await call.body(npy=True)
    given = await off_loop_if_large(len(body), lambda: parse(media, body, query, settings))
    return await _answer(call, given)


async def neighbors(call: Call) -> Response:
    query = call.query(SearchQuery)
    return await _answer(call, Search(None, call.id(), _asked(query), False))


def parse(media: Media, body: bytes | bytearray, query: SearchQuery | None, settings: CollectionSettings) -> Search:
    """query: the query string, which a `.npy` body has its parameters in and a JSON body must not have.

    Raises Malformed and Invalid's family.
    """
    if media == NPY:
        return _parse_npy(body, query or SearchQuery(), settings)
    if query is not None:
        raise one(Invalid, "query", "query parameters go with .npy bodies: a JSON body holds them itself")
    given = decode(_SEARCH, body)
    if (given.vector is not UNSET) + (given.vectors is not UNSET) + (given.id is not UNSET) != 1:
        raise one(Invalid, "vector", "give exactly one of vector, vectors and id")
    if given.vector is not UNSET:
        return Search(rows((given.vector,), settings, "vector"), None, _asked(given), False)
    if given.id is not UNSET:
        check_ids([given.id], settings.id_type, "id")
        return Search(None, given.id, _asked(given), False)
    assert given.vectors is not UNSET
    _check_volume(len(given.vectors), given.k, limits.current.queries_json_max, "vectors")
    return Search(rows(given.vectors, settings, "vectors[{}]"), None, _asked(given), True, "vectors[{}]")


def _parse_npy(body: bytes | bytearray, query: SearchQuery, settings: CollectionSettings) -> Search:
    refuse_arrays(settings)
    array = npy.parse(body)
    several = array.ndim == 2
    queries = array if several else array.reshape(1, -1)
    _check_volume(len(queries), query.k, limits.current.queries_max, "shape")
    check_columns(queries.shape[1], settings.dimension)
    return Search(queries, None, _asked(query), several, "row {}")


def _check_volume(queries: int, k: int, most: int, where: str) -> None:
    if not 1 <= queries <= most:
        advice = f" (as {NPY}: {limits.current.queries_max})" if where == "vectors" else ""
        raise one(OutOfRange, where, f"has {queries} queries, 1 to {most} are taken in one request{advice}")
    if queries * k > limits.current.hits_max:
        most = limits.current.hits_max
        raise one(OutOfRange, "k", f"{queries} queries x k {k} is over the {most} hits of one request")


def _asked(given: SearchBody | SearchQuery) -> Asked:
    at_most("k", given.k, limits.current.k_max)
    return Asked(
        given.k,
        _recall(given),
        None if given.params is UNSET else params_in(given.params),
        None if isinstance(given.max_distance, UnsetType) else given.max_distance,
        _METADATA if isinstance(given.include, UnsetType) else frozenset(given.include),
        None if given.filter is UNSET else filter_in(given.filter),
        given.explain,
        time.monotonic() + (limits.current.search_timeout_s if given.timeout_ms is UNSET else given.timeout_ms / 1000),
    )


def _recall(given: SearchBody | SearchQuery) -> float | None:
    """None: as the collection promises, or as `params` find. Raises Invalid where more than one way is asked for."""
    if given.params is UNSET and not given.exact:
        return None if isinstance(given.recall, UnsetType) else given.recall
    ways = [name for name in ("recall", "exact", "params") if getattr(given, name) not in (UNSET, False)]
    if len(ways) > 1:
        faults = [Fault(way, f"goes without {' and '.join(w for w in ways if w != way)}") for way in ways]
        raise many(Invalid, faults, len(faults), "give at most one of recall, exact and params")
    return EXACTLY if given.exact else None


async def _answer(call: Call, given: Search) -> Response:
    arrays = call.accepts(NPZ)
    if arrays:
        given = given._replace(asked=_for_arrays(given.asked))
    queries = 1 if given.queries is None else len(given.queries)
    noted = note(call.scope, call.name, given.asked.filter, k=given.asked.k, queries=queries, recall=given.asked.recall)
    answer = await _find(call, given)
    noted.stages = answer.stages
    count_search(queries, answer)
    took_s = time.perf_counter() - call.started
    # Asked for after the search: a first write meanwhile may have fixed the type of the very ids that were found.
    id_type = call.settings().id_type if arrays else "auto"

    def build() -> Response:
        if arrays:
            return npz_response(answer, given.asked.k, id_type)
        return json_response(search_value(answer, given.several, took_s))

    if len(answer.hits.distances) > _HITS_INLINE:
        return await asyncio.to_thread(build)
    return build()


def _for_arrays(asked: Asked) -> Asked:
    """Metadata left out, as nobody asked for them. Raises Invalid for what arrays do not hold."""
    if asked.include and asked.include is not _METADATA:
        raise one(Invalid, "include", f"{NPZ} holds ids and distances alone: ask for JSON")
    if asked.explain:
        raise one(Invalid, "explain", f"{NPZ} holds ids and distances alone: ask for JSON")
    return asked._replace(include=_NOTHING)


async def _find(call: Call, given: Search) -> SearchAnswer:
    try:
        if given.queries is None:
            assert given.id is not None
            return await call.engine.search_id(call.name, given.id, given.asked)
        return await call.engine.search(call.name, given.queries, given.asked)
    except Invalid as refused:
        if given.place != "vector":
            _rename(refused, given.place)
        raise


def _rename(refused: Invalid, place: str) -> None:
    """The engine sees a matrix and names its rows as `vector` or `vectors[3]`; the client may have sent others."""
    named = []
    for fault in refused.faults:
        row = _ROW.fullmatch(fault.where)
        named.append(fault if row is None else Fault(place.format(row[1] or 0), fault.message))
    refused.faults = tuple(named)


_PROBLEMS = (
    "collection-not-found",
    "dimension-mismatch",
    "not-finite",
    "zero-vector",
    "id-not-found",
    "id-type-mismatch",
    "out-of-range",
    "invalid-filter",
    "unknown-field",
    "invalid-request",
    "collection-closed",
    "deadline-exceeded",
)

SEARCH = Operation(
    "POST",
    "search",
    "Find the nearest vectors",
    search,
    200,
    examples.FOUND,
    (*_PROBLEMS, "malformed-body", "too-large", "unsupported-media-type"),
    SearchBody,
    {
        "by vector": examples.SEARCH,
        "with a recall": examples.SEARCH_RECALL,
        "several, exact": examples.SEARCH_SEVERAL,
        "by id": examples.SEARCH_ID,
        "filtered, explained": examples.SEARCH_FILTERED,
    },
    npy=True,
    query=SearchQuery,
    answers=(NPZ,),
    description="Smaller distances are nearer: `l2` is Euclidean, `cosine` is 1 - cos, `dot` is the negative inner "
    "product. `vectors` answers `results`, one entry a query; so does a two-dimensional `.npy` body, whose parameters "
    "stand in the query string. With a `filter`, the nearest of the items whose metadata matches: k of them where so "
    "many match. `explain` adds how they were found. `exact` in the answer means that the hits are the true nearest. "
    "`recall` asks for a share of them, on average (default: the collection's); `exact` for all, whatever it costs; "
    "`params` for the index's own search parameters: at most one of the three. `expected_recall` is what was measured "
    "for this way of searching on queries like those of `calibrated_on`, the `data` or real `queries`; null where "
    "nothing was: under a filter, for a large k, where more than 5 % were deleted since, and for queries that lie "
    "farther from the data than those it was measured with. "
    "A sparse collection is asked by `{indices, values}`, and answers exactly. "
    "With `Accept: application/x-npz` the arrays `ids` (-1 where there are fewer) and `distances` (+inf).",
    tag="search",
    rights="read",
)
NEIGHBORS = Operation(
    "GET",
    "neighbors",
    "The neighbours of an item",
    neighbors,
    200,
    examples.FOUND,
    _PROBLEMS,
    query=SearchQuery,
    answers=(NPZ,),
    description="Search by a stored item's vector, itself left out.",
    tag="search",
    rights="read",
)
