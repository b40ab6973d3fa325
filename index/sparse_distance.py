"""The distance of the contract between sparse rows, and the one rule of its sums.

An inner product is summed over the places that both have, in ascending order, one number after the other, in float64
(in which the product of two float32 is exact). `np.bincount` does just that with whatever it is given in that order, so
a pair has bit for bit the same distance from rows and from postings, alone and in a batch; and a place that only one of
the two has would add 0, which changes nothing.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from index.contract import Metric
from seedvec.sparse import Postings, SparseRows, runs

PIECE = 1 << 21
"""Numbers that are looked at at once: about 50 MB besides."""
SHORT = 300
"""Postings a term: shorter lists are gathered all at once (10 ns each), longer ones taken one by one (3 µs a list)."""
LOW_PLACES = 1 << 16
"""A table of so many answers for most numbers that no place of the query is theirs: in the cache, whatever the
dimension."""


def by_rows(query: SparseRows, rows: SparseRows) -> NDArray[np.float64]:
    """Inner products of one query with each of n rows, (n,)."""
    out = np.zeros(len(rows))
    wanted = np.zeros(LOW_PLACES, bool)
    wanted[query.indices.astype(np.uint16)] = True
    numbers = query.values.astype(np.float64)
    for begin, end in pieces(rows.indptr):
        part = rows[begin:end]
        near = np.flatnonzero(wanted[part.indices.astype(np.uint16)])
        places = part.indices[near]
        at = np.searchsorted(query.indices, places)
        at[at == query.size] = 0
        same = query.indices[at] == places if query.size else np.zeros(len(at), bool)
        near, at = near[same], at[same]
        owners = np.searchsorted(part.indptr, near, side="right") - 1
        out[begin:end] = _sums(owners, numbers[at] * part.values[near], end - begin)
    return out


class PostedDots:
    """Inner products of one query with all the rows that postings were made of.

    touched: how many numbers that takes."""

    def __init__(self, query: SparseRows, postings: Postings, indptr: NDArray[np.int64]) -> None:
        """indptr: of the rows."""
        at = np.searchsorted(postings.terms, query.indices)
        there = at < len(postings.terms)
        there[there] = postings.terms[at[there]] == query.indices[there]
        self._postings, self._indptr = postings, indptr
        self._starts, self._ends = postings.starts[at[there]], postings.starts[at[there] + 1]
        self._numbers = query.values[there].astype(np.float64).tolist()
        self.touched = int((self._ends - self._starts).sum())

    def all(self) -> NDArray[np.float64]:
        """(n,)."""
        n = len(self._indptr) - 1
        if self.touched <= PIECE:
            return self._between(0, n, self._starts, self._ends)
        # By rows, so that what is held at once is bounded however many rows have a place of the query.
        spans = list(pieces(self._indptr))
        edges = np.array([begin for begin, _ in spans] + [n])
        cuts = np.empty((len(self._starts), len(edges)), np.int64)
        for i, (start, end) in enumerate(zip(self._starts.tolist(), self._ends.tolist(), strict=True)):
            cuts[i] = start + np.searchsorted(self._postings.rows[start:end], edges)
        out = np.empty(n)
        for i, (begin, end) in enumerate(spans):
            out[begin:end] = self._between(begin, end, cuts[:, i], cuts[:, i + 1])
        return out

    def _between(self, begin: int, end: int, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.float64]:
        """Of rows begin … end − 1, whose postings are those between starts and ends."""
        lengths = ends - starts
        total = int(lengths.sum())
        if total < SHORT * len(lengths):
            at = runs(starts, lengths)
            products = self._postings.values[at] * np.repeat(np.array(self._numbers), lengths)
            return _sums(self._postings.rows[at].astype(np.int64) - begin, products, end - begin)
        owners, products = np.empty(total, np.int64), np.empty(total)
        done = 0
        for start, stop, number in zip(starts.tolist(), ends.tolist(), self._numbers, strict=True):
            part = slice(done, done + stop - start)
            owners[part] = self._postings.rows[start:stop]
            np.multiply(self._postings.values[start:stop], number, out=products[part], dtype=np.float64)
            done = part.stop
        owners -= begin
        return _sums(owners, products, end - begin)


def squares(rows: SparseRows) -> NDArray[np.float64]:
    """(n,): the inner product of each row with itself."""
    out = np.zeros(len(rows))
    for begin, end in pieces(rows.indptr):
        part = rows[begin:end]
        numbers = part.values.astype(np.float64)
        out[begin:end] = _sums(part.row_numbers(), numbers * numbers, end - begin)
    return out


def _sums(owners: NDArray[np.int64], products: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Of the products of each of n owners, in the order given."""
    return np.bincount(owners, products, minlength=n).astype(np.float64, copy=False)


def norms(rows: SparseRows) -> NDArray[np.float32]:
    """Euclidean norms, (n,) float32; of numbers that are not finite they are not either."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.sqrt(squares(rows)).astype(np.float32)


def distances(
    metric: Metric, dots: NDArray[np.float64], query_square: float, row_squares: NDArray[np.float64] | None
) -> NDArray[np.float32]:
    """Of inner products with one query, (n,), clipped as the contract says. The squares: under cosine, where none is 0.

    A row and itself: the root of s·s is s exactly, so that 1 − s/s is 0."""
    if metric == "dot":
        return (0.0 - dots).astype(np.float32)  # not −dots: of 0 that would be −0.0
    assert metric == "cosine" and row_squares is not None
    return np.clip(1.0 - dots / np.sqrt(query_square * row_squares), 0.0, 2.0).astype(np.float32)


def pieces(indptr: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Rows begin … end − 1 that have no more numbers than are looked at at once (or are one row)."""
    begin, n = 0, len(indptr) - 1
    while begin < n:
        end = int(np.searchsorted(indptr, indptr[begin] + PIECE, side="right")) - 1
        end = min(max(end, begin + 1), n)
        yield begin, end
        begin = end
