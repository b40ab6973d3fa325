"""Batches for training: rows a second of a torch DataLoader over a collection, beside other ways to keep vectors.

    python -m benchmarks.dataloader [--rows N] [--data FILE.hdf5] [--cold]

The same batches from each: random and sequential, in the loader's own process and in two workers. Runs alternate, and
the ratios to the bare memory map are medians of their runs. The collection yields the ids besides; the others cannot.
`lancedb` takes part where it is installed; it never is a dependency.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tensorblob
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from benchmarks import table
from benchmarks.cache import forget
from benchmarks.served import NAME, Served
from seedvec.torch import CollectionDataset, collate

try:
    import lancedb
    import pyarrow
    from lancedb.permutation import Permutation
except ImportError:
    lancedb = None

BATCH = 256
RUNS = 5
MEMMAP = "np.memmap"
SLOW = {"h5py, row by row": 40, "tensorblob": 200, "lancedb": 200}
"""Batches of a run, where they would take too long."""

NOT_FORKED = {"lancedb"}
"""It has threads of its own, which a fork loses."""

Make = Callable[[], tuple[Dataset[Any], Callable[[Any], Any]]]


class MappedRows(Dataset[Any]):
    """The bare memory map, a batch gathered in one go: nothing in Python is faster."""

    def __init__(self, path: Path, dimension: int) -> None:
        self.vectors = np.memmap(path, np.float32, "r").reshape(-1, dimension)

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitems__(self, rows: Sequence[int]) -> NDArray[np.float32]:
        return np.take(self.vectors, rows, 0)


class H5Rows(Dataset[Any]):
    """One row at a time, as most code is written. Opened in the process that reads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.vectors: Any = None

    def __len__(self) -> int:
        return len(h5py.File(self.path)["vectors"])

    def __getitem__(self, row: int) -> torch.Tensor:
        if self.vectors is None:
            self.vectors = h5py.File(self.path)["vectors"]
        return torch.from_numpy(self.vectors[row])


class BlobRows(Dataset[Any]):
    """tensorblob's own indexing by a list of rows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.blob: Any = None

    def __len__(self) -> int:
        return len(tensorblob.TensorBlob.open(self.path))

    def __getitems__(self, rows: list[int]) -> torch.Tensor:
        if self.blob is None:
            self.blob = tensorblob.TensorBlob.open(self.path)
        gathered: torch.Tensor = self.blob[rows]
        return gathered


def main() -> None:
    options = parsed()
    vectors = loaded(options)
    print(f"{len(vectors):,} × {vectors.shape[1]} float32, batches of {BATCH}, medians of {RUNS} runs")
    with tempfile.TemporaryDirectory(dir=options.tmp, prefix="seedvec-dataloader-") as folder:
        makes = laid_out(Path(folder), vectors)
        rows = []
        for order in ("random", "sequential"):
            for workers in (0, 2):
                for cold in (False, True) if options.cold else (False,):
                    rows += measured(makes, Path(folder), options.batches, order, workers, cold)
                    print("\n" + table.show(rows), flush=True)
    table.write(options.out, "dataloader", vars(options), rows)
    print(f"written: {options.out}", file=sys.stderr)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="ann-benchmarks HDF5 file (default: random vectors)")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=128)
    parser.add_argument("--batches", type=int, default=1000, help="of a run")
    parser.add_argument("--cold", action="store_true", help="also with nothing of the files in the page cache")
    parser.add_argument("--tmp", type=Path, help="where the files are made")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/dataloader.json"))
    return parser.parse_args()


def loaded(options: argparse.Namespace) -> NDArray[np.float32]:
    if options.data is None:
        return np.random.default_rng(0).standard_normal((options.rows, options.dimension), np.float32)
    with h5py.File(options.data) as file:
        vectors: NDArray[np.float32] = file["train"][: options.rows]
        return vectors


def laid_out(folder: Path, vectors: NDArray[np.float32]) -> dict[str, Make]:
    """The same vectors in each way."""
    dimension = vectors.shape[1]
    with Served(folder / "data") as served:
        served.collection.create(dimension, metric="l2", index={"kind": "flat"})
        served.fill(vectors, 0)
        served.ready()
    vectors.tofile(folder / "vectors.raw")
    with h5py.File(folder / "vectors.h5", "w") as file:
        file["vectors"] = vectors
    with tensorblob.TensorBlob.open(folder / "blob", "w", dtype="float32", shape=(dimension,)) as blob:
        for start in range(0, len(vectors), 10_000):
            blob.write(torch.from_numpy(vectors[start : start + 10_000]))
    makes: dict[str, Make] = {
        MEMMAP: lambda: (MappedRows(folder / "vectors.raw", dimension), torch.from_numpy),
        "seedvec": lambda: (CollectionDataset(folder / "data", NAME, metadata=False), collate),
        "tensorblob": lambda: (BlobRows(folder / "blob"), lambda batch: batch),
        "h5py, row by row": lambda: (H5Rows(folder / "vectors.h5"), torch.stack),
    }
    if lancedb is not None:
        makes["lancedb"] = lance(folder / "lance", vectors)
    return makes


def lance(folder: Path, vectors: NDArray[np.float32]) -> Make:
    column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.reshape(-1)), vectors.shape[1])
    rows = lancedb.connect(folder).create_table("rows", pyarrow.table({"vector": column}))

    def tensor(batch: Any) -> torch.Tensor:  # lancedb's own `torch` format takes no vectors
        flat = batch.column("vector").flatten().to_numpy()
        return torch.from_numpy(flat.reshape(-1, vectors.shape[1]))

    return lambda: (Permutation.identity(rows).with_format("arrow"), tensor)


def measured(
    makes: dict[str, Make], folder: Path, count: int, order: str, workers: int, cold: bool
) -> list[dict[str, Any]]:
    """One figure for each way: rows a second, and the median of its runs' ratios to the memory map's."""
    taking_part = {name: make for name, make in makes.items() if not (workers and name in NOT_FORKED)}
    speeds: dict[str, list[float]] = {name: [] for name in taking_part}
    for _ in range(RUNS):
        for name, make in taking_part.items():
            if cold:
                forget(folder)
            speeds[name].append(speed(*make(), min(count, SLOW.get(name, count)), order, workers))
    return [
        {
            "order": order,
            "workers": workers,
            "cache": "cold" if cold else "warm",
            "what": name,
            "rows_s": round(statistics.median(runs)),
            "of_memmap": statistics.median(a / b for a, b in zip(runs, speeds[MEMMAP], strict=True)),
        }
        for name, runs in speeds.items()
    ]


def speed(dataset: Dataset[Any], together: Callable[[Any], Any], batches: int, order: str, workers: int) -> float:
    """Rows a second, from the first batch on: workers have started and the order is drawn by then."""
    loader = DataLoader(dataset, BATCH, shuffle=order == "random", collate_fn=together, num_workers=workers)
    arriving = iter(loader)
    next(arriving)
    begun = time.perf_counter()
    count = sum(1 for _ in itertools.islice(arriving, batches))
    return count * BATCH / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
