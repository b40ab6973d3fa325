"""What every index kind takes and gives. One inherited test suite (`tests/index/`) holds all kinds to it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from index.calibration import On, Point

Metric = Literal["l2", "cosine", "dot"]
Derived = TypeVar("Derived")


class IndexFileError(Exception):
    """The file is not an index this code can open: build it again."""


class Cancelled(Exception):
    """Raised by a progress callback to stop a build."""


class Rejected(Exception):
    """A new index does not find at its greatest effort what is there: it must not serve."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """The stored vectors of one segment (or the pending rows): what Faiss proposes from and we measure on.

    rows: (n, d) float32 or float16, C order, usually a read-only memory map; norms: (n,) float32, Euclidean.
    ahead: where the map is larger than the memory for it, is told which rows (any shape, -1: none) are about to be
    read, so that the disk brings them side by side; None: they mostly are in memory.
    """

    rows: NDArray[Any]
    norms: NDArray[np.float32]
    metric: Metric
    ahead: Callable[[NDArray[np.int64]], None] | None = None


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Alive:
    """Which rows of one segment may be answered with: those not dropped, and of them those that a filter leaves.

    mask: (n,) bool; bits: the same, packed little-endian, for Faiss; count: how many.
    What an index works out about it (row numbers, matching rows a list, a copy of few vectors) stays with it: kept
    for the next search under the same filter, gone with it.
    """

    mask: NDArray[np.bool_]
    bits: NDArray[np.uint8]
    count: int
    _derived: dict[str, tuple[object, Any]] = field(default_factory=dict, repr=False)

    @staticmethod
    def of(mask: NDArray[np.bool_]) -> "Alive":
        return Alive(mask, np.packbits(mask, bitorder="little"), int(np.count_nonzero(mask)))

    def derive(self, name: str, owner: object, make: Callable[[], Derived]) -> Derived:
        """What `make` gave for this owner, made once. Two threads may both make it; either's will do."""
        kept = self._derived.get(name)
        if kept is None or kept[0] is not owner:
            kept = (owner, make())
            self._derived[name] = kept
        value: Derived = kept[1]
        return value

    def derived(self, name: str, owner: object) -> Any | None:
        """What was derived, or None where it was not, or was forgotten."""
        kept = self._derived.get(name)
        return kept[1] if kept is not None and kept[0] is owner else None

    def put(self, name: str, owner: object, value: object) -> None:
        self._derived[name] = (owner, value)

    def forget(self, name: str) -> None:
        self._derived.pop(name, None)

    @property
    def rows(self) -> NDArray[np.int64]:
        """The row numbers, ascending."""
        return self.derive("rows", None, lambda: np.flatnonzero(self.mask))


@dataclass(frozen=True, slots=True)
class Found:
    """Hits of q queries. rows: (q, w) int64, -1 where there are fewer; distances: (q, w) float32, +inf there.

    Each query's hits are sorted by (distance, row). w ≥ k where more rows than k tie with the k-th:
    all rows that tie with the k-th nearest found are included, so that the caller can order ties by id.
    Distances are the contract's (`index.distance`), computed from the stored vectors.
    exact: these are the true nearest of the rows that may be answered with, for every query. params: by the kind's
    names, what the index was asked with (the most of any query; some may yet have been answered exactly).
    """

    rows: NDArray[np.int64]
    distances: NDArray[np.float32]
    exact: bool = False
    params: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How to search: params by the kind's names ({"ef_search"}, {"nprobe", "rerank"}, {} for exact).

    expected_recall: recall@k measured by calibration (None: not measured for this k);
    cost_us: one query on one thread, µs.
    """

    params: dict[str, int]
    expected_recall: float | None
    cost_us: float
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Options:
    """What an index offers for some k. points: cheapest first (none: it only searches exactly); exact: the exact
    search, which is always among the offers; on: what the points were measured on; measured: False where k lies beyond
    what was measured, so that their recall is a guess."""

    points: tuple[Point, ...]
    exact: Plan
    on: On = "data"
    measured: bool = True


class Index(Protocol):
    """An index of one segment, open and immutable. Searches may run side by side from several threads."""

    @property
    def kind(self) -> str: ...

    def options(self, k: int) -> Options:
        """The settings that a search for k can take: what `planning.choose` chooses from."""
        ...

    def plan(self, k: int, recall: float) -> Plan:
        """The cheapest way that was certified for this recall; exact where there is none, or none cheaper."""
        ...

    def given(self, params: Mapping[str, int], k: int) -> Plan:
        """The caller's own settings, by the kind's names; names that are missing are filled in, those of other kinds
        passed over. Its recall is known only if it was measured at that very setting."""
        ...

    def search(self, queries: NDArray[np.float32], k: int, plan: Plan, alive: Alive | None = None) -> Found:
        """queries: (q, d) float32. Always min(k, live rows) hits or more (ties): where the index proposes
        fewer, the exact search answers."""
        ...
