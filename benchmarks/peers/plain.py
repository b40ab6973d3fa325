"""Plain Faiss in process: what a program that needs no server, ids, writes or durability would do.

    python -m benchmarks.peers.plain    in the project's own environment

Two indexes over one copy of the vectors, the graph's: HNSW, and inverted lists of 4-bit product codes, scanned by
vector instructions and re-ranked exactly in C++. Tuning takes whichever is quicker at the recall.
"""

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.peer import Ask, Floats, Hits, Ingested, Params, Peer, near_squared
from benchmarks.peers.protocol import serve

# Faiss ships no types that know its parameters by name.
parameters: Any = faiss

GRAPH, LISTS = "hnsw.faiss", "ivf.faiss"
LINKS = 32
FINE_DIMENSION = 256
"""Up to so many, two numbers a code; above, four."""
TRAINED_ON_A_LIST = 64
WIDTHS = (10, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 256, 384, 512)
PROBES = (2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 192, 256)
RERANKED = (4, 8, 16, 32, 64)
"""Times k candidates whose true distances are computed."""
BUCKETS = 100


class Plain(Peer):
    def __init__(self) -> None:
        self._cores = len(os.sched_getaffinity(0))
        self._folder = Path()
        self._graph: Any = None
        self._lists: Any = None
        self._vectors: Any = None
        self._selected: tuple[int, list[Any]] | None = None
        """Buckets, the selectors of their rows (by bitmap, by array) and what these point into."""

    def open(self, folder: Path, dimension: int) -> int:
        self._folder = folder
        if not (folder / LISTS).exists():
            return 0
        self._use(faiss.read_index(str(folder / GRAPH)), faiss.read_index(str(folder / LISTS)))
        return int(self._graph.ntotal)

    def _use(self, graph: Any, lists: Any) -> None:
        self._graph, self._vectors = graph, faiss.downcast_index(graph.storage)
        self._lists = faiss.IndexRefine(lists, self._vectors)
        self._lists.referenced_objects = [lists, self._vectors]

    def ingest(self, vectors: Floats, bucket: bool) -> Ingested:
        """Acknowledged once the vectors are in memory: nothing is on the disk before all is built."""
        begun = time.perf_counter()
        rows = np.array(vectors, np.float32)
        acknowledged_s = time.perf_counter() - begun
        lists = _lists(rows)
        graph = faiss.IndexHNSWFlat(rows.shape[1], LINKS)
        graph.add(rows)
        self._folder.mkdir(parents=True, exist_ok=True)
        faiss.write_index(graph, str(self._folder / GRAPH))
        faiss.write_index(lists, str(self._folder / LISTS))
        self._use(graph, lists)
        return Ingested(acknowledged_s, time.perf_counter() - begun)

    def ladders(self, buckets: int | None) -> list[list[Params]]:
        found: list[list[Params]] = [[{"nprobe": n, "rerank": r} for n in PROBES] for r in RERANKED]
        found.append([{"ef": width} for width in WIDTHS])
        return found if buckets is None else [[{"exact": True}], *found]

    def searches(self, queries: Floats, k: int, params: Params, buckets: int | None) -> list[Ask]:
        index, asked = self._asked(params, buckets)
        return [_call(index, query[None], k, asked) for query in np.ascontiguousarray(queries, np.float32)]

    def _asked(self, params: Params, buckets: int | None) -> tuple[Any, Any]:
        """→ the index for these parameters, and Faiss' own for them."""
        bits, rows = (None, None) if buckets is None else self._selectors(buckets)
        if "exact" in params:
            return self._vectors, _kept(parameters.SearchParameters(sel=rows), rows)
        if "ef" in params:
            return self._graph, _kept(parameters.SearchParametersHNSW(efSearch=params["ef"], sel=bits), bits)
        probes = _kept(parameters.SearchParametersIVF(nprobe=params["nprobe"], sel=bits), bits)
        wide = parameters.IndexRefineSearchParameters(k_factor=params["rerank"], base_index_params=probes)
        return self._lists, _kept(wide, probes)

    def _selectors(self, buckets: int) -> tuple[Any, Any]:
        if self._selected is None or self._selected[0] != buckets:
            mask = np.arange(self._graph.ntotal) % BUCKETS < buckets
            bits, rows = np.packbits(mask, bitorder="little"), np.flatnonzero(mask)
            by_array = parameters.IDSelectorArray(len(rows), faiss.swig_ptr(rows))
            self._selected = (buckets, [parameters.IDSelectorBitmap(bits), by_array, bits, rows])
        return self._selected[1][0], self._selected[1][1]

    def hits(self, answer: Any) -> Hits:
        return _near(answer[0][0], answer[1][0])

    def batch(self, queries: Floats, k: int, params: Params) -> Ask:
        index, asked = self._asked(params, None)
        together = _call(index, np.ascontiguousarray(queries, np.float32), k, asked)
        return lambda: (faiss.omp_set_num_threads(self._cores), together())[1]

    def batch_hits(self, answer: Any) -> Sequence[Hits]:
        return [_near(squares, ids) for squares, ids in zip(*answer, strict=True)]

    def fetches(self, ids: NDArray[np.int64]) -> list[Ask]:
        return [lambda row=int(row): self._vectors.reconstruct(row) for row in ids]

    def in_each_thread(self) -> None:
        # The setting is the calling thread's own.
        faiss.omp_set_num_threads(1)


def _lists(rows: Floats) -> Any:
    """Inverted lists of codes, trained on a sample."""
    n, d = rows.shape
    lists = 2 ** round(math.log2(math.sqrt(n)))
    codes = next(m for m in range(d // 2 if d <= FINE_DIMENSION else d // 4, 0, -1) if d % m == 0)
    index = faiss.index_factory(d, f"IVF{lists},PQ{codes}x4fs")
    step = max(1, n // (lists * TRAINED_ON_A_LIST))
    index.train(rows[::step])
    index.add(rows)
    return index


def _call(index: Any, queries: Floats, k: int, params: Any) -> Ask:
    return lambda: index.search(queries, k, params=params)


def _kept(params: Any, inner: Any) -> Any:
    """Faiss counts no references to what parameters point at."""
    params.referenced_objects = [inner]
    return params


def _near(squares: NDArray[np.float32], ids: NDArray[np.int64]) -> Hits:
    there = ids >= 0
    return near_squared(ids[there], squares[there])


if __name__ == "__main__":
    serve(Plain())
