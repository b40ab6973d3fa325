"""The stored vectors as Faiss is to see them: float32, normalised where the metric is an angle."""

import math

import numpy as np
from numpy.typing import NDArray

from index.contract import Vectors
from index.halves import as_float32

UNIT_TOLERANCE = 1e-3
"""Vectors of norm 1 within this are ordered by their inner product as by their angle, but for near ties, which the
spare candidates cover."""


def are_unit(vectors: Vectors) -> bool:
    return bool(np.all(np.abs(vectors.norms - np.float32(1)) <= UNIT_TOLERANCE))


def taken(vectors: Vectors, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Some rows for Faiss, (m, d) float32, C order."""
    block = as_float32(vectors.rows[rows])
    if vectors.metric == "cosine":
        block = unit(block, vectors.norms[rows])
    return block


def unit(rows: NDArray[np.float32], norms: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(rows / np.maximum(norms, np.float32(1e-38))[:, None], dtype=np.float32)


SIMD_WIDTH = 16
"""Faiss compares float16 with vector instructions only where the dimension is a multiple of this: 785 numbers took
six times as long as 800."""


def needs_copy(vectors: Vectors) -> bool:
    """Whether a graph needs numbers other than the stored ones."""
    return vectors.metric != "l2" and not are_unit(vectors)


def compared_width(vectors: Vectors) -> int:
    """Numbers a vector has in `compared`."""
    d = int(vectors.rows.shape[1])
    if not needs_copy(vectors):
        return d
    needed = d + 1 if vectors.metric == "dot" else d
    return math.ceil(needed / SIMD_WIDTH) * SIMD_WIDTH


def compared(vectors: Vectors, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Some rows as a graph is to see them, float32, `compared_width` wide.

    A graph by inner product leads everything to the longest vectors and leaves nodes without a way in: on
    fashion-mnist it never found 0.9. So under dot all are scaled to norm 1 or less and lifted onto the sphere by one
    more dimension; there the nearest of a query (with 0 in it) are those of the greatest inner product."""
    block = as_float32(vectors.rows[rows])
    if not needs_copy(vectors):
        return block
    d = block.shape[1]
    out = np.zeros((len(block), compared_width(vectors)), np.float32)
    if vectors.metric == "cosine":
        out[:, :d] = unit(block, vectors.norms[rows])
        return out
    largest = np.maximum(vectors.norms.max(), np.float32(1e-38))
    np.divide(block, largest, out=out[:, :d])
    out[:, d] = np.sqrt(np.maximum(np.float32(1) - np.square(vectors.norms[rows] / largest), np.float32(0)))
    return out


def compared_queries(queries: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Queries (q, d) as a graph over copies is to see them: of norm 1, zeros behind."""
    out = np.zeros((len(queries), width), np.float32)
    lengths = np.sqrt(np.maximum(np.vecdot(queries, queries), np.float32(1e-38)))
    np.divide(queries, lengths[:, None], out=out[:, : queries.shape[1]])
    return out
