"""The data that recall is measured on: ann-benchmarks files, cut to so many rows, under any of the three metrics."""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from benchmarks.oracle import Truth, kept

KS = (1, 10, 100)
REQUESTED = (0.90, 0.95, 0.99)
METRICS = ("l2", "cosine", "dot")


@dataclass(frozen=True, slots=True)
class Data:
    """train: (n, d), queries: (q, d) float32; truths are kept in `cache`, by name."""

    name: str
    train: NDArray[np.float32]
    queries: NDArray[np.float32]
    cache: Path

    def truth(self, metric: str, rows: int | None = None) -> Truth:
        """Of all queries, among the first `rows`."""
        n = rows or len(self.train)
        file = self.cache / f"{self.name}-{n}-{metric}-{len(self.queries)}.npz"
        return kept(file, metric, [self.train[:n]], self.queries)


def read(file: Path, rows: int | None, queries: int, cache: Path) -> Data:
    """The first rows and queries of an ann-benchmarks file; of one that has only /vectors, as the demo's, a twentieth
    of them are the queries."""
    with h5py.File(file) as f:
        if "train" not in f:
            every: NDArray[np.float32] = f["vectors"][:].astype(np.float32)
            chosen = np.random.default_rng(2).permutation(len(every)) < len(every) // 20
            return Data(file.stem, every[~chosen][: rows or None], every[chosen][:queries], cache)
        train: NDArray[np.float32] = f["train"][: rows or None]
        asked: NDArray[np.float32] = f["test"][:queries]
    return Data(file.stem, train, asked, cache)


def agrees(file: Path, data: Data) -> float:
    """Share of the file's own truth that the oracle has too, for a whole Euclidean file: 1 but for ties."""
    with h5py.File(file) as f:
        rows: NDArray[np.int64] = f["neighbors"][: len(data.queries)].astype(np.int64)
    return float(data.truth("l2").shares(rows).mean())
