"""Exact search over stored rows: small collections, pending rows, the oracle of tests and calibration, and the
answer whenever an index proposes too little.

Two steps. A fast kernel scores every row in float32, with an error that has a bound; then every row that could be
among the k nearest, given that bound, gets its distance from the one function. So the answer is the true one of
that function, ties included, and the same for a query alone and in a batch, though their kernels differ.
"""

import math

import numpy as np
from numpy.typing import NDArray

from index import copies, kernels, threads
from index.contract import Alive, Found, Plan, Vectors
from index.distance import distances
from index.only_exact import OnlyExact
from index.selection import Hit, kth_smallest, nearest, together

NS_PER_ELEMENT = 0.25
"""Measured: 60,000 × 784 float32 from memory in 11 ms on one core (0.23), 10,000 × 384 from the cache less."""
NS_PER_ELEMENT_HALF = 0.35
"""float16 rows are converted block by block: half the bytes to read, one more pass in the cache."""
NS_PER_COPIED_ELEMENT = 0.13
"""Rows of a copy that was just used, mostly in the cache: 50,000 × 128 in 0.8 ms, 10,000 × 128 in 0.19."""
NS_PER_ROW = 2.0
OVERHEAD_US = 40.0
NS_PER_GATHERED_ROW = 30.0
NS_PER_GATHERED_BYTE = 0.07
"""Rows picked out of a map: 512 bytes took 20 ns out of 5 MB, 66 ns out of 500 MB."""
NS_PER_MASKED_ROW = 0.2
"""Row numbers out of a mask."""

MAX_MATRIX_QUERIES = 1024
THREADED_QUERIES = 128
"""From this many on a batch takes all of its threads; fewer leave the other cores to other workers."""
KEPT_SCORES = 1 << 23
"""At 12 bytes each, 100 MB: what a batch may keep of its scores before the k-th is known."""
SAMPLED_ROWS = 8192
MATRIX_QUERIES = 12
"""From this many queries on a matrix product beats the direct kernel: over 1,000,000 × 128 it took 118 ms for 8 of them
and 145 for 16, where the direct one took 100 and 197."""
GATHER_BELOW = 0.25
"""With fewer rows alive than this share they are gathered; above, scoring all and masking is faster."""
BLOCK_ELEMENTS = 1 << 22
CANDIDATES = 4096
"""A matrix product subtracts large squares from each other. Where its error bound leaves more candidates than this
(and than 64 k), they are scored again by the direct kernel, whose error is relative to the distance."""


class Exact(OnlyExact):
    """Exact search over `vectors`; holds nothing of them but 4 bytes a row, and those under cosine alone.
    Satisfies `contract.Index`."""

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

    def all_us(self) -> float:
        return self.cost_us(len(self.vectors.rows))

    def pays(self, alive: Alive, other_us: float, queries: int) -> bool:
        """Whether to search these rows exactly, where another way costs other_us a query.

        Copying them out pays only where they are asked for again. Nobody knows that; so the other way is taken until
        what a copy would have saved by then has reached its price: at worst it costs twice what was best."""
        own_us, copy_us = self._filtered_us(alive)
        if own_us >= other_us:
            return False
        if not copy_us or alive.derived(copies.NAME, self.vectors) is not None:
            return True
        owed = (alive.derived("owed", self.vectors) or 0.0) + queries * (other_us - own_us)
        alive.put("owed", self.vectors, owed)
        return bool(owed >= copy_us)

    def filtered_us(self, alive: Alive) -> float:
        """What one query among these rows costs where it is not the first, µs."""
        return self._filtered_us(alive)[0]

    def _filtered_us(self, alive: Alive) -> tuple[float, float]:
        """What one query among these rows costs, and what copying them out costs once (0: they are not copied)."""
        n, d = self.vectors.rows.shape
        count = alive.count
        if count >= GATHER_BELOW * n:
            return self.cost_us(n), 0.0
        row_bytes = d * self.vectors.rows.itemsize
        gather_us = count * (NS_PER_GATHERED_ROW + row_bytes * NS_PER_GATHERED_BYTE) / 1000
        if count * row_bytes > copies.LARGEST_BYTES:
            return self.cost_us(count) + gather_us, 0.0
        half = self.vectors.rows.dtype == np.float16
        per_element = NS_PER_ELEMENT_HALF if half else NS_PER_COPIED_ELEMENT
        own_us = OVERHEAD_US + count * (d * per_element + NS_PER_ROW) / 1000
        return own_us, gather_us + n * NS_PER_MASKED_ROW / 1000

    def search(
        self, queries: NDArray[np.float32], k: int, plan: Plan | None = None, alive: Alive | None = None
    ) -> Found:
        """queries: (q, d) float32. Exactly min(k, live rows) hits, and all that tie with the last."""
        n = len(self.vectors.rows)
        if alive is not None and alive.count < GATHER_BELOW * n:
            return self._among_few(queries, k, alive)
        dead = None if alive is None or alive.count == n else ~alive.mask
        return self._search(queries, min(k, n if alive is None else alive.count), None, dead)

    def _among_few(self, queries: NDArray[np.float32], k: int, alive: Alive) -> Found:
        size = alive.count * self.vectors.rows.shape[1] * self.vectors.rows.itemsize
        if size > copies.LARGEST_BYTES:
            return self.search_rows(queries, k, alive.rows)
        copy = alive.derived(copies.NAME, self.vectors)
        if copy is None:
            copy = alive.derive(copies.NAME, self.vectors, lambda: self._copied(alive.rows))
            copies.shelf.put(alive, size)
        else:
            copies.shelf.use(alive)
        found: Found = copy.search(queries, k)
        if not alive.count:
            return found
        # The copy's rows are in order, so whatever was sorted by (distance, place) is by (distance, row).
        rows = np.where(found.rows < 0, -1, alive.rows[found.rows])
        return Found(rows, found.distances, exact=True)

    def _copied(self, rows: NDArray[np.int64]) -> "Exact":
        # "clip" spares the check of each number (they are rows): half the time of indexing.
        copy = np.asarray(self.vectors.rows).take(rows, axis=0, mode="clip")
        return Exact(Vectors(copy, self.vectors.norms[rows], self.vectors.metric))

    def surely_farther(self, queries: NDArray[np.float32], squares: NDArray[np.float32], k: int) -> NDArray[np.bool_]:
        """Which of the rows that Faiss has compared with queries (q, d) cannot be among the k nearest of them, (q, w).

        squares: of their distances, as Faiss has summed them in float32, (q, w), ascending. Told under l2 alone."""
        if self.vectors.metric != "l2" or not self._scorer.sane(queries):
            return np.zeros(squares.shape, np.bool_)
        slack = self._scorer.direct_slack(queries[0])  # under l2 that of every query
        kth = squares[:, k - 1 : k].astype(np.float64)  # where a row is missing it is float32's largest
        return squares > kth * (1 + slack.relative) + slack.absolute

    def search_rows(self, queries: NDArray[np.float32], k: int, rows: NDArray[np.int64]) -> Found:
        """The same among the given rows (ascending, each once) alone."""
        return self._search(queries, min(k, len(rows)), rows, None)

    def _search(
        self, queries: NDArray[np.float32], k: int, rows: NDArray[np.int64] | None, dead: NDArray[np.bool_] | None
    ) -> Found:
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if k < 1:
            return together([_none() for _ in queries], exact=True)
        n = len(self.vectors.rows) if rows is None else len(rows)
        few = max(1, min(MATRIX_QUERIES, KEPT_SCORES // n))

        def search(part: slice) -> list[Hit]:
            some = queries[part]
            if len(some) >= MATRIX_QUERIES and self._scorer.sane(some):
                return self._by_matrix(some, k, rows, dead)
            several = range(0, len(some), few)
            return [hit for first in several for hit in self._directly(some[first : first + few], k, rows, dead)]

        step = self._queries_at_once(n, k)
        if len(queries) >= THREADED_QUERIES:
            step = min(step, math.ceil(len(queries) / threads.batch_threads()))
        parts = [slice(start, start + step) for start in range(0, len(queries), step)]
        hits = threads.each(search, parts) if len(queries) >= THREADED_QUERIES else [search(part) for part in parts]
        return together([hit for some in hits for hit in some], exact=True)

    @staticmethod
    def _queries_at_once(n: int, k: int) -> int:
        sampled = min(n, _sample_size(k))
        kept = sampled + k * n // sampled
        return max(MATRIX_QUERIES, min(MAX_MATRIX_QUERIES, KEPT_SCORES // kept))

    def _directly(
        self, queries: NDArray[np.float32], k: int, rows: NDArray[np.int64] | None, dead: NDArray[np.bool_] | None
    ) -> list[Hit]:
        if not self._scorer.sane(queries):
            if len(queries) == 1:
                return [self._measured(queries[0], k, _chosen(len(self.vectors.rows), rows, dead))]
            return [hit for i in range(len(queries)) for hit in self._directly(queries[i : i + 1], k, rows, dead)]
        hits = []
        for query, scores in zip(queries, self._scorer.direct(queries, rows), strict=True):
            if dead is not None:
                scores[dead] = np.inf
            places = np.flatnonzero(scores <= self._scorer.direct_slack(query).above(kth_smallest(scores, k)))
            hits.append(self._measured(query, k, places if rows is None else rows[places]))
        return hits

    def _by_matrix(
        self, queries: NDArray[np.float32], k: int, rows: NDArray[np.int64] | None, dead: NDArray[np.bool_] | None
    ) -> list[Hit]:
        slacks = [self._scorer.matrix_slack(query) for query in queries]
        # The k-th smallest score of some rows bounds that of all. So the blocks below keep a few scores each, and
        # the matrix of all scores never exists: writing it and reading it again took longer than the product.
        every = _chosen(len(self.vectors.rows), rows, dead)
        sampled = every[:: max(1, len(every) // _sample_size(k))]
        some = np.concatenate([scores for _, scores in self._scorer.matrix(queries, sampled)], axis=1)
        kth = np.partition(some, k - 1, axis=1)[:, k - 1]
        bounds = np.array([slack.above(score) for slack, score in zip(slacks, kth, strict=True)])
        kept: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
        for part, scores in self._scorer.matrix(queries, rows):
            near = scores <= bounds[:, None]
            if dead is not None:
                near &= ~dead[part]
            flat = np.flatnonzero(near)
            query_numbers, places = np.divmod(flat, scores.shape[1])
            n = len(self.vectors.rows) if rows is None else len(rows)
            kept.append((query_numbers * n + places + part.start, scores.ravel()[flat]))
        return self._apart(queries, k, rows, kept, slacks)

    def _apart(
        self,
        queries: NDArray[np.float32],
        k: int,
        rows: NDArray[np.int64] | None,
        kept: list[tuple[NDArray[np.int64], NDArray[np.float32]]],
        slacks: list[kernels.Slack],
    ) -> list[Hit]:
        """The kept scores of all blocks, query by query. kept: (query · n + place, score) of each block."""
        n = len(self.vectors.rows) if rows is None else len(rows)
        flat, scores = np.concatenate([f for f, _ in kept]), np.concatenate([s for _, s in kept])
        order = np.argsort(flat)
        flat, scores = flat[order], scores[order]
        ends = np.searchsorted(flat, np.arange(len(queries) + 1) * n)
        hits = []
        for i, (query, slack) in enumerate(zip(queries, slacks, strict=True)):
            mine = slice(int(ends[i]), int(ends[i + 1]))
            places = flat[mine] - i * n
            wanted = places if rows is None else rows[places]
            near = scores[mine] <= slack.above(kth_smallest(scores[mine], k))
            if np.count_nonzero(near) > max(CANDIDATES, 64 * k):
                hits.extend(self._directly(query[None], k, wanted[near], None))
            else:
                hits.append(self._measured(query, k, wanted[near]))
        return hits

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


def _sample_size(k: int) -> int:
    return max(SAMPLED_ROWS, 16 * k)


def _none() -> Hit:
    return np.empty(0, np.int64), np.empty(0, np.float32)
