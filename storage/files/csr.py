"""Compressed sparse rows, whatever file their three arrays lie in.

As in SciPy, numbers of the same column within a row are summed. What is stored as zero stays. Rows come with their
columns ascending.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from storage.files.contract import BadFile, Outline, Sparse
from storage.files.numbers import FLOATS

DIMENSION_MAX: Final = 2**31 - 1
"""As in a sparse collection."""
ROW_MAX: Final = 65_536
"""Numbers of one row, likewise."""
NUMBERS_MAX: Final = 2 << 20
"""Of one batch, so that a few dense rows among sparse ones cannot fill the memory."""
Take = Callable[[int, int], NDArray[Any]]
"""Elements start … stop of one array, in native byte order."""
SAVE_HINT: Final = "scipy.sparse.save_npz(path, matrix.tocsr()) writes one"


class Csr:
    """n rows of three arrays. Raises BadFile where they cannot be.

    indptr: takes of an array of rows + 1; indices, values: of `stored` numbers; values None: all are ones.
    """

    def __init__(
        self, rows: int, dimension: int, stored: int, indptr: Take, indices: Take, values: Take | None, dtype: str
    ) -> None:
        """dtype: of the values as NumPy calls it."""
        check_dimension(dimension)
        kept = dtype in ("float16", "float32")
        notes = () if kept or values is None else (f"{dtype} values are brought to float32",)
        self.outline = Outline(dimension, _stored_as(dtype), rows, sparse=True, notes=notes)
        self._stored = stored
        self._indptr = indptr
        self._indices = indices
        self._values = values
        self._seen = 0, np.empty(0, np.int64)
        """Where a row begins, as read last: (first row, its numbers). None is read twice, for it may be unpacked."""

    def limit(self, start: int, stop: int) -> int:
        """The last row of a batch from start that keeps to NUMBERS_MAX, and is at most stop. Raises BadFile."""
        ends = self._ends(start, stop)
        fitting = int(np.searchsorted(ends, ends[0] + NUMBERS_MAX, "right")) - 1
        return start + max(1, fitting)

    def take(self, start: int, stop: int) -> Sparse:
        """Raises BadFile, with the row where it is one row's fault."""
        ends = self._ends(start, stop)[: stop - start + 1]
        first, last = int(ends[0]), int(ends[-1])
        values = None if self._values is None else self._values(first, last)
        return of_counts(np.diff(ends), self._indices(first, last), values, self.outline.dimension, start)

    def _ends(self, start: int, stop: int) -> NDArray[np.int64]:
        first, ends = self._seen
        ends = ends[start - first :] if first <= start <= first + len(ends) else ends[:0]
        if start + len(ends) < stop + 1:
            more = self._indptr(start + len(ends), stop + 1)
            if more.dtype.kind not in "iu":
                raise BadFile(f"indptr is of {more.dtype}, should be whole numbers")
            ends = np.concatenate([ends, more.astype(np.int64)])
        wrong = (ends < 0) | (ends > self._stored)
        wrong[1:] |= ends[1:] < ends[:-1]
        wrong[0] |= start == 0 and ends[0] != 0
        if wrong.any():
            raise BadFile("indptr does not ascend from 0 to the number of values", start + int(np.argmax(wrong)))
        if (long := np.diff(ends) > ROW_MAX).any():
            raise BadFile(f"more than {ROW_MAX:,} numbers in a row", start + int(np.argmax(long)))
        self._seen = start, ends
        return ends


def check_dimension(dimension: int) -> None:
    """Raises BadFile."""
    if not 1 <= dimension <= DIMENSION_MAX:
        raise BadFile(f"{dimension} columns: 1 to {DIMENSION_MAX} can be a sparse vector")


def canonical(indptr: NDArray[np.int64], indices: NDArray[np.int64], values: NDArray[np.float32], d: int) -> Sparse:
    """Columns ascending within each row, those that stand there twice summed."""
    # Rows and columns as one number each, which fits: 2^31 columns, and far fewer than 2^32 rows in a batch.
    places = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr)) * d + indices
    if (places[1:] > places[:-1]).all():
        return Sparse(indptr, indices, values)
    order = np.argsort(places, kind="stable")
    places = places[order]
    firsts = np.flatnonzero(np.diff(places, prepend=-1))
    kept = places[firsts]
    counts = np.bincount(kept // d, minlength=len(indptr) - 1)
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
    return Sparse(ends, kept % d, np.add.reduceat(values[order], firsts))


def expanded(vectors: Sparse, d: int) -> NDArray[np.float32]:
    """(n, d), with zeros where there is no number."""
    out = np.zeros((len(vectors.indptr) - 1, d), np.float32)
    out[np.repeat(np.arange(len(out)), np.diff(vectors.indptr)), vectors.indices] = vectors.values
    return out


def of_counts(
    counts: NDArray[np.int64], indices: NDArray[Any], values: NDArray[Any] | None, d: int, first: int
) -> Sparse:
    """Of rows of so many indices each, all one behind the other; values None: ones. first: the number of the first
    row. Raises BadFile with the row."""
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
    wrong = (indices < 0) | (indices >= d)
    if wrong.any():
        at = int(np.argmax(wrong))
        row = first + int(np.searchsorted(indptr, at, "right")) - 1
        raise BadFile(f"a column of {int(indices[at])}, and there are {d}", row)
    with np.errstate(over="ignore"):  # Too large for float32 becomes infinite, which is refused where it is stored.
        numbers = np.ones(len(indices), np.float32) if values is None else values.astype(np.float32, copy=False)
    return canonical(indptr, indices.astype(np.int64, copy=False), numbers, d)


def _stored_as(dtype: str) -> Any:
    if dtype in FLOATS:
        return dtype
    if np.dtype(dtype).kind in "iub":
        return "float32"
    raise BadFile(f"values must be numbers, not {dtype}")
