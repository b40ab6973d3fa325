"""The true nearest of many queries: one pass over the rows, whatever the k.

Faiss' matrix product finds k and some more, piece by piece; the one distance decides among them. Only how far they
are is kept: whatever is no farther than the true k-th counts as found.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index import threads
from index.calibration import ks
from index.contract import Vectors
from index.distance import distances
from index.halves import as_float32
from index.pacing import Progress

MAX_QUERIES = 5000
MIN_QUERIES = 1000
TRUTH_PRODUCTS = 2.5e11
"""Multiplications for the exact answers: 2 to 4 s on two cores. 5,000 queries on 1,000,000 × 128 would take longer
than placing the vectors into lists, for a bound that is tighter by 0.001."""
QUERIES = {1: MAX_QUERIES, 10: 3000, 100: 600, 1000: 160}
"""A query gives as many answers as k, though not independent ones; for the larger k each costs more, and is as sure."""
BLOCK_ELEMENTS = 1 << 23
"""Rows are read in blocks of 32 MiB."""
SPARE = 6
"""Places past the k-th: the product's order and ours differ by rounding."""


@dataclass(frozen=True, slots=True)
class Group:
    """Queries for one k. queries: (q, d) float32; kth: (q,) float32, the distance of the true k-th nearest."""

    k: int
    queries: NDArray[np.float32]
    kth: NDArray[np.float32]


Groups = tuple[Group, ...]
"""By rising k. The queries of a larger k are the first of those of a smaller one."""


def held_out(rows: int, dimension: int, seed: int = 20) -> NDArray[np.int64]:
    """Rows to be the queries, ascending, drawn evenly: a tenth, at most 5,000, and from 1,000 on only as many as the
    truth about them can be had for in reasonable time."""
    count = min(_affordable(rows, dimension), rows // 10)
    return np.sort(np.random.default_rng(seed).choice(rows, count, replace=False)).astype(np.int64)


def _affordable(rows: int, dimension: int) -> int:
    return min(MAX_QUERIES, max(MIN_QUERIES, int(TRUTH_PRODUCTS / (rows * dimension))))


def grouped(
    vectors: Vectors,
    queries: NDArray[np.float32],
    rows: NDArray[np.int64] | None,
    progress: Progress,
    seed: int = 23,
) -> Groups:
    """The queries and the truth about them among `rows` (ascending; None: all), for every k that so many rows allow.

    They are put into a random order: neighbours in a file or in a session are alike, and each k takes the first."""
    n = len(vectors.rows) if rows is None else len(rows)
    order = np.random.default_rng(seed).permutation(len(queries))[: _affordable(n, vectors.rows.shape[1])]
    asked = np.ascontiguousarray(queries[order])
    wanted = [(k, min(QUERIES[k], len(asked))) for k in ks(n)]
    # The first few are asked for the many, the others for fewer: each query is looked up once.
    parts, begin = [], 0
    for k, end in reversed(wanted):
        parts.append((k, asked[begin:end]))
        begin = max(begin, end)
    nearest = true_distances(vectors, parts, rows, progress)
    groups = []
    for k, end in wanted:
        kth = np.concatenate([near[:, k - 1] for (most, _), near in zip(parts, nearest, strict=True) if most >= k])
        groups.append(Group(k, asked[:end], kth[:end]))
    return tuple(groups)


def kth_distances(
    vectors: Vectors, queries: NDArray[np.float32], k: int, rows: NDArray[np.int64] | None, progress: Progress
) -> NDArray[np.float32]:
    """Distance of the true k-th nearest among `rows` (None: all) of each query, (q,) float32. At least k rows."""
    return true_distances(vectors, [(k, queries)], rows, progress)[0][:, k - 1]


def true_distances(
    vectors: Vectors,
    parts: Sequence[tuple[int, NDArray[np.float32]]],
    rows: NDArray[np.int64] | None,
    progress: Progress,
) -> list[NDArray[np.float32]]:
    """For every part (k, queries (q, d)): how far the k nearest among `rows` (None: all) are, (q, k), ascending."""
    n = len(vectors.rows) if rows is None else len(rows)
    product = vectors.metric != "l2"
    # Under cosine the longer query is no nearer; but a product of large numbers loses the small differences.
    asked = [_unit(queries) if vectors.metric == "cosine" else queries for _, queries in parts]
    wide = [min(n, k + max(SPARE, k // 20)) for k, _ in parts]
    heaps = [faiss.ResultHeap(len(q), w, keep_max=product) for q, w in zip(asked, wide, strict=True)]
    threads.use(threads.batch_threads())
    step = max(max(wide), BLOCK_ELEMENTS // vectors.rows.shape[1])
    for start in range(0, n, step):
        block = _block(vectors, slice(start, min(n, start + step)), rows)
        for queries, width, heap in zip(asked, wide, heaps, strict=True):
            if len(queries):
                metric = faiss.METRIC_INNER_PRODUCT if product else faiss.METRIC_L2
                near, places = faiss.knn(queries, block, min(width, len(block)), metric=metric)
                heap.add_result(near, places + start)
        progress((start + len(block)) / n)
    return [_measured(vectors, k, queries, heap, rows) for (k, queries), heap in zip(parts, heaps, strict=True)]


def _block(vectors: Vectors, part: slice, rows: NDArray[np.int64] | None) -> NDArray[np.float32]:
    which: Any = part if rows is None else rows[part]
    block = as_float32(vectors.rows[which])
    if vectors.metric == "cosine":
        block = block / vectors.norms[which][:, None]
    return block


def _unit(queries: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.sqrt(np.maximum(np.vecdot(queries, queries), np.float32(1e-38)))
    return np.asarray(queries / lengths[:, None])


def _measured(
    vectors: Vectors, k: int, queries: NDArray[np.float32], heap: Any, rows: NDArray[np.int64] | None
) -> NDArray[np.float32]:
    heap.finalize()
    out = np.empty((len(queries), k), dtype=np.float32)
    for query, places, line in zip(queries, heap.I, out, strict=True):
        places = places[places >= 0]
        near = distances(vectors.metric, query, vectors.rows[places if rows is None else rows[places]])
        line[:] = np.sort(near)[:k]
    return out
