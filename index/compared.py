"""What a graph compares: the segment's own bytes, or a copy in its file, of 8 bits a number where that is fine enough.

A copy costs its bytes on disk and in the page cache, but a search then touches a quarter or half of the bytes, and
takes that much less time (docs/indexes.md); what it proposes is ranked by the one distance from the segment.

Copies are compared by Euclidean distance. By inner product a rounding error counts in full, near as far: of
100,000 × 128 under cosine it cost 0.008 of recall, however long the search; by Euclidean distance nothing.
"""

import math
from functools import cached_property
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index import source
from index.contract import Vectors
from index.halves import as_float32

SIMD_WIDTH = 16
"""Faiss compares float16 with vector instructions only where the dimension is a multiple of this: 785 numbers took
six times as long as 800."""
COARSENESS = (faiss.ScalarQuantizer.QT_8bit, faiss.ScalarQuantizer.QT_fp16)
FINE_ENOUGH = 0.08
"""Rounding moves most vectors by less than this share of the way to the nearest other one of a sample. Measured on
fashion-mnist, photo-sift and words: at 0.08 the 10 nearest were among the nearest 14 of what was rounded, at 0.16 all
but 0.5 % of them."""
MOST_OF_THEM = 0.95
ASKED, AMONG, SAMPLE_ELEMENTS = 256, 4096, 1 << 22
READ_BYTES = 16 << 20
SAME = 1e-13
"""Of the sum of their squares: vectors that are nearer in squares are the same, but for rounding in float64."""


class Compared:
    """copied: not the segment's own bytes; codes: the copy's numbers by Faiss' name, None: float32."""

    def __init__(self, vectors: Vectors, *, copied: bool, codes: int | None = None) -> None:
        self.vectors = vectors
        self.copied = copied
        self._codes = codes if copied or vectors.rows.dtype == np.float32 else faiss.ScalarQuantizer.QT_fp16
        self._largest = np.maximum(vectors.norms.max(initial=0), np.float32(1e-38))
        # A power of two that brings every norm to 1 or less: whole numbers keep all their bits.
        self._scale = np.float32(2.0 ** -float(np.frexp(self._largest)[1]))
        d = int(vectors.rows.shape[1])
        needed = d + 1 if vectors.metric == "dot" else d
        self.width = math.ceil(needed / SIMD_WIDTH) * SIMD_WIDTH if copied else d
        """Numbers a vector has here."""
        by_product = vectors.metric == "dot" and not copied
        self.metric = faiss.METRIC_INNER_PRODUCT if by_product else faiss.METRIC_L2

    @property
    def metrics(self) -> tuple[int, ...]:
        """Of graphs that can be opened: under cosine they used to compare by inner product."""
        return (self.metric, faiss.METRIC_INNER_PRODUCT) if self.vectors.metric == "cosine" else (self.metric,)

    def empty(self, m: int) -> Any:
        """A graph without nodes."""
        if self._codes is None:
            return faiss.IndexHNSWFlat(self.width, m, self.metric)
        graph = faiss.IndexHNSWSQ(self.width, self._codes, m, self.metric)
        if not graph.is_trained:
            graph.train(self._bounds)
        return graph

    @cached_property
    def _bounds(self) -> NDArray[np.float32]:
        """The least and the greatest of each number, (2, width), of all rows: 8 bits know nothing beyond what they were
        trained on, and under dot it is the longest vectors that are found. (Of a sample, fashion-mnist lost 0.15.)"""
        step = max(1, READ_BYTES // (4 * self.width))
        n = len(self.vectors.rows)
        blocks = (self.rows(np.arange(start, min(n, start + step))) for start in range(0, n, step))
        bounds = np.array([(block.min(axis=0), block.max(axis=0)) for block in blocks])
        return np.stack([bounds[:, 0].min(axis=0), bounds[:, 1].max(axis=0)])

    def is_copied_in(self, storage: Any) -> bool:
        """Whether a few of its vectors are these, but for rounding: the widths of copies are no proof."""
        n = len(self.vectors.rows)
        rows = _spread(n, 3)
        there = np.stack([storage.reconstruct(int(row)) for row in rows])
        here = self.rows(rows)
        return bool((np.linalg.norm(there - here, axis=1) <= 0.5 * np.linalg.norm(here, axis=1)).all())

    def rounded(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rows (m, width) as the copy has them."""
        graph = self.empty(2)  # it owns its storage
        storage = faiss.downcast_index(graph.storage)
        decoded: NDArray[np.float32] = storage.sa_decode(storage.sa_encode(rows))
        return decoded

    def rows(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Some rows, (m, width).

        A graph by inner product leads everything to the longest vectors and leaves nodes without a way in: on
        fashion-mnist it never found 0.9. So under dot all are scaled to norm 1 or less and lifted onto the sphere by
        one more dimension; there the nearest of a query (with 0 in it) are those of the greatest inner product."""
        block = as_float32(self.vectors.rows[rows])
        if not self.copied:
            return block
        norms, d = self.vectors.norms[rows], block.shape[1]
        out = np.zeros((len(block), self.width), np.float32)
        if self.vectors.metric == "cosine":
            out[:, :d] = source.unit(block, norms)
        elif self.vectors.metric == "dot":
            np.divide(block, self._largest, out=out[:, :d])
            out[:, d] = np.sqrt(np.maximum(np.float32(1) - np.square(norms / self._largest), np.float32(0)))
        else:
            np.multiply(block, self._scale, out=out[:, :d])
        return out

    def queries(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Queries (q, d) as they are compared, (q, width)."""
        if not self.copied:
            return _unit(queries) if self.vectors.metric == "cosine" else queries
        out = np.zeros((len(queries), self.width), np.float32)
        out[:, : queries.shape[1]] = queries * self._scale if self.vectors.metric == "l2" else _unit(queries)
        return out


def _unit(queries: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.sqrt(np.maximum(np.vecdot(queries, queries), np.float32(1e-38)))
    return np.asarray(queries / lengths[:, None])


def chosen(vectors: Vectors) -> Compared:
    """What a graph is to be built over."""
    d = vectors.rows.shape[1]
    as_stored = vectors.metric == "l2" or source.are_unit(vectors)
    if as_stored and vectors.rows.dtype == np.float16 and d % SIMD_WIDTH == 0:
        return Compared(vectors, copied=False)
    for codes in COARSENESS:
        copy = Compared(vectors, copied=True, codes=codes)
        if _fine_enough(copy):
            return copy
    return Compared(vectors, copied=not as_stored)


def _fine_enough(copy: Compared) -> bool:
    """Whether what is rounded still tells neighbours apart: what lies close together, far from all else, may not."""
    others = copy.rows(_spread(len(copy.vectors.rows), min(AMONG, SAMPLE_ELEMENTS // copy.width)))
    if not np.isfinite(others).all():
        return False
    some = others[:: math.ceil(len(others) / ASKED)]
    moved = np.linalg.norm(some - copy.rounded(some), axis=1)
    centre = others.mean(axis=0, dtype=np.float64)
    a, b = some - centre, others - centre
    lengths = np.vecdot(a, a)[:, None] + np.vecdot(b, b)
    squares = lengths - 2 * a @ b.T
    # Itself and copies of it are as near after rounding: the nearest other one counts.
    apart = np.sqrt(np.where(squares <= SAME * lengths, np.inf, squares).min(axis=1))
    return bool(np.quantile(moved / apart, MOST_OF_THEM) <= FINE_ENOUGH)


def _spread(n: int, most: int) -> NDArray[np.int64]:
    """Of n rows at most so many, two at least."""
    return np.linspace(0, n - 1, max(2, min(n, most)), dtype=np.int64)
