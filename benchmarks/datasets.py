"""Vectors to measure with: an ann-benchmarks HDF5 file, or clustered synthetic ones made on the spot.

In such a file: /train (n×d float32), /test (q×d), /neighbors (q×100: exact nearest rows of train), /distances
(q×100: Euclidean, or 1 − cosine where the attribute `distance` is "angular").
"""

from dataclasses import dataclass, replace
from pathlib import Path

import faiss
import h5py
import numpy as np
from numpy.typing import NDArray

METRICS = {"euclidean": "l2", "angular": "cosine"}
TRUTH = 100
ROWS, QUERIES, DIMENSION = 200_000, 1_000, 128
SLACK = 1e-4
"""Share of the k-th true distance within which another row counts as a tie: float32 tells no finer apart."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """train: (n, d), queries: (q, d), distances: (q, ≥ 10) of the true nearest, ascending; all float32."""

    name: str
    metric: str
    train: NDArray[np.float32]
    queries: NDArray[np.float32]
    distances: NDArray[np.float32]


def load(file: Path | None, rows: int | None) -> Dataset:
    """From the file, or clustered. `rows` cuts the data short; the file's own truth is then computed anew."""
    if file is None:
        return _clustered(rows or ROWS)
    with h5py.File(file) as f:
        distance = str(f.attrs["distance"])
        if distance not in METRICS:
            raise SystemExit(f"{file}: distance {distance!r}; known are {', '.join(METRICS)}")
        train: NDArray[np.float32] = f["train"][: rows or None]
        queries: NDArray[np.float32] = f["test"][:]
        distances: NDArray[np.float32] = f["distances"][:]
        whole = len(train) == f["train"].shape[0]
    if not whole:
        queries = queries[:QUERIES]
        distances = _truth(METRICS[distance], train, queries)
    return Dataset(file.stem, METRICS[distance], train, queries, distances)


def first(data: Dataset, queries: int) -> Dataset:
    """With no more queries than that."""
    return replace(data, queries=data.queries[:queries], distances=data.distances[:queries])


def recall(data: Dataset, found: NDArray[np.float32], k: int) -> float:
    """Share of the true k nearest that came back; equal distances count as found.

    found: (q, ≥ k) distances of the first q queries' hits, +inf where there are fewer.
    """
    bound = data.distances[: len(found), k - 1 : k]
    return float((found[:, :k] <= bound + SLACK * np.abs(bound)).mean())


def _truth(metric: str, train: NDArray[np.float32], queries: NDArray[np.float32]) -> NDArray[np.float32]:
    """(q, 100) distances of the nearest, as the contract defines them."""
    if metric == "cosine":
        asked, stored = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, train))
        products, _ = faiss.knn(asked, stored, TRUTH, metric=faiss.METRIC_INNER_PRODUCT)
        near: NDArray[np.float32] = 1.0 - products
        return near
    squares, _ = faiss.knn(queries, train, TRUTH)
    result: NDArray[np.float32] = np.sqrt(np.maximum(squares, 0))
    return result


def _clustered(n: int) -> Dataset:
    source = Clustered(DIMENSION)
    train, queries = source.rows(n, 1), source.rows(QUERIES, 2)
    return Dataset(f"clustered-{DIMENSION}-{n}", "l2", train, queries, _truth("l2", train, queries))


class Clustered:
    """A seeded mixture that is as hard as real descriptors: groups of centres on a subspace, each component spread
    along one of 64 low-dimensional frames with decaying scales and a width of its own, sizes skewed."""

    PLANE, RANK, FRAMES, CENTRES = 32, 16, 64, 5_000

    def __init__(self, dimension: int, seed: int = 1) -> None:
        rng = np.random.default_rng([seed, 0])
        self.dimension, self.seed = dimension, seed
        basis = np.linalg.qr(rng.standard_normal((dimension, self.PLANE)))[0].T
        scale = np.linspace(1.0, 0.4, self.PLANE)
        groups = rng.standard_normal((self.CENTRES // 100, self.PLANE)) * scale
        of = rng.integers(0, len(groups), self.CENTRES)
        at = groups[of] + 0.45 * rng.standard_normal((self.CENTRES, self.PLANE)) * scale
        self.centres = (at @ basis).astype(np.float32)
        frames = [np.linalg.qr(rng.standard_normal((dimension, self.RANK)))[0].T for _ in range(self.FRAMES)]
        self.frames = np.stack(frames).astype(np.float32) * np.linspace(1.0, 0.3, self.RANK, dtype=np.float32)[:, None]
        self.frame_of = rng.integers(0, self.FRAMES, self.CENTRES)
        self.width = (0.30 * np.exp(0.35 * rng.standard_normal(self.CENTRES))).astype(np.float32)
        share = np.exp(0.8 * rng.standard_normal(self.CENTRES))
        self.share = share / share.sum()

    def rows(self, n: int, stream: int) -> NDArray[np.float32]:
        """(n, d) float32; streams are independent of each other."""
        rng = np.random.default_rng([self.seed, stream])
        which = rng.choice(self.CENTRES, n, p=self.share)
        rows = 0.03 * rng.standard_normal((n, self.dimension), dtype=np.float32)
        inner = rng.standard_normal((n, self.RANK), dtype=np.float32) * self.width[which, None]
        for frame in range(self.FRAMES):
            mine = self.frame_of[which] == frame
            rows[mine] += inner[mine] @ self.frames[frame]
        rows += self.centres[which]
        result: NDArray[np.float32] = rows
        return result
