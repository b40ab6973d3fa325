"""Arrays that grow at their end: views hold slices, so that a new view costs no copy and an old one never changes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.engine.first_ids import of_ids
from index.contract import Metric, Vectors
from index.norms import Rows, norms
from index.sparse import SparseVectors
from index.sparse_distance import squares
from index.stored import Stored
from seedvec.sparse import SparseRows

FIRST_CAPACITY = 256


class Growing:
    """A column of n entries, each of the shape `tail`."""

    def __init__(self, dtype: Any, *tail: int) -> None:
        self._array: NDArray[Any] = np.empty((FIRST_CAPACITY, *tail), dtype)
        self._n = 0

    def extend(self, new: NDArray[Any]) -> None:
        n = self._n + len(new)
        if n > len(self._array):
            old = self.present()
            self._array = np.empty((max(n, 2 * len(self._array)), *old.shape[1:]), old.dtype)
            self._array[: self._n] = old
        self._array[self._n : n] = new
        self._n = n

    def present(self) -> NDArray[Any]:
        return self._array[: self._n]

    def drop(self, n: int) -> None:
        """Forgets the first n."""
        self._array = self.present()[n:].copy()
        self._n -= n


class GrowingDense:
    def __init__(self, dimension: int, dtype: np.dtype[Any], metric: Metric) -> None:
        self._metric = metric
        self._rows, self._norms = Growing(dtype, dimension), Growing(np.float32)

    def extend(self, new: Rows) -> None:
        assert not isinstance(new, SparseRows)
        self._rows.extend(new)
        self._norms.extend(norms(new))

    def drop(self, n: int) -> None:
        self._rows.drop(n)
        self._norms.drop(n)

    def stored(self, ids: list[Any]) -> Stored:
        return Vectors(self._rows.present(), self._norms.present(), self._metric)


class GrowingSparse:
    def __init__(self, dimension: int, dtype: np.dtype[Any], metric: Metric) -> None:
        self._dimension, self._metric = dimension, metric
        self._ends, self._squares = Growing(np.int64), Growing(np.float64)
        self._indices, self._values = Growing(np.int32), Growing(dtype)
        self._ends.extend(np.zeros(1, np.int64))

    def extend(self, new: Rows) -> None:
        assert isinstance(new, SparseRows)
        self._ends.extend(new.indptr[1:] + self._ends.present()[-1])
        self._indices.extend(new.indices)
        self._values.extend(new.values)
        self._squares.extend(squares(new))

    def drop(self, n: int) -> None:
        first = int(self._ends.present()[n])
        self._indices.drop(first)
        self._values.drop(first)
        self._squares.drop(n)
        rest = self._ends.present()[n:] - first
        self._ends = Growing(np.int64)
        self._ends.extend(rest)

    def stored(self, ids: list[Any]) -> Stored:
        """ids: of at least these rows; they may grow, but no more."""
        columns = self._ends.present(), self._indices.present(), self._values.present()
        rows = SparseRows(*columns, self._dimension)
        return SparseVectors(rows, self._metric, of_ids(ids), squares=self._squares.present())
