"""HNSW: a graph over the segment's own mapped bytes. No second copy of the vectors, but under cosine and dot where
they are not of norm 1: then the file holds a float16 copy of what the graph compares (`source.compared`).

The queries of the calibration must not be in the graph when it is calibrated, so they are added last; but slots have
to be row numbers, since the segment is the graph's storage. So the graph is built in another order and its nodes are
numbered anew at the end.
"""

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index import mapped, source, threads
from index.approximate import Approximate, Measured
from index.calibration import Calibration, calibrate, held_out, true_kth
from index.contract import Alive, IndexFileError, Plan, Vectors
from index.pacing import Progress, pieces, within

EF_SEARCH = (16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 384, 512, 768)
MAX_EF = 4096
WIDENING = 0.15
"""What ef wants to be larger by for each row that is passed over for one that matches: Faiss sees 10 to 15 nodes for
each it keeps in sight, so 1/share would be far too much."""
RELABEL_NODES = 1 << 16
BUILT = 0.75
"""Share of the work that is adding, in progress."""


class Hnsw(Approximate):
    kind = "hnsw"

    def __init__(
        self, vectors: Vectors, graph: Any, calibration: Calibration | None, labels: NDArray[np.int64] | None = None
    ) -> None:
        super().__init__(vectors, calibration, labels)
        self._graph = graph
        self._copies = source.needs_copy(vectors)
        self._cached: dict[int, Any] = {}

    def propose(self, queries: NDArray[np.float32], m: int, params: dict[str, int]) -> NDArray[np.int64]:
        ef = max(params["ef_search"], m)
        # Making the parameters costs as much as the call itself (4 µs).
        wanted = self._cached.get(ef) or self._cached.setdefault(ef, faiss.SearchParametersHNSW(efSearch=ef))
        slots: NDArray[np.int64] = self._graph.search(self._compared(queries), m, params=wanted)[1]
        return slots

    def _compared(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        return source.compared_queries(queries, self._graph.d) if self._copies else queries

    def among(
        self, queries: NDArray[np.float32], k: int, m: int, params: dict[str, int], alive: Alive
    ) -> tuple[Measured, dict[str, int]]:
        # Faiss keeps pointers only: `alive` holds the bits, this frame holds the selector until the search is done.
        selector = faiss.IDSelectorBitmap(alive.bits)
        ef = min(MAX_EF, round(params["ef_search"] * self._widening(alive)))
        wanted = faiss.SearchParametersHNSW(efSearch=max(ef, m), sel=selector)
        slots = self._graph.search(self._compared(queries), m, params=wanted)[1]
        return self.measured(queries, slots), {"ef_search": ef}

    def among_us(self, plan: Plan, alive: Alive) -> float:
        return self._widening(alive) * plan.cost_us

    def _widening(self, alive: Alive) -> float:
        return 1 + WIDENING * (len(self.vectors.rows) / max(1, alive.count) - 1)

    def widened(self, params: dict[str, int], factor: float) -> dict[str, int]:
        return {"ef_search": min(MAX_EF, round(params["ef_search"] * factor))}


def build(vectors: Vectors, params: dict[str, int], progress: Progress) -> tuple[Any, Calibration]:
    """A graph whose slots are rows, and what it was measured at. What it compares is float32 once, or float16."""
    n = len(vectors.rows)
    asked = held_out(*vectors.rows.shape)
    in_graph = np.setdiff1d(np.arange(n), asked, assume_unique=True)
    order = np.concatenate([in_graph, asked])
    graph = _empty(vectors, params["m"])
    graph.hnsw.efConstruction = params["ef_construction"]
    _add(graph, vectors, in_graph, within(progress, 0.0, BUILT))
    queries = source.taken(vectors, asked)
    kth = true_kth(vectors, queries, in_graph, within(progress, BUILT, 0.85))
    grid = [[{"ef_search": ef} for ef in EF_SEARCH]]
    calibration = calibrate(Hnsw(vectors, graph, None, order), queries, kth, grid, within(progress, 0.85, 0.95))
    _add(graph, vectors, asked, within(progress, 0.95, 0.98))
    relabel(graph, order, source.needs_copy(vectors))
    return graph, calibration


def _empty(vectors: Vectors, m: int) -> Any:
    d, metric = _shape(vectors)
    if vectors.rows.dtype == np.float16 or source.needs_copy(vectors):
        return faiss.IndexHNSWSQ(d, faiss.ScalarQuantizer.QT_fp16, m, metric)
    return faiss.IndexHNSWFlat(d, m, metric)


def _shape(vectors: Vectors) -> tuple[int, int]:
    """Dimension and Faiss metric of what the graph compares."""
    euclidean = vectors.metric == "l2" or (vectors.metric == "dot" and source.needs_copy(vectors))
    return source.compared_width(vectors), faiss.METRIC_L2 if euclidean else faiss.METRIC_INNER_PRODUCT


def _add(graph: Any, vectors: Vectors, rows: NDArray[np.int64], progress: Progress) -> None:
    threads.use(threads.batch_threads())
    for piece in pieces(len(rows), first=1000, largest=50_000):
        graph.add(source.compared(vectors, rows[piece]))
        progress(piece.stop / len(rows))


def relabel(graph: Any, order: NDArray[np.int64], with_storage: bool) -> None:
    """Node p becomes node order[p]. with_storage: its codes move too; else the graph loses them."""
    hnsw, n = graph.hnsw, len(order)
    storage = faiss.downcast_index(graph.storage)
    if with_storage:
        codes = faiss.vector_to_array(storage.codes).reshape(n, -1)
        moved = np.empty_like(codes)
        moved[order] = codes
        faiss.copy_array_to_vector(moved.reshape(-1), storage.codes)
    else:
        storage.reset()
    levels = faiss.vector_to_array(hnsw.levels)
    offsets = faiss.vector_to_array(hnsw.offsets).astype(np.int64)
    size = int(offsets[-1])
    neighbors = faiss.rev_swig_ptr(hnsw.neighbors.data(), size)
    new_levels, lengths = np.empty_like(levels), np.empty(n, np.int64)
    new_levels[order], lengths[order] = levels, np.diff(offsets)
    new_offsets = np.concatenate([[0], np.cumsum(lengths)])
    renamed = np.empty(size, np.int32)
    # -1 (no neighbour) looks up the last entry, and stays -1.
    names = np.append(order, -1).astype(np.int32)
    for level in np.unique(levels):
        nodes = np.flatnonzero(levels == level)
        reach = np.arange(offsets[nodes[0] + 1] - offsets[nodes[0]])
        for start in range(0, len(nodes), RELABEL_NODES):
            part = nodes[start : start + RELABEL_NODES]
            renamed[new_offsets[order[part]][:, None] + reach] = names[neighbors[offsets[part][:, None] + reach]]
    neighbors[:] = renamed
    faiss.copy_array_to_vector(new_levels, hnsw.levels)
    faiss.copy_array_to_vector(new_offsets.astype(np.uint64), hnsw.offsets)
    hnsw.entry_point = int(order[hnsw.entry_point])


def opened(graph: Any, vectors: Vectors, calibration: Calibration | None) -> Hnsw:
    """From what was read to what searches. Raises IndexFileError where it does not belong to these vectors."""
    n = len(vectors.rows)
    d, metric = _shape(vectors)
    if not isinstance(graph, faiss.IndexHNSW) or graph.d != d or graph.ntotal != n:
        raise IndexFileError(f"not a graph over {n} × {d}")
    hnsw = graph.hnsw
    offsets = faiss.vector_to_array(hnsw.offsets)
    if (
        graph.metric_type != metric
        or hnsw.levels.size() != n
        or len(offsets) != n + 1
        or int(offsets[-1]) != hnsw.neighbors.size()
        or not 0 <= hnsw.entry_point < n
    ):
        raise IndexFileError("the graph's parts do not fit together")
    if graph.storage is None:
        if source.needs_copy(vectors):
            raise IndexFileError("the graph lacks the vectors it compares")
        storage = mapped.view(vectors.rows, metric)
        graph.own_fields = False
        graph.storage = storage
        graph.referenced_objects = [storage]
    elif graph.storage.ntotal != n:
        raise IndexFileError("the graph's own vectors are not as many as its nodes")
    return Hnsw(vectors, graph, calibration)
