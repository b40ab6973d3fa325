"""Building a graph, calibrated and numbered by rows.

The queries of the calibration must not be in the graph when it is calibrated, so they are added last; but slots have
to be row numbers, since the segment is the graph's storage. So the graph is built in another order and its nodes are
numbered anew at the end.
"""

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index import source, threads
from index.calibration import Calibration, calibrate, held_out, true_kth
from index.contract import Vectors
from index.hnsw import Hnsw, shape
from index.pacing import Progress, pieces, within

EF_SEARCH = (16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 384, 512, 768)
RELABEL_NODES = 1 << 16
BUILT = 0.75
"""Share of the work that is adding, in progress."""


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
    d, metric = shape(vectors)
    if vectors.rows.dtype == np.float16 or source.needs_copy(vectors):
        return faiss.IndexHNSWSQ(d, faiss.ScalarQuantizer.QT_fp16, m, metric)
    return faiss.IndexHNSWFlat(d, m, metric)


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
