"""Compressed sparse rows, whatever file their three arrays lie in.

As in SciPy, numbers of the same column within a row are summed. What is stored as zero stays. Rows come with their
columns ascending.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from storage.files.contract import DIMENSION_MAX, BadFile, Outline, Sparse
from storage.files.numbers import FLOATS

NUMBERS_MAX: Final = 2 << 20
"""Of one batch, so that a few dense rows among sparse ones cannot fill the memory; a single row may have more."""
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
        if not 1 <= dimension <= DIMENSION_MAX:
            raise BadFile(f"{dimension} columns: 1 to {DIMENSION_MAX} can be a vector")
        kept = dtype in ("float16", "float32")
        notes = () if kept or values is None else (f"{dtype} values are brought to float32",)
        self.outline = Outline(dimension, _stored_as(dtype), rows, sparse=True, notes=notes)
        self._stored = stored
        self._indptr = indptr
        self._indices = indices
        self._values = values
        self._seen: tuple[int, NDArray[np.int64]] | None = None

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
        if self._seen is not None and self._seen[0] == start and len(self._seen[1]) > stop - start:
            return self._seen[1]
        ends = self._indptr(start, stop + 1)
        if ends.dtype.kind not in "iu":
            raise BadFile(f"indptr is of {ends.dtype}, should be whole numbers")
        wrong = np.zeros(len(ends), bool)
        wrong[1:] = ends[1:] < ends[:-1]
        wrong |= (ends < 0) | (ends > self._stored)
        if start == 0:
            wrong[0] |= ends[0] != 0
        if wrong.any():
            raise BadFile("indptr does not ascend from 0 to the number of values", start + int(np.argmax(wrong)))
        self._seen = start, ends.astype(np.int64, copy=False)
        return self._seen[1]


def canonical(indptr: NDArray[np.int64], indices: NDArray[np.int64], values: NDArray[np.float32], d: int) -> Sparse:
    """Columns ascending within each row, those that stand there twice summed."""
    rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    places = rows * d + indices
    if (places[1:] > places[:-1]).all():
        return Sparse(indptr, indices, values)
    order = np.argsort(places, kind="stable")
    places = places[order]
    firsts = np.flatnonzero(np.diff(places, prepend=-1))
    summed = np.add.reduceat(values[order], firsts) if len(firsts) else values
    kept = places[firsts]
    counts = np.bincount(kept // d, minlength=len(indptr) - 1)
    return Sparse(np.concatenate([[0], np.cumsum(counts)]), kept % d, summed)


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
