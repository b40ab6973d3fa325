"""The yardstick: the collection's own index files searched by plain Faiss, in this process, on one thread.

The files are read as docs/formats.md says; parameters are those that the calibration wrote beside the index for the
recall asked for. A server cannot be faster than this without answering something else.
"""

import json
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


@dataclass(frozen=True, slots=True)
class Part:
    """One segment's index, ready to be asked."""

    index: Any
    kind: str
    meta: dict[str, Any]
    keep: tuple[Any, ...]
    """What Faiss points into without counting references."""
    width: int
    """Numbers of a query: the file's own copies of vectors may be wider (docs/formats.md)."""

    def search(self, query: NDArray[np.float32], k: int, params: Any) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """params: as `params_of` makes them. → distances by Faiss' measure, and rows, (q, k) each."""
        if query.shape[1] < self.width:
            query = np.pad(query, ((0, 0), (0, self.width - query.shape[1])))
        found: tuple[NDArray[np.float32], NDArray[np.int64]] = self.index.search(query, k, params=params)
        return found

    def params_of(self, point: dict[str, int]) -> Any:
        """Faiss' own parameters for ours, which it does not copy: they must be kept as long as they are used."""
        if self.kind == "hnsw":
            return parameters.SearchParametersHNSW(efSearch=point["ef_search"])
        inner = parameters.SearchParametersIVF(nprobe=point["nprobe"])
        refined = parameters.IndexRefineSearchParameters(k_factor=float(point["rerank"]), base_index_params=inner)
        refined.referenced_objects = [inner]
        return refined


class PlainFaiss:
    """Raises SystemExit where the collection has a segment without an index: there is nothing to compare with."""

    def __init__(self, data_dir: Path, collection: str, recall: float) -> None:
        """recall: what the calibration is asked for, for k = 10."""
        registry = apsw.Connection(str(data_dir / "registry.db"), flags=READONLY)
        uuid = str(registry.execute("SELECT uuid FROM collections WHERE name = ?", (collection,)).get)
        home = data_dir / "c" / uuid
        db = apsw.Connection(str(home / "catalog.db"), flags=READONLY)
        self.metric = str(db.execute("SELECT metric FROM settings").get)
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
            self.parts.append(_part(files / str(segment), files / str(file), str(kind), described, self.metric))
            self._params.append(self.parts[-1].params_of(point))
        registry.close()
        db.close()

    def run(self, queries: NDArray[np.float32], k: int, seconds: float) -> tuple[float, list[float], NDArray[Any]]:
        """One by one for about `seconds`. Returns queries/s, latencies (s), distances (≤ q, k) as the contract's."""
        faiss.omp_set_num_threads(1)
        asked = _normed(queries) if self.metric == "cosine" else queries
        latencies: list[float] = []
        found: list[NDArray[Any]] = []
        begun = time.perf_counter()
        while time.perf_counter() - begun < seconds:
            at = time.perf_counter()
            query = asked[len(latencies) % len(asked)][None]
            near = np.concatenate(
                [part.search(query, k, params)[0] for part, params in zip(self.parts, self._params, strict=True)],
                axis=1,
            )
            latencies.append(time.perf_counter() - at)
            if len(found) < len(asked):
                found.append(near)
        elapsed = time.perf_counter() - begun
        return len(latencies) / elapsed, latencies, self._distances(np.concatenate(found), k)

    def _distances(self, near: NDArray[Any], k: int) -> NDArray[Any]:
        """Faiss's measure in the contract's terms, the k nearest over all segments."""
        own = np.sqrt(np.maximum(near, 0)) if self.metric == "l2" else -near
        if self.metric == "cosine":
            own = 1.0 - near
        nearest: NDArray[Any] = np.sort(own, axis=1)[:, :k]
        return nearest


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
        rows = f["vectors"][:].astype(np.float32)
    flat = faiss.IndexFlat(rows.shape[1], faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT)
    flat.add(_normed(rows) if metric == "cosine" else rows)
    index: Any = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC)
    if kind == "hnsw":
        if index.storage is None:
            index.own_fields = False
            index.storage = flat
        return Part(index, kind, meta, (flat,), index.d)
    return Part(faiss.IndexRefine(index, flat), kind, meta, (index, flat), rows.shape[1])
