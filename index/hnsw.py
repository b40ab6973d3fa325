"""HNSW: a graph over the segment's own mapped bytes or a copy of them (`compared`), re-ranked from the segment."""

import math
from functools import partial
from typing import Any, ClassVar, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from index import links, mapped, source, threads
from index.approximate import Approximate, Measured, spare
from index.calibration import Calibration
from index.compared import Compared
from index.contract import Alive, IndexFileError, Plan, Vectors
from index.distance import distances
from index.exact import Exact
from index.walking import Walk

EF_SEARCH = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
EF_APART = 1.4
FULL_EF = (512, 4096)
MAX_EF = 4096
USUAL_K = 10
"""Assumed where a price is reckoned before k is known."""
WIDENING = 0.15
"""ef that finds the k nearest is to grow by this share of itself for each row passed over for one that matches.
Measured on 200,000 and 1,000,000 × 128 at shares from 50 to 2 %; 1/share would be far too much."""
WIDENING_LEAST = 1.4
"""And by so much at least: what is not kept in sight is not found."""
WALK_FROM, WALK_FROM_LEAST = 4, 512
"""Times the plan's ef, and at least: where more is needed, the walk over matching rows alone finds more for less."""
WALK_US = 1500.0
"""What a walk was measured to take; where the exact search among the matching rows takes less, it answers."""
WALK_EF, WALK_EF_LEAST = 6, 256
"""Times the plan's ef, for a walk. A cluster of a tenth of 1,000,000 × 128, asked from outside: recall 0.94 at 4 times,
0.955 at 5.3, 0.97 at 8."""
ENTRIES = 32
SAMPLE_ROWS, SAMPLE_BYTES = 1024, 2 << 20
"""Matching rows that a walk's entries are chosen from, kept with the filter."""


class _Sample(NamedTuple):
    """Some of the rows that match. rows: (s,); exact: over copies of them."""

    rows: NDArray[np.int64]
    exact: Exact


class Hnsw(Approximate):
    kind = "hnsw"
    defaults: ClassVar[dict[str, int]] = {"ef_search": 64}

    def __init__(
        self, compared: Compared, graph: Any, calibration: Calibration | None, labels: NDArray[np.int64] | None = None
    ) -> None:
        super().__init__(compared.vectors, calibration, labels)
        self._graph = graph
        self._compared = compared
        self._cached: dict[int, Any] = {}
        self.links = links.of(graph.hnsw)
        self._walk = Walk(self.links)
        vectors = compared.vectors
        self._stored: Any = None
        if vectors.rows.dtype == np.float32 and (vectors.metric != "cosine" or source.are_unit(vectors)):
            by_l2 = vectors.metric == "l2"
            self._stored = mapped.view(vectors.rows, faiss.METRIC_L2 if by_l2 else faiss.METRIC_INNER_PRODUCT)

    def propose(
        self, queries: NDArray[np.float32], m: int, params: dict[str, int], k: int | None = None
    ) -> NDArray[np.int64]:
        ef = max(params["ef_search"], m)
        slots: NDArray[np.int64] = self._graph.search(self._compared.queries(queries), m, params=self._with_ef(ef))[1]
        return slots

    def _with_ef(self, ef: int) -> Any:
        # Making the parameters costs as much as the call itself (4 µs).
        return self._cached.get(ef) or self._cached.setdefault(ef, faiss.SearchParametersHNSW(efSearch=ef))

    def among(
        self, queries: NDArray[np.float32], k: int, m: int, params: dict[str, int], alive: Alive
    ) -> tuple[Measured, dict[str, int]]:
        plain = params["ef_search"]
        share = alive.count / len(self.vectors.rows)
        ef = most = min(MAX_EF, round(float(_wanted(plain, k, k / share))))
        slots, place = self._looked(queries, k, m, ef, alive)
        wanted = _wanted(plain, k, place)
        # Where a filter has nothing to do with the vectors, chance moves the k-th match by so much.
        few = place > (k + math.sqrt(k * (1 - share))) / share
        far = wanted > max(WALK_FROM * plain, 2 * ef, WALK_FROM_LEAST)
        if (few & far).any():
            slots[few & far] = self._otherwise(queries[few & far], m, max(WALK_EF * plain, WALK_EF_LEAST), alive)
        # In steps, so that a query is asked the same way in every batch.
        steps = np.ceil(wanted / plain)
        for step in np.unique(steps[few & ~far]):
            near = few & ~far & (steps == step)
            most = max(most, int(step) * plain)
            slots[near] = self._looked(queries[near], k, m, int(step) * plain, alive)[0]
        return self.measured(queries, slots), {"ef_search": most}

    def _looked(
        self, queries: NDArray[np.float32], k: int, m: int, ef: int, alive: Alive
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The m nearest matching of the ef nearest, (q, m), -1 where there are fewer; and the place of the k-th match
        among all, (q,), reckoned from those there are where they are fewer."""
        wide = max(ef, m)
        slots = self._graph.search(self._compared.queries(queries), wide, params=self._with_ef(wide))[1]
        matching = (slots >= 0) & alive.mask[slots]
        before = np.cumsum(matching, axis=1)
        place = np.argmax(before >= k, axis=1) + 1.0
        fewer = before[:, -1] < k
        place[fewer] = 1.5 * k * wide / (before[fewer, -1] + 0.5)
        first = np.argsort(~matching, axis=1, kind="stable")[:, :m]
        each = np.arange(len(slots))[:, None]
        return np.where(matching[each, first], slots[each, first], -1), place

    def _otherwise(self, queries: NDArray[np.float32], m: int, ef: int, alive: Alive) -> NDArray[np.int64]:
        """The m nearest matching rows, (q, m), -1 where there are fewer, for queries with none of them near."""
        if self.exact.filtered_us(alive) < WALK_US:
            rows = self.exact.search(queries, min(m, alive.count), None, alive).rows[:, :m]
            return np.pad(rows, ((0, 0), (0, m - rows.shape[1])), constant_values=-1)
        threads.use(1)  # Faiss would wake the others at each of a walk's small steps
        sample = alive.derive("sample", self, lambda: self._sampled(alive))
        slots = np.full((len(queries), m), -1, np.int64)
        for query, out in zip(queries, slots, strict=True):
            entries = sample.rows[sample.exact.search(query[None], ENTRIES).rows[0]]
            found = self._walk.search(partial(self._near, query), entries, alive.mask, max(ef, m))[0]
            out[: len(found)] = found[:m]
        threads.use_for(len(queries))
        return slots

    def _sampled(self, alive: Alive) -> "_Sample":
        count = max(ENTRIES, min(SAMPLE_ROWS, SAMPLE_BYTES // self.vectors.rows[0].nbytes))
        rows = alive.rows[np.unique(np.linspace(0, alive.count - 1, count, dtype=np.int64))]
        return _Sample(rows, Exact(Vectors(self.vectors.rows[rows], self.vectors.norms[rows], self.vectors.metric)))

    def _near(self, query: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """How near rows (m,) are to a query (d,), by Faiss where it can compare them as they are stored."""
        if self._stored is None:
            return distances(self.vectors.metric, query, self.vectors.rows[rows])
        near = np.empty(len(rows), np.float32)
        self._stored.compute_distance_subset(
            1, faiss.swig_ptr(query), len(rows), faiss.swig_ptr(near), faiss.swig_ptr(rows)
        )
        return near if self.vectors.metric == "l2" else np.negative(near, out=near)

    def among_us(self, plan: Plan, alive: Alive) -> float:
        plain, passed = plan.params["ef_search"], len(self.vectors.rows) / max(1, alive.count)
        return plan.cost_us * float(_wanted(plain, USUAL_K, USUAL_K * passed)) / plain

    def families(self, k: int) -> list[list[dict[str, int]]]:
        # So many are looked at in any case. The next is well above it: a step that finds no more would be the last.
        least = k + spare(k)
        return [[{"ef_search": ef} for ef in [least, *(ef for ef in EF_SEARCH if ef > EF_APART * least)]]]

    def efforts(self, k: int) -> list[dict[str, int]]:
        return [{"ef_search": ef} for ef in FULL_EF]

    def widened(self, params: dict[str, int], factor: float) -> dict[str, int]:
        return {"ef_search": min(MAX_EF, round(params["ef_search"] * factor))}


def _wanted(plain: int, k: int, place: Any) -> Any:
    """The ef that finds what lies at that place as well as the plain one finds the k nearest."""
    return plain + max(WIDENING * plain / k, WIDENING_LEAST) * (place - k)


def opened(graph: Any, vectors: Vectors, calibration: Calibration | None) -> Hnsw:
    """From what was read to what searches. Raises IndexFileError where it does not belong to these vectors."""
    n = len(vectors.rows)
    if not isinstance(graph, faiss.IndexHNSW) or graph.ntotal != n:
        raise IndexFileError(f"not a graph over {n} vectors")
    compared = Compared(vectors, copied=graph.storage is not None)
    if graph.d != compared.width:
        raise IndexFileError(f"a graph over vectors of {graph.d} numbers, where they have {compared.width}")
    hnsw = graph.hnsw
    offsets = faiss.vector_to_array(hnsw.offsets)
    if (
        graph.metric_type not in compared.metrics
        or hnsw.levels.size() != n
        or len(offsets) != n + 1
        or int(offsets[-1]) != hnsw.neighbors.size()
        or not 0 <= hnsw.entry_point < n
    ):
        raise IndexFileError("the graph's parts do not fit together")
    if graph.storage is None:
        if vectors.metric != "l2" and not source.are_unit(vectors):
            raise IndexFileError("the graph lacks the vectors it compares")
        storage = mapped.view(vectors.rows, graph.metric_type)
        graph.own_fields = False
        graph.storage = storage
        graph.referenced_objects = [storage]
    elif graph.storage.ntotal != n:
        raise IndexFileError("the graph's own vectors are not as many as its nodes")
    elif not compared.is_copied_in(graph.storage):
        raise IndexFileError("the graph's own vectors are not those of the segment")
    return Hnsw(compared, graph, calibration)
