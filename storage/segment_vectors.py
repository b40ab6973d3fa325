"""The vectors of a segment on their way into its file: a matrix, or sparse rows with the postings made of them."""

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from seedvec import segment as fmt
from seedvec.sparse import INDEX_DTYPE, INDPTR_DTYPE, SparseRows, offsets

PIECE: Final = 1 << 21
"""Numbers that are held in memory while postings are made: about 80 MB."""
TERMS_AT_ONCE: Final = 1 << 16
"""Numbered from 0 they fit 16 bits, which NumPy sorts by radix: a quarter of the time."""
TABLE_PLACES: Final = 1 << 22
"""Up to so many places a term's number is looked up in a table, beyond by halving: 10 million in 0.03 s, or 0.7."""

Shapes = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]
Put = Callable[[str, int, NDArray[Any]], None]
"""Dataset, first element, numbers."""
Get = Callable[[str, int, int], NDArray[Any]]
"""Dataset, first element, end: what was put there."""


class Nonzeros(NamedTuple):
    """What is known of sparse rows before they come: how many numbers they have in all, and all the places where any
    has one, ascending (places where none has are no fault)."""

    stored: int
    terms: NDArray[np.int32]

    @staticmethod
    def of(rows: SparseRows) -> "Nonzeros":
        return Nonzeros(rows.size, np.unique(rows.indices))


class VectorsPart(Protocol):
    def shapes(self) -> Shapes:
        """Of the datasets, in the order they lie in the file."""
        ...

    def check(self, vectors: NDArray[Any] | SparseRows) -> None:
        """Raises ValueError where such rows do not belong here."""
        ...

    def append(self, at: int, vectors: NDArray[Any] | SparseRows, put: Put) -> None:
        """at: rows that were appended before."""
        ...

    def finish(self, put: Put, get: Get) -> None: ...


class DenseVectors:
    def __init__(self, rows: int, dimension: int, dtype: np.dtype[Any]) -> None:
        self._shape, self._dtype = (rows, dimension), dtype

    def shapes(self) -> Shapes:
        return {fmt.VECTORS: (self._shape, self._dtype)}

    def check(self, vectors: NDArray[Any] | SparseRows) -> None:
        if isinstance(vectors, SparseRows) or vectors.dtype != self._dtype or vectors.shape[1:] != self._shape[1:]:
            raise ValueError(f"vectors are {vectors.dtype} {vectors.shape}, the segment's {self._dtype} {self._shape}")

    def append(self, at: int, vectors: NDArray[Any] | SparseRows, put: Put) -> None:
        assert not isinstance(vectors, SparseRows)
        put(fmt.VECTORS, at, vectors)

    def finish(self, put: Put, get: Get) -> None:
        pass


class SparseVectors:
    def __init__(self, rows: int, dimension: int, dtype: np.dtype[Any], nonzeros: Nonzeros) -> None:
        self._rows, self._dimension, self._dtype = rows, dimension, dtype
        self._nonzeros = nonzeros
        self._done = 0
        """Numbers."""

    def shapes(self) -> Shapes:
        stored, terms = self._nonzeros.stored, len(self._nonzeros.terms)
        return {
            fmt.SIZES: ((2,), fmt.HASH_DTYPE),
            fmt.INDPTR: ((self._rows + 1,), INDPTR_DTYPE),
            fmt.INDICES: ((stored,), INDEX_DTYPE),
            fmt.VALUES: ((stored,), self._dtype),
            fmt.TERMS: ((terms,), INDEX_DTYPE),
            fmt.TERM_STARTS: ((terms + 1,), INDPTR_DTYPE),
            fmt.TERM_ROWS: ((stored,), INDEX_DTYPE),
            fmt.TERM_VALUES: ((stored,), self._dtype),
        }

    def check(self, vectors: NDArray[Any] | SparseRows) -> None:
        if not isinstance(vectors, SparseRows) or vectors.dtype != self._dtype or vectors.dimension != self._dimension:
            raise ValueError(f"vectors are {vectors.dtype} {vectors.shape}, the segment's are sparse {self._dtype}")
        if self._done + vectors.size > self._nonzeros.stored:
            raise ValueError(f"more than the {self._nonzeros.stored} numbers that were announced")

    def append(self, at: int, vectors: NDArray[Any] | SparseRows, put: Put) -> None:
        assert isinstance(vectors, SparseRows)
        put(fmt.INDPTR, at, vectors.indptr + self._done)
        put(fmt.INDICES, self._done, vectors.indices)
        put(fmt.VALUES, self._done, vectors.values)
        self._done += vectors.size

    def finish(self, put: Put, get: Get) -> None:
        """Makes the postings, reading back what was written. Raises ValueError where fewer numbers came than announced,
        or one at a place that was not."""
        stored, terms = self._nonzeros
        if self._done != stored:
            raise ValueError(f"{self._done} of {stored} numbers were appended")
        put(fmt.SIZES, 0, np.array([stored, len(terms)], fmt.HASH_DTYPE))
        put(fmt.TERMS, 0, terms)
        number_of = _numbering(terms)
        counts = np.zeros(len(terms), np.int64)
        for _, indices in self._pieces(get):
            numbers = number_of(indices)
            if not bool((terms[numbers] == indices).all()):
                raise ValueError("a number at a place that was not announced")
            counts += np.bincount(numbers, minlength=len(terms))
        starts = offsets(counts)
        put(fmt.TERM_STARTS, 0, starts)
        indptr = get(fmt.INDPTR, 0, self._rows + 1)
        for first, end in _runs(starts):
            self._post(first, end, number_of, int(starts[first]), indptr, put, get)

    def _pieces(self, get: Get) -> Iterator[tuple[int, NDArray[np.int32]]]:
        for begin in range(0, self._done, PIECE):
            yield begin, get(fmt.INDICES, begin, min(begin + PIECE, self._done))

    def _post(
        self,
        first: int,
        end: int,
        number_of: Callable[[NDArray[np.int32]], NDArray[np.int64]],
        at: int,
        indptr: NDArray[np.int64],
        put: Put,
        get: Get,
    ) -> None:
        """The postings of terms first … end − 1, which begin at `at`."""
        low, high = self._nonzeros.terms[first], self._nonzeros.terms[end - 1]
        numbers, places, values = [], [], []
        for begin, indices in self._pieces(get):
            mine = np.flatnonzero((indices >= low) & (indices <= high))
            if len(mine):
                numbers.append((number_of(indices[mine]) - first).astype(np.uint16))
                places.append(mine + begin)
                values.append(get(fmt.VALUES, begin, begin + len(indices))[mine])
        if not numbers:
            return
        # Stable: within a term the rows stay in their order.
        order = np.argsort(np.concatenate(numbers), kind="stable")
        rows = np.searchsorted(indptr, np.concatenate(places), side="right") - 1
        put(fmt.TERM_ROWS, at, rows[order])
        put(fmt.TERM_VALUES, at, np.concatenate(values)[order])


def _numbering(terms: NDArray[np.int32]) -> Callable[[NDArray[np.int32]], NDArray[np.int64]]:
    """Place → number of its term, of places that are among the terms (others: of some other)."""
    if len(terms) and int(terms[-1]) < TABLE_PLACES:
        table = np.zeros(TABLE_PLACES, np.int64)
        table[terms] = np.arange(len(terms))
        return lambda indices: table[indices]
    return lambda indices: np.minimum(np.searchsorted(terms, indices), len(terms) - 1)


def _runs(starts: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Terms in runs that are made at once: of few postings, or of one term."""
    first, terms = 0, len(starts) - 1
    while first < terms:
        fitting = int(np.searchsorted(starts, starts[first] + PIECE, side="right")) - 1
        end = min(max(first + 1, fitting), first + TERMS_AT_ONCE, terms)
        yield first, end
        first = end
