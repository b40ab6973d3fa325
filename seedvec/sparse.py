"""Rows of which only the numbers that were given are stored: compressed sparse rows, as SciPy's CSR.

They answer to `len`, `shape`, `dtype`, `nbytes` and to being indexed by rows as a matrix does, so that what only moves
rows about asks for no more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

INDPTR_DTYPE: Final = np.dtype("<i8")
INDEX_DTYPE: Final = np.dtype("<i4")


@dataclass(frozen=True, slots=True, eq=False)
class SparseRows:
    """n rows of which row i has the numbers `values[a:b]` at the places `indices[a:b]`, a and b being `indptr[i:i+2]`.

    indptr: (n+1,) int64, from 0; indices: (nnz,) int32, ascending within a row; values: (nnz,) of a float dtype.
    Numbers that were given as 0 are kept: rows come back as they were stored.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[Any]
    values: NDArray[Any]
    dimension: int

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self.dimension

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.values.dtype

    @property
    def size(self) -> int:
        """How many numbers are stored."""
        return len(self.indices)

    @property
    def nbytes(self) -> int:
        return int(self.indptr.nbytes + self.indices.nbytes + self.values.nbytes)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(n,): how many numbers each row has."""
        return np.diff(self.indptr)

    def __getitem__(self, rows: slice | Sequence[int] | NDArray[Any]) -> "SparseRows":
        """Those rows in the order given; a slice of neighbours copies none of their numbers."""
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step == 1:
                return self._run(start, max(start, stop))
            rows = np.arange(start, stop, step)
        starts, ends = self.indptr[:-1][rows], self.indptr[1:][rows]
        at = runs(starts, ends - starts)
        return SparseRows(offsets(ends - starts), self.indices[at], self.values[at], self.dimension)

    def _run(self, start: int, stop: int) -> "SparseRows":
        first, last = int(self.indptr[start]), int(self.indptr[stop])
        indptr = self.indptr[start : stop + 1] - first
        return SparseRows(indptr, self.indices[first:last], self.values[first:last], self.dimension)

    def row_numbers(self) -> NDArray[np.int64]:
        """(nnz,): the row of each number."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def astype(self, dtype: Any) -> "SparseRows":
        return SparseRows(self.indptr, self.indices, self.values.astype(dtype, copy=False), self.dimension)

    def dense(self) -> NDArray[Any]:
        """(n, dimension), zeros where nothing is stored. Whoever asks sees to it that it fits."""
        out = np.zeros(self.shape, self.values.dtype)
        out[self.row_numbers(), self.indices] = self.values
        return out


def offsets(lengths: NDArray[Any]) -> NDArray[np.int64]:
    """(n,) lengths → (n+1,) where each begins, and the end."""
    out = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=out[1:])
    return out


def runs(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """start, start + 1, … of each run, one run behind the other."""
    begins = offsets(lengths)
    return np.arange(begins[-1]) + np.repeat(starts - begins[:-1], lengths)


def concatenate(parts: Sequence[SparseRows]) -> SparseRows:
    """One behind the other; at least one, all of one dimension and dtype."""
    if len(parts) == 1:
        return parts[0]
    return SparseRows(
        offsets(np.concatenate([part.lengths for part in parts])),
        np.concatenate([part.indices for part in parts]),
        np.concatenate([part.values for part in parts]),
        parts[0].dimension,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Postings:
    """The same rows by place: those that have a number at `terms[i]` are `rows[a:b]`, and that number `values[a:b]`, a
    and b being `starts[i:i+2]`.

    terms: (t,) int32, ascending; starts: (t+1,) int64; rows: (nnz,) int32, ascending within a term; values: (nnz,).
    """

    terms: NDArray[np.int32]
    starts: NDArray[np.int64]
    rows: NDArray[np.int32]
    values: NDArray[Any]
