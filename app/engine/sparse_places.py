"""Sparse rows as a client sends them: their places in any order, and perhaps wrong."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.engine import errors
from app.engine.errors import Fault
from seedvec.sparse import INDEX_DTYPE, SparseRows

NUMBERS_MAX = 65_536
"""Of one vector, as many as a dense one may have."""


def ordered(given: SparseRows, at: Callable[[int], str]) -> SparseRows:
    """given: indices of any integer type in any order, values of any float type → the same with int32 ascending.

    Raises OutOfRange (a place outside of the dimension, too many numbers), Invalid (a place twice) naming the rows."""
    owners, d = given.row_numbers(), given.dimension
    outside = (given.indices < 0) | (given.indices >= d)
    if outside.any():
        raise _refused(errors.OutOfRange, f"has an index outside of 0 to {d - 1}", owners[outside], at)
    if bool((given.lengths > NUMBERS_MAX).any()):
        words = f"has more than the {NUMBERS_MAX} numbers that a vector may have"
        raise _refused(errors.OutOfRange, words, np.flatnonzero(given.lengths > NUMBERS_MAX), at)
    # Rows and places as one number each, which fits: 2^31 places and far fewer than 2^32 rows.
    spots = owners * d + given.indices
    values = given.values
    if not bool((np.diff(spots) > 0).all()):
        order = np.argsort(spots, kind="stable")
        spots, values = spots[order], values[order]
        twice = np.flatnonzero(np.diff(spots) == 0)
        if len(twice):
            raise _refused(errors.Invalid, "has the same index twice", owners[twice], at)
    return SparseRows(given.indptr, (spots - owners * d).astype(INDEX_DTYPE), values, d)


def _refused(
    kind: type[errors.Invalid], words: str, rows: NDArray[np.int64], at: Callable[[int], str]
) -> errors.Invalid:
    wrong = np.unique(rows)
    faults = [Fault(at(int(row)), words) for row in wrong[: errors.MAX_FAULTS]]
    return kind(f"a sparse vector {words}", faults, len(wrong))


def wrong_kind(sparse: bool, faults: list[Fault], count: int) -> errors.Invalid:
    """The refusal of dense vectors in a sparse collection, or the other way round. sparse: the collection is."""
    detail = (
        'the collection is sparse: send vectors as {"indices": […], "values": […]}'
        if sparse
        else 'the collection is dense: send vectors as lists of numbers ("sparse": true makes a collection sparse)'
    )
    return errors.Invalid(detail, faults, count)


def finite_rows(vectors: NDArray[Any] | SparseRows) -> NDArray[np.bool_]:
    """(n,): whether every number of the row is finite."""
    if isinstance(vectors, SparseRows):
        bad = vectors.row_numbers()[np.logical_not(np.isfinite(vectors.values))]
        return np.asarray(np.bincount(bad, minlength=len(vectors)) == 0)
    return np.asarray(np.isfinite(vectors).all(axis=1))
