"""Vectors for the index tests, and the truth about them in float64."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.contract import Metric, Vectors
from index.distance import norms

KINDS = ("flat", "hnsw", "ivf")
METRICS: tuple[Metric, ...] = ("l2", "cosine", "dot")
DTYPES = ("float32", "float16")


def clustered(rows: int, dimension: int, seed: int, unit: bool = False) -> NDArray[np.float32]:
    """Gaussian clouds around 40 centres, as embeddings lie: neither uniform nor separable."""
    centres = np.random.default_rng(99).standard_normal((40, dimension))
    rng = np.random.default_rng(seed)
    out = centres[rng.integers(0, 40, rows)] + 0.6 * rng.standard_normal((rows, dimension))
    if unit:
        out /= np.linalg.norm(out, axis=1, keepdims=True)
    return out.astype(np.float32)


def vectors(rows: NDArray[Any], metric: Metric) -> Vectors:
    rows = np.ascontiguousarray(rows)
    rows.setflags(write=False)  # as a memory map is
    return Vectors(rows, norms(rows), metric)


def true_distances(metric: Metric, query: NDArray[Any], rows: NDArray[Any]) -> NDArray[np.float64]:
    """The contract's definitions, written down once more, in float64."""
    q, r = query.astype(np.float64), rows.astype(np.float64)
    if metric == "l2":
        return np.asarray(np.sqrt(((r - q) ** 2).sum(axis=1)))
    if metric == "dot":
        return -(r @ q)
    return np.asarray(1 - (r @ q) / (np.linalg.norm(r, axis=1) * np.linalg.norm(q)))


def tolerance(metric: Metric, query: NDArray[Any], rows: NDArray[Any]) -> float:
    """How far float32 may be off: a share of the largest product of norms (cosine: of 1)."""
    if metric == "cosine":
        return 2e-6
    return 2e-6 * float(np.linalg.norm(query) * np.linalg.norm(rows, axis=1).max()) + 1e-6
