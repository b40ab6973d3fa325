"""From what a client sent to what can be stored: dtype, finiteness, norms, ids. Every refusal names the row.

Checks come after conversion to the collection's dtype: 1e39 is no float32, and 1e-8 is 0 in float16.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.engine import errors
from app.engine.errors import Fault
from app.engine.sparse_places import finite_rows, ordered, wrong_kind
from app.engine.types import Rows, Vectors
from index.norms import norms
from seedvec.sparse import SparseRows
from storage.catalogue import Settings
from storage.writes import Batch

MAX_NORM = 1e18
"""Above it squares overflow float32 and no distance is finite."""
MIN_COSINE_NORM = 1e-18
"""Below it the square vanishes in float32, and so does the direction."""

Place = Callable[[int], str]


def place_of(rows: Rows) -> tuple[Place, Place]:
    """How errors name the vector and the id of row i."""
    if rows.place == "items":
        return (lambda i: f"items[{i}].vector"), (lambda i: f"items[{i}].id")
    if rows.place == "columns":
        return (lambda i: f"vectors[{i}]"), (lambda i: f"ids[{i}]")
    return (lambda i: f"row {i}"), (lambda i: f"row {i}")


def check_rows(rows: Rows, settings: Settings) -> Batch:
    """Raises DimensionMismatch, NotFinite, OutOfRange, ZeroVector, IdExists, IdTypeMismatch."""
    vector_at, id_at = place_of(rows)
    vectors = check_vectors(rows.vectors, settings, vector_at)
    ids = None
    if rows.ids is not None:
        ids = rows.ids.tolist() if isinstance(rows.ids, np.ndarray) else list(rows.ids)
        check_id_type(ids, settings.id_type, id_at)
    return Batch(vectors, ids, rows.metadata)


def check_add(rows: Rows, settings: Settings) -> Batch:
    """An add names an id once. Raises as `check_rows`."""
    batch = check_rows(rows, settings)
    if batch.ids is not None:
        refuse_repeats(batch.ids, place_of(rows)[1])
    return batch


def check_upsert(rows: Rows, settings: Settings) -> Batch:
    """Of an id that an upsert names twice the last wins. Raises as `check_rows`."""
    return last_of_each(check_rows(rows, settings))


def check_vectors(given: Vectors, settings: Settings, at: Place) -> Vectors:
    """given: (n, d) of any float dtype → (n, d) in the collection's dtype, C order or sparse in order."""
    _refuse_kind(given, settings, at)
    if given.shape[1] != settings.dimension:
        detail = f"vectors have {given.shape[1]} numbers, the collection wants {settings.dimension}"
        raise errors.DimensionMismatch(detail, [Fault(at(0), detail)], len(given))
    vectors: Vectors
    with np.errstate(over="ignore"):
        if isinstance(given, SparseRows):
            vectors = ordered(given, at).astype(settings.vector_dtype)
        else:
            vectors = np.ascontiguousarray(given, settings.vector_dtype)
    # One NaN or infinity anywhere makes the row's norm one: the rows are read once. Not so in float16, whose fast
    # conversion makes a finite 65536 of an infinity.
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = norms(vectors)
    numbers = vectors.values if isinstance(vectors, SparseRows) else vectors
    finite = numbers.dtype != np.float16 or bool(np.isfinite(numbers).all())
    if (
        finite
        and bool((lengths <= MAX_NORM).all())
        and (settings.metric != "cosine" or bool((lengths >= MIN_COSINE_NORM).all()))
    ):
        return vectors
    bad = np.logical_not(finite_rows(vectors))
    if bad.any():
        words = f"has a number that is not finite in {settings.dtype}"
        raise errors.NotFinite(f"a vector {words}: nothing was stored", *_faults(bad, at, words))
    long = np.logical_not(lengths <= MAX_NORM)
    if long.any():
        words = f"has a norm above {MAX_NORM:g}"
        raise errors.OutOfRange(f"a vector {words}, its distances would overflow: scale it", *_faults(long, at, words))
    words = f"has no direction (its norm is 0 in {settings.dtype})"
    detail = f"a vector {words}, which the cosine metric needs: leave it out, or use l2 or dot"
    raise errors.ZeroVector(detail, *_faults(lengths < MIN_COSINE_NORM, at, words))


def _refuse_kind(given: Vectors, settings: Settings, at: Place) -> None:
    if isinstance(given, SparseRows) != settings.sparse:
        kind = "sparse" if settings.sparse else "dense"
        raise wrong_kind(settings.sparse, [Fault(at(0), f"is not {kind}, the collection is")], len(given))


def _faults(bad: NDArray[np.bool_], at: Place, words: str) -> tuple[list[Fault], int]:
    rows = np.flatnonzero(bad)
    return [Fault(at(int(i)), words) for i in rows[: errors.MAX_FAULTS]], len(rows)


def check_query(given: Vectors, settings: Settings, at: Place | None = None) -> Vectors:
    """(q, d) as decoded → (q, d) float32, by the same rules as stored vectors. at: how errors name query i."""
    one = _one_query(given, settings)
    if one is not None:
        return one
    at = at or ((lambda i: "vector") if len(given) == 1 else (lambda i: f"vectors[{i}]"))
    _refuse_kind(given, settings, at)
    if given.shape[1] != settings.dimension:
        detail = f"the query has {given.shape[1]} numbers, the collection's vectors have {settings.dimension}"
        raise errors.DimensionMismatch(detail, [Fault(at(0), detail)], len(given))
    if isinstance(given, SparseRows):
        with np.errstate(over="ignore"):
            sparse = ordered(given, at).astype(np.float32)
        _refuse_query(sparse, settings, at)
        return sparse
    with np.errstate(over="ignore", invalid="ignore"):
        queries = np.ascontiguousarray(given, np.float32)
        squares = np.vecdot(queries, queries)
    # The norms below say which of the rules was broken.
    if not _lie_within(squares.min(), squares.max(), settings):
        _refuse_query(queries, settings, at)
    return queries


def _lie_within(least: float, most: float, settings: Settings) -> bool:
    """Whether squares of norms from least to most are well within what is taken; NaN, which compares false, is not."""
    return least >= (MIN_COSINE_NORM**2 * 2 if settings.metric == "cosine" else 0.0) and most <= MAX_NORM**2 / 2


def _one_query(given: Vectors, settings: Settings) -> NDArray[np.float32] | None:
    """The common case at little cost: one dense query, well within what is taken. None: it has to be looked at."""
    if isinstance(given, SparseRows) or settings.sparse or given.shape != (1, settings.dimension):
        return None
    vector = given[0]
    # Not a ufunc: it has no floating-point warnings, to silence which takes as long as all the rest here. Where the
    # square is within bounds, so is every number of it.
    square = float(vector.dot(vector))
    return np.ascontiguousarray(given, np.float32) if _lie_within(square, square, settings) else None


def _refuse_query(queries: Vectors, settings: Settings, at: Place) -> None:
    lengths = norms(queries)
    bad = np.logical_not(finite_rows(queries))
    if bad.any():
        words = "has a number that is not finite in float32"
        raise errors.NotFinite(f"a query {words}", *_faults(bad, at, words))
    if not bool((lengths <= MAX_NORM).all()):
        words = f"has a norm above {MAX_NORM:g}"
        raise errors.OutOfRange(f"a query {words}", *_faults(np.logical_not(lengths <= MAX_NORM), at, words))
    if settings.metric == "cosine" and not bool((lengths >= MIN_COSINE_NORM).all()):
        words = "has no direction (its norm is 0), which the cosine metric needs"
        raise errors.ZeroVector(f"a query {words}", *_faults(lengths < MIN_COSINE_NORM, at, words))


def check_id_type(ids: Sequence[Any], id_type: str, at: Place) -> None:
    """All of one type, and of the collection's where that is fixed."""
    wanted = id_type if id_type != "auto" else "str" if isinstance(ids[0], str) else "int"
    kind = str if wanted == "str" else int
    wrong = [i for i, id_ in enumerate(ids) if not isinstance(id_, kind)]
    if wrong:
        raise id_type_mismatch(wanted, [Fault(at(i), f"is no {wanted} id") for i in wrong])


def id_type_mismatch(wanted: str, faults: list[Fault]) -> errors.IdTypeMismatch:
    other = "str" if wanted == "int" else "int"
    return errors.IdTypeMismatch(
        f"the collection's ids are of type {wanted}: send such ids, or create another collection with "
        f'"id_type": "{other}"',
        faults,
    )


def refuse_repeats(ids: Sequence[Any], at: Place) -> None:
    """Raises IdExists."""
    if len(set(ids)) == len(ids):
        return
    seen: set[Any] = set()
    repeats = []
    for i, id_ in enumerate(ids):
        if id_ in seen:
            repeats.append(Fault(at(i), f"id {id_!r} stands twice in this request"))
        seen.add(id_)
    raise errors.IdExists("an id stands twice in the request: nothing was stored", repeats)


def last_of_each(batch: Batch) -> Batch:
    """In the order of the last ones."""
    if batch.ids is None or len(set(batch.ids)) == len(batch.ids):
        return batch
    last = {id_: i for i, id_ in enumerate(batch.ids)}
    rows = sorted(last.values())
    metadata = None if batch.metadata is None else [batch.metadata[i] for i in rows]
    kept = batch.vectors[rows]
    if not isinstance(kept, SparseRows):
        kept = np.ascontiguousarray(kept)
    return Batch(kept, [batch.ids[i] for i in rows], metadata)
