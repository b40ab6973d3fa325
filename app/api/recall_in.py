"""What a measurement of recall asks for, from its body or its query string."""

from collections.abc import Sequence
from typing import Annotated, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.json import Decoder

from app.api import limits, npy
from app.api.bodies import NPY, Media
from app.api.filter_in import filter_in
from app.api.ids import check_ids
from app.api.json_in import decode, translate
from app.api.limits import (
    K_DEFAULT,
    RECALL_LIST_MAX,
    RECALL_SAMPLE_DEFAULT,
    RECALL_SAMPLE_MAX,
)
from app.api.refusals import at_most, many, one
from app.api.schemas import BodyFilter, K, QueryFilter, Recall, Vector
from app.api.sparse_in import refuse_arrays, rows
from app.api.vectors_in import check_columns
from app.engine.errors import MAX_FAULTS, Fault, Invalid, OutOfRange
from app.engine.types import CollectionSettings, Id, RecallAsked

Ks = Annotated[list[K], Meta(min_length=1, max_length=RECALL_LIST_MAX)]
Recalls = Annotated[list[Recall], Meta(min_length=1, max_length=RECALL_LIST_MAX)]
Sample = Annotated[
    int,
    Meta(
        ge=1,
        le=RECALL_SAMPLE_MAX,
        description="how many queries to take: of the real ones that are kept or, where those are too few, of what is "
        f"stored; {RECALL_SAMPLE_DEFAULT} by default",
    ),
]
Calibrate = Annotated[bool, Meta(description="and calibrate the collection on these queries from then on")]
T = TypeVar("T")


class RecallBody(Struct, forbid_unknown_fields=True):
    """`queries` or `sample`; `truth` goes with `queries`. Every k with every recall makes a row of the answer."""

    k: K | Ks = K_DEFAULT
    recall: Recall | Recalls | UnsetType = UNSET
    queries: list[Vector] | UnsetType = UNSET
    sample: Sample | UnsetType = UNSET
    truth: list[list[Id]] | UnsetType = UNSET
    filter: BodyFilter | UnsetType = UNSET
    calibrate: Calibrate = False


class RecallQuery(Struct, forbid_unknown_fields=True):
    """What goes with a body that is an array of queries."""

    k: Annotated[str, Meta(description="one, or several: `1,10,100`")] = str(K_DEFAULT)
    recall: Annotated[str, Meta(description="one, or several: `0.9,0.95`")] | UnsetType = UNSET
    filter: QueryFilter | UnsetType = UNSET
    calibrate: Calibrate = False


_BODY = Decoder(RecallBody)


def parse(
    media: Media, body: bytes | bytearray, query: RecallQuery | None, settings: CollectionSettings
) -> RecallAsked:
    """query: the query string, which a `.npy` body has its parameters in and a JSON body must not have.

    Raises Malformed and Invalid's family.
    """
    if media == NPY:
        return _parse_npy(body, query or RecallQuery(), settings)
    if query is not None:
        raise one(Invalid, "query", "query parameters go with .npy bodies: a JSON body holds them itself")
    given = decode(_BODY, body)
    ks = tuple(given.k) if isinstance(given.k, list) else (given.k,)
    _check_ks(ks, "k[{}]" if isinstance(given.k, list) else "k")
    filter = filter_in(given.filter)
    _refuse_filtered_calibration(filter is not None, given.calibrate)
    if given.queries is UNSET:
        if given.truth is not UNSET:
            raise one(Invalid, "truth", "goes with queries: it says what the nearest of each are")
        sample = RECALL_SAMPLE_DEFAULT if given.sample is UNSET else given.sample
        _check_volume(sample, ks, RECALL_SAMPLE_MAX, "sample")
        return RecallAsked(ks, _recalls(given.recall), None, sample, None, filter, given.calibrate)
    if given.sample is not UNSET:
        raise one(Invalid, "sample", "is taken where no queries are given: leave out one of the two")
    _check_volume(len(given.queries), ks, limits.current.queries_json_max, "queries")
    queries = rows(given.queries, settings, "queries[{}]")
    truth = None if given.truth is UNSET else _truth(given.truth, len(queries), max(ks), settings)
    return RecallAsked(ks, _recalls(given.recall), queries, 0, truth, filter, given.calibrate)


def _parse_npy(body: bytes | bytearray, query: RecallQuery, settings: CollectionSettings) -> RecallAsked:
    refuse_arrays(settings)
    queries = npy.matrix(body)
    ks = tuple(_listed(query.k, Ks, "k"))
    _check_ks(ks, "k")
    recalls = () if query.recall is UNSET else tuple(_listed(query.recall, Recalls, "recall"))
    filter = filter_in(query.filter)
    _refuse_filtered_calibration(filter is not None, query.calibrate)
    _check_volume(len(queries), ks, limits.current.queries_max, "shape")
    check_columns(queries.shape[1], settings.dimension)
    return RecallAsked(ks, recalls, queries, 0, None, filter, query.calibrate, "row {}")


def _recalls(given: float | list[float] | UnsetType) -> tuple[float, ...]:
    if isinstance(given, UnsetType):
        return ()
    return tuple(given) if isinstance(given, list) else (given,)


def _listed(text: str, kind: type[T], name: str) -> T:
    """What a query string lists, as a body would."""
    try:
        return msgspec.convert(text.split(","), kind, strict=False)
    except msgspec.ValidationError as error:
        raise translate(error, name) from None


def _refuse_filtered_calibration(filtered: bool, calibrate: bool) -> None:
    if filtered and calibrate:
        raise one(Invalid, "filter", "a calibration speaks of all items: leave out the filter, or calibrate")


def _check_ks(ks: Sequence[int], where: str) -> None:
    for i, k in enumerate(ks):
        at_most(where.format(i), k, limits.current.k_max)


def _check_volume(queries: int, ks: Sequence[int], most: int, where: str) -> None:
    if not 1 <= queries <= most:
        raise one(OutOfRange, where, f"has {queries} queries, 1 to {most} are taken in one request")
    if queries * max(ks) > limits.current.hits_max:
        hits = limits.current.hits_max
        raise one(OutOfRange, "k", f"{queries} queries x k {max(ks)} is over the {hits} hits of one request")


def _truth(given: list[list[Id]], queries: int, k: int, settings: CollectionSettings) -> list[list[Id]]:
    """The first k ids of each list. How many there must be at least, and which ids exist, is the engine's to check."""
    if len(given) != queries:
        raise one(Invalid, "truth", f"has {len(given)} lists for {queries} queries: one each is wanted")
    nearest = [ids[:k] for ids in given]
    for i, ids in enumerate(nearest):
        check_ids(ids, settings.id_type, f"truth[{i}][{{}}]")
    repeats = [(i, j) for i, ids in enumerate(nearest) if len(set(ids)) < len(ids) for j in _repeats(ids)]
    if repeats:
        faults = [Fault(f"truth[{i}][{j}]", f"id {nearest[i][j]!r} stands twice") for i, j in repeats[:MAX_FAULTS]]
        raise many(Invalid, faults, len(repeats), f"{len(repeats)} ids stand twice in their lists")
    return nearest


def _repeats(ids: list[Id]) -> list[int]:
    """Places of ids that come again."""
    last = {id: j for j, id in enumerate(ids)}
    return [j for j, id in enumerate(ids) if last[id] != j]
