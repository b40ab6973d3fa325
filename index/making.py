"""What building has in common, whatever the kind: most rows are added, the others are the queries that it is
calibrated with, and come last; then it is checked."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from index import source, threads
from index.approximate import Approximate
from index.calibration import Calibration, On
from index.checking import QUERIES as CHECKED
from index.checking import check
from index.contract import Vectors
from index.pacing import Phases, Progress
from index.sweep import calibrate
from index.truth import grouped, held_out

PHASES = ("add", "truth", "sweep", "last", "check")
"""What `made` does, in its order: the names its `Phases` know, beside those of the kind's own before them."""


PRODUCT_S, QUERY_S = 1.8e-10, 3e-4
"""Of the exact search on one core, in batches: a multiplication, and a query besides."""
EFFORT_S = 6e-4
"""Of one query at the greatest effort."""
SWEPT = 0.7
"""Share of a sweep that more cores than one make no shorter."""


class CannotExtend(Exception):
    """The old index does not carry over to the new rows after all: build anew."""


class Making(Protocol):
    """An index in the making: rows are added to it until it holds those of the segment, each once."""

    def add(self, rows: NDArray[np.int64], progress: Progress) -> None: ...

    def opened(self) -> Approximate:
        """As it searches with what was added so far."""
        ...

    def finished(self) -> Any:
        """The Faiss index, its slots being rows. Nothing can be added or searched here any more."""
        ...


@dataclass(frozen=True, slots=True)
class Made:
    """index: Faiss', for `persist.write`; checked: recall@10 at the greatest effort."""

    index: Any
    calibration: Calibration
    checked: float


def queries_among(vectors: Vectors, queries: NDArray[np.float32] | None) -> NDArray[np.int64]:
    """Rows that are to be added last, ascending: the queries of the calibration, where no real ones are given."""
    return held_out(*vectors.rows.shape) if queries is None else np.empty(0, np.int64)


def others(n: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of n rows all but these, ascending."""
    # NumPy's setdiff1d sorts: some hundreds of bytes a row at once, where one and the answer's eight do.
    mask = np.ones(n, bool)
    mask[rows] = False
    return np.flatnonzero(mask)


def costs(vectors: Vectors, add: float, sweep: float, last: float, asked: int) -> dict[str, float]:
    """Seconds that the phases of `made` take, about. add, sweep, last: on one core, as the kind knows; asked: how many
    queries calibrate it."""
    n, d = vectors.rows.shape
    cores = threads.batch_threads()
    query = QUERY_S + PRODUCT_S * n * d
    return {
        "add": add / cores,
        "truth": asked * query / cores,
        "sweep": sweep * (SWEPT + (1 - SWEPT) / cores),
        "last": last / cores,
        "check": CHECKED * (query + EFFORT_S) / cores,
    }


def made(
    making: Making,
    vectors: Vectors,
    missing: NDArray[np.int64],
    last: NDArray[np.int64],
    queries: NDArray[np.float32] | None,
    phases: Phases,
) -> Made:
    """missing: rows that `making` lacks, without `last` (`queries_among`). Raises Rejected."""
    making.add(missing, phases.part("add"))
    asked = source.taken(vectors, last) if queries is None else queries
    n = len(vectors.rows)
    there = missing if len(missing) + len(last) == n else others(n, last)
    groups = grouped(vectors, asked, there, phases.part("truth"))
    on: On = "data" if queries is None else "queries"
    calibration = calibrate(making.opened(), groups, phases.part("sweep"), on)
    making.add(last, phases.part("last"))
    checked = check(making.opened(), vectors, phases.part("check"))
    return Made(making.finished(), calibration, checked)
