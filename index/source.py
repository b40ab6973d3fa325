"""The stored vectors as Faiss is to see them: float32, normalised where the metric is an angle."""

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
