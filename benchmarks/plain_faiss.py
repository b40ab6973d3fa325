"""The yardstick: the collection's own index files searched by plain Faiss with re-ranking, in this process, one thread.

The files are read as docs/formats.md says; parameters are those that the calibration wrote beside the index for the
recall asked for. A server cannot be faster than this without answering something else.
"""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import faiss
import h5py
import numpy as np
from numpy.typing import NDArray

# Faiss ships no types that know its parameters by name.
parameters: Any = faiss

K = 10
READONLY = apsw.SQLITE_OPEN_READONLY
GRAPH_RERANK = 1.4
"""Times k candidates of a graph over copies that are re-ranked, unless said otherwise: as many as the product takes."""


@dataclass(frozen=True, slots=True)
class Part:
    """One segment's index, ready to be asked. rows: (n, d) float32; width, divisor: of queries as it compares them."""

    index: Any
    kind: str
    meta: dict[str, Any]
    metric: str
    rows: NDArray[np.float32]
    width: int
    divisor: float
    keep: tuple[Any, ...]
    """What Faiss points into without counting references."""

    @property
    def reranks(self) -> bool:
        return isinstance(self.index, faiss.IndexRefine)

    def prepared(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """(q, d) → (q, width), as the index compares them: no part of a search."""
        out = np.zeros((len(queries), self.width), np.float32)
        angles = self.metric == "cosine" or (self.metric == "dot" and self.kind == "hnsw")
        out[:, : queries.shape[1]] = _normed(queries) if angles else queries / np.float32(self.divisor)
        return out

    def search(self, query: NDArray[np.float32], k: int, params: Any) -> NDArray[np.int64]:
        """query: as `prepared`; params: as `params_of`. → rows, (q, k), -1 where there are fewer."""
        rows: NDArray[np.int64] = self.index.search(query, k, params=params)[1]
        return rows

    def params_of(self, point: dict[str, Any]) -> Any:
        """Faiss' own parameters for ours, which it does not copy: they must be kept as long as they are used."""
        if self.kind == "hnsw":
            inner, factor = parameters.SearchParametersHNSW(efSearch=point["ef_search"]), GRAPH_RERANK
        else:
            inner, factor = parameters.SearchParametersIVF(nprobe=point["nprobe"]), 1.0
        if not self.reranks:
            return inner
        wide = float(point.get("rerank", factor))
        refined = parameters.IndexRefineSearchParameters(k_factor=wide, base_index_params=inner)
        refined.referenced_objects = [inner]
        return refined

    def distances(self, queries: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """The contract's, of rows (q, k) found for queries (q, d); +inf for -1."""
        out = np.full(rows.shape, np.inf)
        for i, (query, found) in enumerate(zip(queries.astype(np.float64), rows, strict=True)):
            near = self.rows[found[found >= 0]].astype(np.float64)
            if self.metric == "l2":
                out[i, : len(near)] = np.linalg.norm(near - query, axis=1)
                continue
            products = near @ query
            if self.metric == "cosine":
                products = products / (np.linalg.norm(near, axis=1) * np.linalg.norm(query)) - 1
            out[i, : len(near)] = -products
        return out


class PlainFaiss:
    """Raises SystemExit where the collection has a segment without an index: there is nothing to compare with."""

    def __init__(self, data_dir: Path, collection: str, recall: float) -> None:
        """recall: what the calibration is asked for, for k = 10."""
        registry = apsw.Connection(str(data_dir / "registry.db"), flags=READONLY)
        uuid = str(registry.execute("SELECT uuid FROM collections WHERE name = ?", (collection,)).get)
        home = data_dir / "c" / uuid
        db = apsw.Connection(str(home / "catalog.db"), flags=READONLY)
        metric = str(db.execute("SELECT metric FROM settings").get)
        rows = db.execute("SELECT s.file, i.file, i.kind, i.meta FROM segments s LEFT JOIN indexes i USING (seq)")
        self.parts: list[Part] = []
        self.described: list[str] = []
        self._params: list[Any] = []
        for segment, file, kind, meta in rows.fetchall():
            if file is None:
                raise SystemExit(f"{segment} has no index: wait for the collection to be ready")
            described = json.loads(str(meta))
            point = cheapest(described, recall)
            self.described.append(f"{kind} {point}")
            files = home / "segments"
            self.parts.append(_part(files / str(segment), files / str(file), str(kind), described, metric))
            self._params.append(self.parts[-1].params_of(point))
        registry.close()
        db.close()

    def run(self, queries: NDArray[np.float32], k: int, seconds: float) -> tuple[float, list[float], NDArray[Any]]:
        """One by one for about `seconds`. Returns queries/s, latencies (s), distances (≤ q, k) as the contract's."""
        faiss.omp_set_num_threads(1)
        asked = [part.prepared(queries) for part in self.parts]
        latencies: list[float] = []
        found: list[list[NDArray[np.int64]]] = [[] for _ in self.parts]
        begun = time.perf_counter()
        while time.perf_counter() - begun < seconds:
            number = len(latencies) % len(queries)
            at = time.perf_counter()
            rows = [
                part.search(own[number : number + 1], k, params)
                for part, own, params in zip(self.parts, asked, self._params, strict=True)
            ]
            latencies.append(time.perf_counter() - at)
            if len(latencies) <= len(queries):
                for all_, one in zip(found, rows, strict=True):
                    all_.append(one)
        elapsed = time.perf_counter() - begun
        near = [
            part.distances(queries[: len(own)], np.concatenate(own))
            for part, own in zip(self.parts, found, strict=True)
        ]
        return len(latencies) / elapsed, latencies, np.sort(np.concatenate(near, axis=1), axis=1)[:, :k]


def cheapest(meta: dict[str, Any], recall: float) -> dict[str, int]:
    """The parameters of the cheapest certified point for this recall; of the best one where none reaches it."""
    points = front(meta, K)
    certified = [p for p in points if p["lower"] >= recall or p["recall"] >= recall + 0.003]
    chosen = min(certified, key=lambda p: float(p["cost_us"])) if certified else max(points, key=lambda p: p["recall"])
    params: dict[str, int] = chosen["params"]
    return params


def front(meta: dict[str, Any], k: int) -> list[dict[str, Any]]:
    """The calibrated points for this k, or for the k nearest to it."""
    fronts = meta["calibration"]["fronts"]
    points: list[dict[str, Any]] = min(fronts, key=lambda f: abs(f["k"] - k))["points"]
    return points


def _normed(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    result: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return result


def _part(segment: Path, file: Path, kind: str, meta: dict[str, Any], metric: str) -> Part:
    with h5py.File(segment) as f:
        rows: NDArray[np.float32] = f["vectors"][:].astype(np.float32)
    index: Any = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC)
    if kind == "hnsw" and index.storage is not None:
        return _graph_over_copies(index, meta, rows, metric)
    flat = faiss.IndexFlat(rows.shape[1], faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT)
    flat.add(_normed(rows) if metric == "cosine" else rows)
    if kind == "hnsw":
        index.own_fields = False
        index.storage = flat
        return Part(index, kind, meta, metric, rows, index.d, 1.0, (flat,))
    return Part(faiss.IndexRefine(index, flat), kind, meta, metric, rows, rows.shape[1], 1.0, (index, flat))


def _graph_over_copies(index: Any, meta: dict[str, Any], rows: NDArray[np.float32], metric: str) -> Part:
    """The copies are coarse and on a scale of their own: re-ranked by float32 vectors on the same scale."""
    lengths = np.linalg.norm(rows, axis=1)
    divisor = 1.0
    full = np.zeros((len(rows), index.d), np.float32)
    if metric == "l2":
        divisor = 2.0 ** math.frexp(float(lengths.max()))[1]
        full[:, : rows.shape[1]] = rows / np.float32(divisor)
    elif metric == "cosine":
        full[:, : rows.shape[1]] = _normed(rows)
    else:
        full[:, : rows.shape[1]] = rows / lengths.max()
        full[:, rows.shape[1]] = np.sqrt(np.maximum(0, 1 - np.square(lengths / lengths.max())))
    flat = faiss.IndexFlatL2(index.d)
    flat.add(full)
    return Part(faiss.IndexRefine(index, flat), "hnsw", meta, metric, rows, index.d, divisor, (index, flat))
