"""Exact search over stored rows: small collections, pending rows, the oracle of tests and calibration, and the
answer whenever an index proposes too little.

Two steps. A fast kernel scores every row in float32, with an error that has a bound; then every row that could be
among the k nearest, given that bound, gets its distance from the one function. So the answer is the true one of
that function, ties included, and the same for a query alone and in a batch, though their kernels differ.
"""

import numpy as np
from numpy.typing import NDArray

from index import kernels
from index.contract import Alive, Found, Plan, Vectors
from index.distance import distances
from index.selection import Hit, kth_smallest, nearest, together

NS_PER_ELEMENT = 0.25
"""Measured: 60,000 × 784 float32 from memory in 11 ms on one core (0.23), 10,000 × 384 from the cache less."""
NS_PER_ELEMENT_HALF = 0.35
"""float16 rows are converted block by block: half the bytes to read, one more pass in the cache."""
NS_PER_ROW = 2.0
OVERHEAD_US = 40.0

SCORE_BYTES = 192 << 20
MATRIX_QUERIES = 4
"""From this many queries on a matrix product beats the direct kernel, query by query."""
GATHER_BELOW = 0.25
"""With fewer rows alive than this share they are gathered; above, scoring all and masking is faster."""
BLOCK_ELEMENTS = 1 << 22
CANDIDATES = 4096
"""A matrix product subtracts large squares from each other. Where its error bound leaves more candidates than this
(and than 64 k), they are scored again by the direct kernel, whose error is relative to the distance."""


class Exact:
    """Exact search over `vectors`; holds nothing of them but 4 bytes a row, and those under cosine alone.
    Satisfies `contract.Index`."""

    kind = "flat"

    def __init__(self, vectors: Vectors) -> None:
        if vectors.rows.ndim != 2 or vectors.norms.shape != (len(vectors.rows),):
            raise ValueError(f"rows {vectors.rows.shape} and norms {vectors.norms.shape} do not belong together")
        self.vectors = vectors
        self._scorer = kernels.Scorer(vectors)

    def cost_us(self, rows: int) -> float:
        """One query over so many rows on one thread, µs."""
        d = self.vectors.rows.shape[1]
        half = self.vectors.rows.dtype == np.float16
        return exact_cost_us(rows, d, half)

    def plan(self, k: int, recall: float) -> Plan:
        return Plan({}, 1.0, self.cost_us(len(self.vectors.rows)), exact=True)

    def search(
        self, queries: NDArray[np.float32], k: int, plan: Plan | None = None, alive: Alive | None = None
    ) -> Found:
        """queries: (q, d) float32. Exactly min(k, live rows) hits, and all that tie with the last."""
        n = len(self.vectors.rows)
        if alive is not None and alive.count < GATHER_BELOW * n:
            return self.search_rows(queries, k, np.flatnonzero(alive.mask))
        dead = None if alive is None or alive.count == n else ~alive.mask
        return self._search(queries, min(k, n if alive is None else alive.count), None, dead)

    def search_rows(self, queries: NDArray[np.float32], k: int, rows: NDArray[np.int64]) -> Found:
        """The same among the given rows (ascending, each once) alone."""
        return self._search(queries, min(k, len(rows)), rows, None)

    def _search(
        self, queries: NDArray[np.float32], k: int, rows: NDArray[np.int64] | None, dead: NDArray[np.bool_] | None
    ) -> Found:
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if k < 1:
            return together([_none() for _ in queries])
        n = len(self.vectors.rows) if rows is None else len(rows)
        step = max(1, SCORE_BYTES // (4 * n))
        hits: list[Hit] = []
        for start in range(0, len(queries), step):
            part = queries[start : start + step]
            if len(part) >= MATRIX_QUERIES and self._scorer.sane(part):
                hits.extend(self._by_matrix(part, k, rows, dead))
            else:
                hits.extend(self._one(query, k, rows, dead) for query in part)
        return together(hits)

    def _one(
        self, query: NDArray[np.float32], k: int, rows: NDArray[np.int64] | None, dead: NDArray[np.bool_] | None
    ) -> Hit:
        if not self._scorer.sane(query[None]):
            return self._measured(query, k, _chosen(len(self.vectors.rows), rows, dead))
        scores = self._scorer.direct(query, rows)
        if dead is not None:
            scores[dead] = np.inf
        return self._settle(query, k, rows, scores, self._scorer.direct_slack(query))

    def _by_matrix(
        self, queries: NDArray[np.float32], k: int, rows: NDArray[np.int64] | None, dead: NDArray[np.bool_] | None
    ) -> list[Hit]:
        scores = self._scorer.matrix(queries, rows)
        if dead is not None:
            scores[:, dead] = np.inf
        hits = []
        for query, row_scores in zip(queries, scores, strict=True):
            slack = self._scorer.matrix_slack(query)
            near = row_scores <= slack.above(kth_smallest(row_scores, k))
            if np.count_nonzero(near) > max(CANDIDATES, 64 * k):
                left = np.flatnonzero(near) if rows is None else rows[near]
                hits.append(self._one(query, k, left, None))
            else:
                hits.append(self._settle(query, k, rows, row_scores, slack))
        return hits

    def _settle(
        self,
        query: NDArray[np.float32],
        k: int,
        rows: NDArray[np.int64] | None,
        scores: NDArray[np.float32],
        slack: kernels.Slack,
    ) -> Hit:
        """From scores (n,) to hits: all that could be among the k nearest, measured."""
        places = np.flatnonzero(scores <= slack.above(kth_smallest(scores, k)))
        return self._measured(query, k, places if rows is None else rows[places])

    def _measured(self, query: NDArray[np.float32], k: int, rows: NDArray[np.int64]) -> Hit:
        out = np.empty(len(rows), dtype=np.float32)
        step = max(1, BLOCK_ELEMENTS // len(query))
        for start in range(0, len(rows), step):
            block = self.vectors.rows[rows[start : start + step]]
            out[start : start + step] = distances(self.vectors.metric, query, block)
        return nearest(rows, out, k)


def exact_cost_us(rows: int, dimension: int, half: bool) -> float:
    """What one exact query over so many rows costs on one thread, µs."""
    per_element = NS_PER_ELEMENT_HALF if half else NS_PER_ELEMENT
    return OVERHEAD_US + rows * (dimension * per_element + NS_PER_ROW) / 1000


def _chosen(n: int, rows: NDArray[np.int64] | None, dead: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    if rows is not None:
        return rows
    return np.arange(n) if dead is None else np.flatnonzero(~dead)


def _none() -> Hit:
    return np.empty(0, np.int64), np.empty(0, np.float32)
