"""How much memory building an index and serving it takes, beside the page cache: reckoned before anything is built.

Measured as anonymous memory of the process (RssAnon); the constants are fitted to that: docs/indexes.md.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from index.ivf_build import sample_rows
from index.parameters import part_width

SHARE = 0.5
"""Of all memory, that indexes may take: the rest is for everything else, and the page cache."""
ID_BYTES = 8
LINK_BYTES, NODE_BYTES = 4, 38
"""A node's level, offset and row, those once more in its new place, and two marks of where a search was."""
ROW_BYTES = 9
"""A row's number, and a mark."""
GROWN = 1.25
"""Lists that grow have room to spare, and codes lie in blocks of 32."""
SMALL_THINGS = 512 << 10
"""Of any open index."""
MEASURING_MOST, MEASURING_LEAST, MEASURING_ROW = 350 << 20, 150 << 20, 200
"""Whatever the index: what exact answers and batches of queries take, until their own bounds."""
Spec = tuple[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class Budget:
    """bytes: memory for everything on the machine or in its cgroup; workers: processes that open each index."""

    bytes: int
    workers: int

    @property
    def for_indexes(self) -> int:
        return int(self.bytes * SHARE)


class TooLittleMemory(Exception):
    """No index was built: it would take `estimate` bytes where `budget` are to be had."""

    def __init__(self, estimate: int, budget: int) -> None:
        super().__init__(f"it would take {estimate:,} bytes of memory, of which it may have {budget:,}")
        self.estimate = estimate
        self.budget = budget


def first_that_fits(specs: Sequence[Spec], rows: int, dimension: int, dtype: str, metric: str, budget: Budget) -> Spec:
    """Of kinds with their parameters, the best first. Raises TooLittleMemory with the least estimate."""
    estimates = []
    for kind, params in specs:
        serving = serving_bytes(kind, params, rows, dimension, dtype, metric, budget.workers)
        estimates.append(serving + building_bytes(kind, params, rows, dimension, dtype, metric))
        if estimates[-1] <= budget.for_indexes:
            return kind, params
    raise TooLittleMemory(min(estimates), budget.for_indexes)


def give_back() -> None:
    """What was freed goes back to the system: glibc would keep it for the next large build."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # not every C library has it
        trim(0)


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
        return workers * (rows * (4 + 8 + 1 + 1) + SMALL_THINGS)
    if kind != "ivf":
        return 0
    # Codes and their ids are mapped (`mapped_lists`). Under a filter each row's list has to be known: two bytes.
    return workers * (2 * rows + params["nlist"] * (4 * dimension + 24) + SMALL_THINGS)


def building_bytes(kind: str, params: dict[str, int], rows: int, dimension: int, dtype: str, metric: str) -> int:
    """Private memory of the process that builds it, at its peak."""
    if kind == "hnsw":
        links = LINK_BYTES * rows * (2 * params["m"] + 1)
        # A byte a number, as most data allow. Links, and then vectors, are copied once to be numbered by rows.
        compared = rows * dimension
        return rows * NODE_BYTES + links + compared + max(links, compared, _measuring(rows))
    if kind != "ivf":
        return 0
    codes = round(GROWN * rows * ((params["pq_m"] + 1) // 2 + ID_BYTES))
    numbers = ROW_BYTES * rows
    width = part_width(dimension, params["pq_m"]) * params["pq_m"]
    sample = 4 * width * sample_rows(rows, params["nlist"], width)
    if metric == "cosine" or width != dimension or dtype != "float32":
        sample *= 2  # for a moment there are two of them
    return numbers + max(sample, codes + _measuring(rows))


def _measuring(rows: int) -> int:
    return min(MEASURING_MOST, MEASURING_LEAST + MEASURING_ROW * rows)
