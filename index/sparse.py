"""Exact search over sparse rows: no index is built for them.

The postings of a segment lead to the rows that have a number where the query has one; measured on 100,000 rows of 100
numbers and queries of 30, that takes 0.2 ms where places are used alike, and 6 ms where the commonest are in every
second row; looking at every row takes 24 and 64 ms. So rows are looked at only where there are no postings (they pend),
or where a filter leaves few of them. Either way the sums are the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.contract import Alive, Found, Metric, Plan
from index.only_exact import OnlyExact
from index.selection import Hit, kth_smallest, together
from index.sparse_distance import PostedDots, by_rows, distances, squares
from seedvec.sparse import Postings, SparseRows

OVERHEAD_US = 60.0
NS_PER_ROW = 6.0
"""A sum, a distance and a comparison for each row, whether it has anything of the query or not."""
NS_PER_NUMBER = 0.4
"""Of all that are stored: a query touches few of them."""
NS_PER_NUMBER_BY_ROWS = 3.0

First = Callable[[NDArray[np.int64], int], NDArray[np.int64]]
"""Of these rows so many whose ids come first, in any order."""


@dataclass(frozen=True, slots=True, eq=False)
class SparseVectors:
    """The stored sparse vectors of one segment, or the pending rows, which have no postings.

    first: as of the rows' ids; squares: of the rows, (n,) float64, where they are known already."""

    rows: SparseRows
    metric: Metric
    first: First
    postings: Postings | None = None
    squares: NDArray[np.float64] | None = None


class SparseExact(OnlyExact):
    """Exact search over `vectors`; under cosine holds 8 bytes a row of them.

    Answers as `contract.Index` does, but of the rows that tie with the k-th gives only the first by id: a query that
    meets few rows is as far from all others."""

    def __init__(self, vectors: SparseVectors) -> None:
        self.vectors = vectors
        self._squares = vectors.squares

    def cost_us(self, rows: int) -> float:
        """About, of one query with all rows on one thread, of which that many may be answered with."""
        stored = self.vectors.rows.size
        if self.vectors.postings is None:
            return OVERHEAD_US + (rows * NS_PER_ROW + stored * NS_PER_NUMBER_BY_ROWS) / 1000
        return OVERHEAD_US + (len(self.vectors.rows) * NS_PER_ROW + stored * NS_PER_NUMBER) / 1000

    def all_us(self) -> float:
        return self.cost_us(len(self.vectors.rows))

    def filtered_us(self, alive: Alive) -> float:
        rows = max(1, len(self.vectors.rows))
        by_rows_us = (
            OVERHEAD_US + alive.count * (NS_PER_ROW + self.vectors.rows.size / rows * NS_PER_NUMBER_BY_ROWS) / 1000
        )
        return min(by_rows_us, self.cost_us(alive.count))

    def search(self, queries: Any, k: int, plan: Plan | None = None, alive: Alive | None = None) -> Found:
        """queries: q rows, float32. min(k, live rows) hits each."""
        n = len(self.vectors.rows)
        chosen = None if alive is None or alive.count == n else alive.rows
        return together([self._one(queries[i : i + 1], k, chosen) for i in range(len(queries))], exact=True)

    def _one(self, query: SparseRows, k: int, chosen: NDArray[np.int64] | None) -> Hit:
        """chosen: row numbers, ascending; None: all."""
        count = len(self.vectors.rows) if chosen is None else len(chosen)
        k = min(k, count)
        if k < 1:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        dots, row_squares = self._dots(query, chosen), None
        if self.vectors.metric == "cosine":
            row_squares = self._row_squares() if chosen is None else self._row_squares()[chosen]
        query_square = float(squares(query)[0])
        far = distances(self.vectors.metric, dots, query_square, row_squares)
        return self._nearest(np.arange(count) if chosen is None else chosen, far, k)

    def _dots(self, query: SparseRows, chosen: NDArray[np.int64] | None) -> NDArray[np.float64]:
        rows, postings = self.vectors.rows, self.vectors.postings
        if postings is not None:
            posted = PostedDots(query, postings, rows.indptr)
            if chosen is None or rows.size / len(rows) * len(chosen) > posted.touched + len(rows):
                dots = posted.all()
                return dots if chosen is None else dots[chosen]
        return by_rows(query, rows if chosen is None else rows[chosen])

    def _row_squares(self) -> NDArray[np.float64]:
        # Two threads may both make them; either's will do.
        if self._squares is None:
            self._squares = squares(self.vectors.rows)
        return self._squares

    def _nearest(self, rows: NDArray[np.int64], far: NDArray[np.float32], k: int) -> Hit:
        """k of the rows and their distances, nearest first."""
        kth = kth_smallest(far, k)
        nearer, tied = np.flatnonzero(far < kth), np.flatnonzero(far == kth)
        lacking = k - len(nearer)
        if len(tied) > lacking:
            tied = np.searchsorted(rows, np.sort(self.vectors.first(rows[tied], lacking)))
        places = np.concatenate((nearer, tied))
        order = np.lexsort((rows[places], far[places]))
        return rows[places][order], far[places][order]
