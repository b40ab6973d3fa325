"""How much memory building an index and serving it takes, beside the page cache: reckoned before anything is built.

Measured with the kernel's own count (Private_Dirty of smaps_rollup): docs/indexes.md.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Budget:
    """bytes: memory for everything on the machine or in its cgroup; workers: processes that open each index."""

    bytes: int
    workers: int


class TooLittleMemory(Exception):
    """No index was built: it would take `estimate` bytes where `budget` are to be had."""

    def __init__(self, estimate: int, budget: int) -> None:
        super().__init__(f"it would take {estimate:,} bytes of memory, of which it may have {budget:,}")
        self.estimate = estimate
        self.budget = budget


def private_bytes(meta: dict[str, Any]) -> int:
    """Memory that each process which opens this index has for itself; the rest is mapped and shared."""
    return serving_bytes(
        meta["kind"], meta["params"], int(meta["rows"]), int(meta["dimension"]), meta["dtype"], meta["metric"], 1
    )


def serving_bytes(
    kind: str, params: dict[str, int], rows: int, dimension: int, dtype: str, metric: str, workers: int
) -> int:
    """Private memory of so many workers that have opened it."""
    if kind == "hnsw":
        # Level and offset of each node are read into vectors; a search keeps a byte a node of where it was, and so
        # does a walk under a filter.
        return workers * rows * (4 + 8 + 1 + 1)
    if kind != "ivf":
        return 0
    # Codes are padded to blocks of 32 rows a list and held beside their ids; measured 13 MB for a file of 9.
    code_bytes = (int(params["pq_m"]) + 1) // 2
    # Under a filter each row's list has to be known.
    return workers * (round(1.45 * rows * (code_bytes + 8)) + 4 * rows + 4 * int(params["nlist"]) * dimension)


def building_bytes(kind: str, params: dict[str, int], rows: int, dimension: int, dtype: str, metric: str) -> int:
    """Private memory of the process that builds it, at its peak."""
    if kind == "hnsw":
        graph = rows * (4 * (2 * params["m"] + 1) + 4 + 8)
        return 2 * graph + rows * dimension * np.dtype(dtype).itemsize
    if kind != "ivf":
        return 0
    return 2 * rows * ((params["pq_m"] + 1) // 2 + 8) + (512 << 20)
