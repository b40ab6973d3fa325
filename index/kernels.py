"""Fast scores of all rows, and a bound on how wrong they can be.

A score orders rows as the distance does (smaller is nearer) but is not the distance: l2 the square (or the square
less the query's own), dot the negative inner product, cosine the negative inner product over the row's norm.
The bounds hold for any order of summation: a sum of d products in float32 is off by at most (d+1)·u·Σ|aᵢbᵢ|.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from index import distance
from index.contract import Vectors
from index.halves import as_float32

U = 2.0**-24
"""Half the spacing of float32 at 1."""
CACHED_ELEMENTS = 1 << 18
"""Rows that are converted, gathered or asked for by several queries are scored in pieces of 1 MiB, which stay in the
cache in between: 8 queries over 60,000 × 784 took 30 ms instead of 69."""
MATRIX_ELEMENTS = 1 << 20
BLAS_QUERIES = 64
"""With fewer OpenBLAS is up to twice as quick where they stand on the right: 16 queries over 60,000 × 784 took 34 ms
instead of 49; with more the transposed scores cost what that spares."""
SMALLEST, LARGEST = 1e-12, 1e15
"""Norms outside of these would over- or underflow in a square; those queries and segments are measured row by row."""


@dataclass(frozen=True, slots=True)
class Slack:
    """How far the score of a row that belongs to the k nearest can lie above the k-th smallest score."""

    relative: float
    absolute: float

    def above(self, score: np.float32) -> np.float32:
        bound = float(score) + self.absolute + self.relative * abs(float(score))
        return np.float32(np.nextafter(np.float32(bound), np.float32(np.inf)))


class Scorer:
    """Scores rows of one segment. Thread-safe: it only reads."""

    def __init__(self, vectors: Vectors) -> None:
        self._rows, self._norms, self._metric = vectors.rows, vectors.norms, vectors.metric
        n = len(vectors.rows)
        self._largest = float(vectors.norms.max()) if n else 0.0
        smallest = float(vectors.norms.min()) if n else 0.0
        # Under cosine every norm is divided by; under l2 and dot a zero vector is like any other.
        self._in_range = self._largest < LARGEST and (
            smallest > SMALLEST if self._metric == "cosine" else self._largest > SMALLEST
        )
        self._inverse = np.float32(-1) / vectors.norms if self._metric == "cosine" and self._in_range else None
        # u times the number of roundings in a score or in the distance itself, with some to spare.
        self._gamma = (vectors.rows.shape[1] + 16) * U

    def sane(self, queries: NDArray[np.float32]) -> bool:
        """Whether scores of these queries (q, d) can be trusted at all."""
        if not self._in_range:
            return False
        norms = distance.norms(queries)
        low = SMALLEST if self._metric == "cosine" else 0.0
        # A dot product with a minute query is ordered by digits that float32 has lost.
        low = max(low, SMALLEST) if self._metric == "dot" else low
        return bool(norms.min(initial=1.0) >= low and norms.max(initial=1.0) < LARGEST)

    def direct(self, queries: NDArray[np.float32], wanted: NDArray[np.int64] | None) -> NDArray[np.float32]:
        """Scores (q, n) of few queries (q, d) with all rows, or with those wanted, on this thread alone."""
        queries = self._units(queries)
        n, d = len(self._rows) if wanted is None else len(wanted), queries.shape[1]
        scores = np.empty((len(queries), n), dtype=np.float32)
        as_they_lie = wanted is None and self._rows.dtype == np.float32 and self._rows.flags.c_contiguous
        # For a single query there is nothing to keep in the cache.
        step = n if as_they_lie and len(queries) == 1 else CACHED_ELEMENTS // d
        for part, block in self._blocks(wanted, max(1, step)):
            for query, out in zip(queries, scores, strict=True):
                self._kernel(out[part], query, block)
        if self._metric == "dot":
            np.negative(scores, out=scores)
        elif self._inverse is not None:
            scores *= self._inverse if wanted is None else self._inverse[wanted]
        return scores

    def _kernel(self, out: NDArray[np.float32], query: NDArray[np.float32], rows: NDArray[np.float32]) -> None:
        kernel = faiss.fvec_L2sqr_ny if self._metric == "l2" else faiss.fvec_inner_products_ny
        kernel(faiss.swig_ptr(out), faiss.swig_ptr(query), faiss.swig_ptr(rows), rows.shape[1], len(rows))

    def matrix(
        self, queries: NDArray[np.float32], wanted: NDArray[np.int64] | None
    ) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Scores (q, b) of a batch by matrix products, a block of b rows at a time, small enough for the cache."""
        queries = self._units(queries)
        if self._metric == "l2":
            queries = queries * np.float32(-2)
        elif self._metric == "dot":
            queries = -queries
        step = max(256, MATRIX_ELEMENTS // max(queries.shape))
        for part, block in self._blocks(wanted, step):
            many = len(queries) >= BLAS_QUERIES
            scores = queries @ block.T if many else np.ascontiguousarray((block @ queries.T).T)
            places = part if wanted is None else wanted[part]
            if self._metric == "l2":
                scores += np.square(self._norms[places])
            elif self._inverse is not None:
                scores *= self._inverse[places]
            yield part, scores

    def direct_slack(self, query: NDArray[np.float32]) -> Slack:
        if self._metric == "l2":
            # Score and measured square are each within gamma of the true square, on both sides of the k-th.
            return Slack(5 * self._gamma, 1e-35)
        return self._product_slack(query)

    def matrix_slack(self, query: NDArray[np.float32]) -> Slack:
        if self._metric == "l2":
            # |r|² − 2 q·r: the error goes with the norms, however near the two vectors are.
            reach = float(distance.norms(query[None])[0]) + self._largest
            return Slack(5 * self._gamma, 8 * self._gamma * reach * reach + 1e-35)
        return self._product_slack(query)

    def _product_slack(self, query: NDArray[np.float32]) -> Slack:
        if self._metric == "cosine":
            return Slack(0.0, 10 * self._gamma)
        reach = float(distance.norms(query[None])[0]) * self._largest
        return Slack(0.0, 5 * self._gamma * reach + 1e-35)

    def _units(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        return queries / distance.norms(queries)[:, None] if self._metric == "cosine" else queries

    def _blocks(self, wanted: NDArray[np.int64] | None, step: int) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        total = len(self._rows) if wanted is None else len(wanted)
        for start in range(0, total, step):
            part = slice(start, min(start + step, total))
            # "clip" spares the check of each number: half the time of indexing.
            block = self._rows[part] if wanted is None else self._rows.take(wanted[part], axis=0, mode="clip")
            yield part, as_float32(block)
