"""The one distance of the contract. Whatever proposes a row, its distance comes from here.

Nothing in here depends on how many pairs are asked for: each pair is one `sdot` of its own (`np.vecdot`), never a
matrix product, whose order of summation changes with the shape of the batch. So a pair has bit for bit the same
distance alone, in a batch, and under every index.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.contract import Metric
from index.halves import as_float32

BLOCK_DIMENSIONS = 8192
"""OpenBLAS splits a dot product of more than 10,000 numbers over its threads: the sum would depend on how many."""

TINY = np.float32(1e-30)
HUGE = np.float32(1e30)
"""Squares outside of TINY … HUGE have lost digits, or all of them, in float32: those pairs are done in float64."""

NEAR, FAR = 1e-14, 1e14
"""Well within their roots."""

LARGEST = float(np.finfo(np.float32).max)


def _dot(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    d = a.shape[-1]
    if d <= BLOCK_DIMENSIONS:
        return np.asarray(np.vecdot(a, b))
    total = np.asarray(np.vecdot(a[..., :BLOCK_DIMENSIONS], b[..., :BLOCK_DIMENSIONS]))
    for start in range(BLOCK_DIMENSIONS, d, BLOCK_DIMENSIONS):
        stop = start + BLOCK_DIMENSIONS
        total = total + np.vecdot(a[..., start:stop], b[..., start:stop])
    return total


def _cosine_from(dot: NDArray[Any], query_square: NDArray[Any], row_square: NDArray[Any]) -> NDArray[Any]:
    # One root of the product, in float64: for a vector and itself it is root(s·s) = s exactly, so 1 - s/s is 0.
    product = np.multiply(query_square, row_square, dtype=np.float64)
    return np.asarray(np.clip(1.0 - dot / np.sqrt(product), 0.0, 2.0))


def _wide(metric: Metric, query: NDArray[Any], rows: NDArray[Any]) -> NDArray[np.float64]:
    """The same in float64, for pairs (m, d) whose squares do not fit float32."""
    q, r = query.astype(np.float64), rows.astype(np.float64)
    if metric == "l2":
        q -= r
        return np.asarray(np.sqrt(_dot(q, q)))
    if metric == "dot":
        return -_dot(q, r)
    # Scaled by the largest entry, for the squares of 1e-200 (a product of two) would vanish even in float64.
    q /= np.maximum(np.abs(q).max(axis=-1, keepdims=True), LARGEST**-1.1)
    r /= np.maximum(np.abs(r).max(axis=-1, keepdims=True), LARGEST**-1.1)
    # A zero vector has no angle; the contract refuses it, so 1 (a right angle) is only there to be a number.
    return np.asarray(np.nan_to_num(_cosine_from(_dot(q, r), _dot(q, q), _dot(r, r)), nan=1.0))


def distances(metric: Metric, query: NDArray[Any], rows: NDArray[Any]) -> NDArray[np.float32]:
    """Distances of the contract: l2 Euclidean, cosine 1 - cos in [0, 2], dot the negative inner product.

    query: (d,) float32; rows: (n, d) float32 or float16 → (n,) float32, always finite (clipped to float32's range).
    Leading axes broadcast: queries (q, 1, d) and rows (q, w, d) → (q, w), the same bits as one by one.
    """
    query = np.ascontiguousarray(query, dtype=np.float32)
    rows = as_float32(rows)
    with np.errstate(all="ignore"):
        if metric == "l2":
            difference = rows - query
            square = _dot(difference, difference)
            out = np.sqrt(square)
            doubtful = ~((square >= TINY) & (square <= HUGE))
        elif metric == "dot":
            out = -_dot(query, rows)
            doubtful = ~np.isfinite(out)
        else:
            row_square, query_square = _dot(rows, rows), _dot(query, query)
            out = _cosine_from(_dot(query, rows), query_square, row_square)
            inside = (row_square >= TINY) & (row_square <= HUGE)
            doubtful = ~(inside & (query_square >= TINY) & (query_square <= HUGE))
        out = np.asarray(out, dtype=np.float32)
        if doubtful.any():
            shape = (*doubtful.shape, rows.shape[-1])
            exact = _wide(metric, np.broadcast_to(query, shape)[doubtful], np.broadcast_to(rows, shape)[doubtful])
            out[doubtful] = np.clip(exact, -LARGEST, LARGEST)
    return out


def nearest_first(
    metric: Metric, query: NDArray[np.float32], rows: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The order of rows (n, d) by `distances`, and in it those, bit for bit. n ≥ 1; what ties keeps its order.

    For a few rows at half of the price: what float32 may not hold is looked for where the order shows it."""
    with np.errstate(all="ignore"):
        far, least, most = _within(metric, query, rows)
    order = far.argsort(kind="stable")
    nearest = far[order]
    if least <= nearest.item(0) and nearest.item(-1) <= most:
        return order, nearest
    far = distances(metric, query, rows)
    order = far.argsort(kind="stable")
    return order, far[order]


def _within(
    metric: Metric, query: NDArray[np.float32], rows: NDArray[np.float32]
) -> tuple[NDArray[np.float32], float, float]:
    """Distances as `distances` has them, if all of them lie between the two numbers."""
    if metric == "l2":
        difference = rows - query
        return np.sqrt(_dot(difference, difference)), NEAR, FAR
    if metric == "dot":
        return -_dot(query, rows), -LARGEST, LARGEST
    row_square, query_square = _dot(rows, rows), _dot(query, query)
    # NumPy's min takes three times as long as its argmin.
    least, most = row_square.item(row_square.argmin()), row_square.item(row_square.argmax())
    far = _cosine_from(_dot(query, rows), query_square, row_square).astype(np.float32)
    fits = TINY <= min(query_square, least) and max(query_square, most) <= HUGE
    return far, 0.0, 2.0 if fits else -1.0


def norms(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Euclidean norms, computed in float32. rows: (n, d) float32 or float16 → (n,) float32, clipped to its range."""
    out = np.empty(len(rows), dtype=np.float32)
    step = max(1, (1 << 22) // max(1, rows.shape[1]))
    with np.errstate(all="ignore"):
        for start in range(0, len(rows), step):
            block = as_float32(rows[start : start + step])
            square = _dot(block, block)
            root = np.sqrt(square)
            doubtful = ~((square >= TINY) & (square <= HUGE))
            if doubtful.any():
                wide = block[doubtful].astype(np.float64)
                root[doubtful] = np.minimum(np.sqrt(_dot(wide, wide)), LARGEST)
            out[start : start + step] = root
    return out
