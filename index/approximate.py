"""What HNSW and IVF have in common: Faiss proposes rows, the one distance measures them, and whatever is missing
comes from the exact search.

    Approximate
    ├── hnsw.Hnsw
    └── ivf.Ivf
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from index import pairs, threads
from index.calibration import Calibration
from index.contract import Alive, Found, Options, Plan, Vectors
from index.distance import distances, nearest_first
from index.exact import Exact
from index.halves import as_float32
from index.offers import given, offered
from index.planning import choose
from index.selection import Hit, together

GATHER_ELEMENTS = 1 << 24
"""A batch is searched in pieces of 64 MiB."""
NUMBERS_A_CANDIDATE = 16
"""Row, distance, and what putting them in order takes; the vectors are gathered a few at a time."""
MAX_WIDENED = 4096
"""Where so many candidates tie at the boundary, the exact search is the way to get them all."""
MAX_OPTIONS = 256
"""Different k that are remembered."""
Measured = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Rows (q, w), -1 where there are fewer, and distances, +inf there; sorted by (distance, row)."""


def spare(k: int) -> int:
    """Candidates past the k-th: Faiss' order and ours differ by rounding, and ties should show."""
    return max(4, k // 4)


class Approximate(ABC):
    """An open index over `vectors`. Satisfies `contract.Index`.

    labels: slot → row, int64 (None: slots are rows, as in every finished file). `indexed`: how many slots there are.
    """

    kind: str
    defaults: ClassVar[dict[str, int]]
    """The names of its settings, and what serves where nothing was measured."""

    def __init__(self, vectors: Vectors, calibration: Calibration | None, labels: NDArray[np.int64] | None) -> None:
        self.vectors = vectors
        self.exact = Exact(vectors)
        self.calibration = calibration
        self._options: dict[int, Options] = {}
        self._labels = labels

    @abstractmethod
    def propose(
        self, queries: NDArray[np.float32], m: int, params: dict[str, int], k: int | None = None
    ) -> NDArray[np.int64]:
        """Slots of at least m candidates for each query, (q, ≥ m) int64, -1 where there are fewer. k: what surely lies
        farther than the k-th of them may be left out."""

    @abstractmethod
    def among(
        self, queries: NDArray[np.float32], k: int, m: int, params: dict[str, int], alive: Alive
    ) -> tuple[Measured, dict[str, int]]:
        """At least m candidates for each query out of the rows that may be answered with, so that the k nearest of
        those are found as well as `params` find the k nearest of all; and what the index was asked with."""

    @abstractmethod
    def among_us(self, plan: Plan, alive: Alive) -> float:
        """About what `among` costs a query on one thread, µs."""

    @abstractmethod
    def families(self, k: int) -> list[list[dict[str, int]]]:
        """Settings to calibrate with for this k: families, each from cheap to dear, the next like the last but more
        thorough in another way."""

    @abstractmethod
    def efforts(self, k: int) -> list[dict[str, int]]:
        """The greatest that it can do for this k, within reason: more of the same would find no more. The less dear
        first."""

    @abstractmethod
    def widened(self, params: dict[str, int], factor: float) -> dict[str, int]:
        """The parameters for k (or 1/share of live rows) that many times larger than what they were measured at."""

    def same_effort(self, params: dict[str, int], measured_k: int, k: int) -> dict[str, int]:
        """Settings that look at as much for this k as these do for the one they were measured at."""
        return params

    def options(self, k: int) -> Options:
        """Kept: a search that is often asked for pays a look-up."""
        found = self._options.get(k)
        if found is None:
            if len(self._options) >= MAX_OPTIONS:
                self._options = {}
            found = self._options[k] = offered(self, self.calibration, k)
        return found

    def plan(self, k: int, recall: float) -> Plan:
        return choose([(self, 1)], k, recall).plans[0]

    def given(self, params: Mapping[str, int], k: int) -> Plan:
        return given(self.options(k), {name: params[name] for name in self.defaults if name in params}, self.defaults)

    def with_calibration(self, calibration: Calibration) -> Self:
        """The same open index, measured anew."""
        other = copy.copy(self)
        other.calibration = calibration
        other._options = {}
        return other

    def search(self, queries: NDArray[np.float32], k: int, plan: Plan, alive: Alive | None = None) -> Found:
        """queries: (q, d) float32. At least min(k, live rows) hits each: what Faiss leaves open is searched exactly."""
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        n = len(self.vectors.rows)
        if alive is not None and alive.count < n:
            return self._filtered(queries, min(k, alive.count), plan, alive)
        k = min(k, n)
        if plan.exact or k < 1:
            return self.exact.search(queries, k, plan)
        if len(queries) == 1:
            # The common case on its own: the general one below would double the time around Faiss.
            nearest = self._nearest(queries, k, plan.params)
            if nearest is not None:
                return nearest
        found = self.proposed(queries, k + spare(k), plan.params, k)
        return self._completed(queries, k, plan.params, None, found)

    def _nearest(self, query: NDArray[np.float32], k: int, params: dict[str, int]) -> Found | None:
        """query: (1, d); k ≥ 1. None where something is missing, or all that follows the k-th ties with it."""
        threads.use(1)
        slots = self.propose(query, k + spare(k), params)[0]
        rows = slots if self._labels is None else self._labels[slots]
        if slots.item(slots.argmin()) < 0:
            return None
        if self.vectors.ahead is not None:
            self.vectors.ahead(rows)
        among = as_float32(self.vectors.rows.take(rows, axis=0))
        order, far = nearest_first(self.vectors.metric, query[0], among)
        kth, width = far.item(k - 1), k
        if far.item(-1) <= kth:
            return None
        while far.item(width) == kth:
            width += 1
        return Found(rows[order[None, :width]], far[None, :width], False, params)

    def _filtered(self, queries: NDArray[np.float32], k: int, plan: Plan, alive: Alive) -> Found:
        if plan.exact or k < 1 or self.exact.pays(alive, self.among_us(plan, alive), len(queries)):
            return self.exact.search(queries, k, plan, alive)
        found, params = self._asked(queries, k, k + spare(k), plan.params, alive)
        return self._completed(queries, k, params, alive, found)

    def attempt(self, queries: NDArray[np.float32], k: int, params: dict[str, int]) -> NDArray[np.float32]:
        """Distances (q, > k) of what these parameters propose, ascending, +inf where they propose less.

        For calibration: rows that are not in the index yet cannot come in by the exact search."""
        return self.proposed(queries, k + spare(k), params)[1]

    def _completed(
        self, queries: NDArray[np.float32], k: int, params: dict[str, int], alive: Alive | None, found: Measured
    ) -> Found:
        """Answers exactly where too few were proposed; proposes more where the boundary ties.
        found: rows and distances, wider than k."""
        rows, measured = found
        kth = measured[:, k - 1]
        short = kth == np.inf
        # All beyond the k-th tie with it: more of the same may lie outside of what was proposed.
        tied = (measured[:, -1] == kth) & ~short
        keep = measured <= kth[:, None]
        if not (short.any() or tied.any()):
            width = int(keep.sum(axis=1).max())
            keep = keep[:, :width]
            measured = np.where(keep, measured[:, :width], np.float32(np.inf))
            return Found(np.where(keep, rows[:, :width], -1), measured, False, params)
        hits: list[Hit] = []
        for i in range(len(queries)):
            if short[i] or tied[i]:
                hits.append(self._anew(queries[i : i + 1], k, params, alive, exact=bool(short[i])))
            else:
                hits.append((rows[i, keep[i]], measured[i, keep[i]]))
        return together(hits, exact=bool(short.all()), params=params)

    def _anew(
        self, query: NDArray[np.float32], k: int, params: dict[str, int], alive: Alive | None, exact: bool
    ) -> Hit:
        live = len(self.vectors.rows) if alive is None else alive.count
        m = 2 * k + 16
        while not exact and m <= min(MAX_WIDENED, live):
            m *= 4
            if alive is None:
                rows, measured = self.proposed(query, m, params)
            else:
                rows, measured = self._asked(query, k, m, params, alive)[0]
            filled = measured[0] < np.inf
            last = measured[0, filled][-1] if filled.any() else np.float32(np.inf)
            if np.count_nonzero(filled) >= k and last > measured[0, k - 1]:
                keep = measured[0] <= measured[0, k - 1]
                return rows[0, keep], measured[0, keep]
        found = self.exact.search(query, k, None, alive)
        return found.rows[0], found.distances[0]

    def proposed(self, queries: NDArray[np.float32], m: int, params: dict[str, int], k: int | None = None) -> Measured:
        """Proposals measured and sorted by (distance, row): rows (q, w) with -1, distances (q, w) with +inf. k: as
        `propose` takes it."""
        threads.use_for(len(queries))
        parts = [
            self.measured(queries[part], self.propose(queries[part], m, params, k))
            for part in _pieces(len(queries), self.candidates(m, params) * NUMBERS_A_CANDIDATE)
        ]
        return parts[0] if len(parts) == 1 else _stacked(parts)

    def _asked(
        self, queries: NDArray[np.float32], k: int, m: int, params: dict[str, int], alive: Alive
    ) -> tuple[Measured, dict[str, int]]:
        threads.use_for(len(queries))
        parts: list[Measured] = []
        asked = params
        wide = 2 * max(self.candidates(m, params), m * params.get("rerank", 1))
        for part in _pieces(len(queries), wide * self.vectors.rows.shape[1]):
            found, with_params = self.among(queries[part], k, m, params, alive)
            parts.append(found)
            asked = {name: max(asked[name], value) for name, value in with_params.items()}
        return (parts[0] if len(parts) == 1 else _stacked(parts)), asked

    def measured(self, queries: NDArray[np.float32], slots: NDArray[np.int64]) -> Measured:
        """slots: (q, w), -1 for none → their rows and distances, sorted by (distance, row), (q, w) each."""
        rows = slots if self._labels is None else self._labels[slots]
        if self.vectors.ahead is not None:
            self.vectors.ahead(rows)
        if len(queries) == 1 and slots.min() >= 0:
            measured = distances(self.vectors.metric, queries[0], self.vectors.rows[rows[0]])
            order = np.lexsort((rows[0], measured))
            return rows[:, order], measured[order][None]
        rows = np.where(slots < 0, -1, rows)
        return in_order(rows, pairs.measured(self.vectors, queries, rows))

    def candidates(self, m: int, params: dict[str, int]) -> int:
        """How many rows `propose` gives for m; more than m where they are to be re-ranked here."""
        return m


def _pieces(queries: int, numbers: int) -> Iterator[slice]:
    """numbers: of 4 bytes that a query takes."""
    step = max(1, GATHER_ELEMENTS // numbers)
    return (slice(start, start + step) for start in range(0, queries, step))


def in_order(rows: NDArray[np.int64], measured: NDArray[np.float32]) -> Measured:
    """Sorted by (distance, row), in place."""
    # Most come so from Faiss: what is out of order or ties is looked at.
    disordered = (measured[:, 1:] <= measured[:, :-1]) & (measured[:, 1:] < np.inf)
    unsure = np.flatnonzero(disordered.any(axis=1))
    order = np.lexsort((rows[unsure], measured[unsure]), axis=-1)
    rows[unsure] = np.take_along_axis(rows[unsure], order, 1)
    measured[unsure] = np.take_along_axis(measured[unsure], order, 1)
    return rows, measured


def _stacked(parts: Sequence[Measured]) -> Measured:
    """Proposals for queries that follow each other; as wide as the widest."""
    width = max(rows.shape[1] for rows, _ in parts)
    padded = [_padded(part, width) for part in parts]
    return np.concatenate([rows for rows, _ in padded]), np.concatenate([measured for _, measured in padded])


def _padded(part: Measured, width: int) -> Measured:
    missing = ((0, 0), (0, width - part[0].shape[1]))
    return np.pad(part[0], missing, constant_values=-1), np.pad(part[1], missing, constant_values=np.inf)


def replaced(all_: Measured, which: NDArray[np.bool_], with_: Measured) -> Measured:
    """The proposals of some queries exchanged."""
    width = max(all_[0].shape[1], with_[0].shape[1])
    (rows, measured), (new_rows, new_measured) = _padded(all_, width), _padded(with_, width)
    rows[which], measured[which] = new_rows, new_measured
    return rows, measured
