"""The data of a comparison as files that every system reads, and the judge of what they find."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks import datasets
from benchmarks.datasets import TRUTH, Dataset

BUCKETS = 100
"""Row i is in bucket i % BUCKETS, so that `bucket < n` passes n in a hundred."""
FEW = 20
NEVER_ASKED, NONE = -2, -1
"""What stands for ids: of a query that was not asked, and behind the last hit."""


@dataclass(frozen=True, slots=True)
class Work:
    """folder: what is written for this run and thrown away. k: neighbours asked for."""

    folder: Path
    data: Dataset
    k: int

    @property
    def queries(self) -> Path:
        """(q, d) float32."""
        return self.folder / "queries.npy"

    @property
    def answers(self) -> Path:
        """(q, k) int64, what was found last; written by whoever was asked."""
        return self.folder / "answers.npy"

    @property
    def one(self) -> Path:
        """(1, d) float32, the first of them."""
        return self.folder / "one.npy"

    @property
    def few(self) -> Path:
        """(FEW, d) float32, the first of them."""
        return self.folder / "few.npy"

    @property
    def ids(self) -> Path:
        """(n,) int64, of rows to be fetched."""
        return self.folder / "ids.npy"

    def write(self, sampled: int, seed: int = 1) -> None:
        """sampled: how many ids are to be fetched."""
        np.save(self.queries, self.data.queries)
        np.save(self.one, self.data.queries[:1])
        np.save(self.few, self.data.queries[:FEW])
        ids = np.random.default_rng(seed).choice(
            len(self.data.train), min(sampled, len(self.data.train)), replace=False
        )
        np.save(self.ids, ids.astype(np.int64))

    def vectors(self, rows: int) -> Path:
        """The first rows, (rows, d) float32, with the bucket of each beside it as the server's import looks for it."""
        path = self.folder / f"train-{rows}.npy"
        if not path.exists():
            np.save(path, self.data.train[:rows])
            lines = (json.dumps({"bucket": i % BUCKETS}) for i in range(rows))
            path.with_name(f"{path.stem}.metadata.jsonl").write_text("\n".join(lines) + "\n")
        return path

    def recall(self, buckets: int | None = None) -> float | None:
        """Of the queries that were asked, by the distances of the ids found; None where none was."""
        found: NDArray[np.int64] = np.load(self.answers)
        asked = np.flatnonzero(found[:, 0] != NEVER_ASKED)
        if not len(asked):
            return None
        known: NDArray[np.float32] = np.load(self.truth(buckets))
        near = _measured(self.data, asked, found[asked], buckets)
        judged = Dataset(self.data.name, self.data.metric, self.data.train, self.data.queries[asked], known[asked])
        return datasets.recall(judged, near, self.k)

    def truth(self, buckets: int | None = None) -> Path:
        """(q, ≥ k) float32, distances of the true nearest among the rows that pass, ascending; compared once."""
        path = self.folder / f"truth-{buckets}.npy"
        if not path.exists():
            np.save(path, self.data.distances if buckets is None else self._nearest(buckets))
        return path

    def _nearest(self, buckets: int) -> NDArray[np.float32]:
        passing = self.data.train[np.arange(len(self.data.train)) % BUCKETS < buckets]
        squares, _ = faiss.knn(self.data.queries, np.ascontiguousarray(passing), min(TRUTH, len(passing)))
        near: NDArray[np.float32] = np.sqrt(np.maximum(squares, 0))
        return near


def _measured(
    data: Dataset, asked: NDArray[np.int64], found: NDArray[np.int64], buckets: int | None
) -> NDArray[np.float32]:
    """Distances of what was found, (q, k), +inf for what counts for nothing: none, twice, or what does not pass."""
    out = np.full(found.shape, np.inf, np.float32)
    for row, number, ids in zip(out, asked, found, strict=True):
        counts = np.unique(ids[(ids >= 0) & (ids < len(data.train))])
        if buckets is not None:
            counts = counts[counts % BUCKETS < buckets]
        near = np.linalg.norm(data.train[counts].astype(np.float64) - data.queries[number], axis=1)
        row[: len(counts)] = np.sort(near)
    return out


def disk_mib(folder: Path) -> float:
    """Blocks taken, MiB: a file with holes counts for what it holds."""
    return sum(f.lstat().st_blocks for f in folder.rglob("*") if f.is_file()) * 512 / 2**20


def kept(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found
