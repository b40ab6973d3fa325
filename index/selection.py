"""Picking the nearest out of many distances, and putting hits of many queries into one `Found`."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from index.contract import Found

Hit = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Rows and distances of one query, sorted by (distance, row)."""

SAMPLED = 16
"""A part of 1/16 bounds the k-th smallest from above; only what lies below the bound has to be sorted at all:
0.7 ms instead of 7.6 ms for 1,000,000 scores."""


def kth_smallest(scores: NDArray[np.float32], k: int) -> np.float32:
    """The k-th smallest (k from 1) of scores (n,), n ≥ k, none of them NaN."""
    n = len(scores)
    if n // SAMPLED > 2 * k and n > 20_000:
        bound = np.partition(scores[::SAMPLED], k - 1)[k - 1]
        below = scores[scores <= bound]
        if len(below) < n:
            return np.float32(np.partition(below, k - 1)[k - 1])
    return np.float32(np.partition(scores, k - 1)[k - 1])


def nearest(rows: NDArray[np.int64], distances: NDArray[np.float32], k: int) -> Hit:
    """The k nearest of (n,) rows and all that tie with the k-th."""
    if len(rows) > k:
        keep = distances <= kth_smallest(distances, k)
        rows, distances = rows[keep], distances[keep]
    order = np.lexsort((rows, distances))
    return rows[order], distances[order]


def together(hits: Sequence[Hit], exact: bool, params: Mapping[str, int] | None = None) -> Found:
    """One row of `Found` a query; as wide as the longest."""
    width = max((len(rows) for rows, _ in hits), default=0)
    shape = (len(hits), width)
    out = Found(np.full(shape, -1, np.int64), np.full(shape, np.inf, np.float32), exact, params)
    for i, (rows, distances) in enumerate(hits):
        out.rows[i, : len(rows)] = rows
        out.distances[i, : len(rows)] = distances
    return out
