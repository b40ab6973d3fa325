"""The true nearest of many queries, by the exact search. Only how far they are is kept: whatever is no farther than
the true k-th counts as found.

At k = 1 and 10 Faiss' own `knn` is a sixth faster, at 100 and 1,000 three times slower: it keeps the k nearest of every
block, where the exact search learns from a sample what need not be kept.

Each thread takes queries of its own. NumPy's matrix product over two threads took three times the processor time of one
on blocks as small as these: its threads wait for each other, spinning (app/keeping.py leaves it one).
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index import threads
from index.calibration import ks
from index.contract import Alive, Vectors
from index.exact import Exact
from index.pacing import Progress
from index.reach import reach

MAX_QUERIES = 5000
MIN_QUERIES = 1000
TRUTH_PRODUCTS = 1.5e11
"""Multiplications for the exact answers: 2 to 4 s on two cores, and as much again to search with as many queries. 5,000
on 1,000,000 × 128 would take longer than placing the vectors into lists, for a bound that is tighter by 0.002."""
QUERIES = {1: MAX_QUERIES, 10: 2000, 100: 320, 1000: 80}
"""A query gives as many answers as k, though not independent ones; for the larger k each costs more, and is as sure."""
AT_ONCE = 256
"""In one matrix product: the pace of larger ones, and progress is told in between."""


@dataclass(frozen=True, slots=True)
class Group:
    """Queries for one k. queries: (q, d) float32; kth: (q,) float32, the distance of the true k-th nearest; reach: of
    them all (`reach.py`)."""

    k: int
    queries: NDArray[np.float32]
    kth: NDArray[np.float32]
    reach: float | None = None


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
        groups.append(Group(k, asked[:end], kth[:end], reach(vectors.metric, asked[:end], kth[:end])))
    return tuple(groups)


def kth_distances(
    vectors: Vectors, queries: NDArray[np.float32], k: int, rows: NDArray[np.int64] | None, progress: Progress
) -> NDArray[np.float32]:
    """Distance of the true k-th nearest among `rows` (ascending; None: all) of each query, (q,) float32. At least k
    rows."""
    return true_distances(vectors, [(k, queries)], rows, progress)[0][:, k - 1]


def true_distances(
    vectors: Vectors,
    parts: Sequence[tuple[int, NDArray[np.float32]]],
    rows: NDArray[np.int64] | None,
    progress: Progress,
) -> list[NDArray[np.float32]]:
    """For every part (k, queries (q, d)): how far the k nearest among `rows` (None: all) are, (q, k), ascending."""
    exact, among = Exact(vectors), None if rows is None else _only(rows, len(vectors.rows))
    out = [np.empty((len(queries), k), np.float32) for k, queries in parts]
    pieces = [(i, slice(a, a + AT_ONCE)) for i, (_, q) in enumerate(parts) for a in range(0, len(q), AT_ONCE)]
    total, done = sum(len(queries) for _, queries in parts), 0

    def look(piece: tuple[int, slice]) -> int:
        number, some = piece
        k, queries = parts[number]
        out[number][some] = exact.search(queries[some], k, None, among).distances[:, :k]
        return len(queries[some])

    with ThreadPoolExecutor(threads.batch_threads(), "truth") as pool:
        try:
            for asked in pool.map(look, pieces):
                done += asked
                progress(done / total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return out


def _only(rows: NDArray[np.int64], n: int) -> Alive:
    mask = np.zeros(n, bool)
    mask[rows] = True
    return Alive.of(mask)
