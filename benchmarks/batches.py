"""Many queries in one request, and exact searches that wait for each other, beside plain Faiss in this process.

    python -m benchmarks.batches [--data FILE.hdf5 ...] [--rows N] [--kind ivf] [--keep DIR] [--rounds 7]

A batch goes over HTTP as `.npy` and comes back as `.npz`. Plain Faiss searches the same index files with the same
settings, re-ranks as many candidates and takes all cores; its exact search is `faiss.knn` over vectors in memory.
Server and Faiss are asked in turn, round after round; a figure is the median of its rounds, a ratio the median of the
rounds' ratios: above 1 the server is the faster. Processor time tells them apart where the clock is disturbed.
"""

import argparse
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks import datasets, loaded, table
from benchmarks.compare.processes import cpu_s
from benchmarks.datasets import Dataset
from benchmarks.ingest import add
from benchmarks.options import numbers, shares
from benchmarks.plain_faiss import K, Part, PlainFaiss
from benchmarks.served import NAME, Served
from index.approximate import spare
from tests.wire import NPY, npy

NPZ = "application/x-npz"
SINGLES = 10
"""Queries that plain Faiss answers exactly, one by one, in a round."""


@dataclass(slots=True)
class Took:
    """Of each round, ms."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def ratios(self, other: "Took") -> tuple[float, float]:
        """How much longer the other took: by the clock, and in processor time."""
        return median(o / m for m, o in zip(self.wall, other.wall, strict=True)), median(
            o / m for m, o in zip(self.cpu, other.cpu, strict=True)
        )


def main() -> None:
    options = parsed()
    rows: list[dict[str, Any]] = []
    for file in options.data or [None]:
        data = datasets.load(file, options.rows)
        with tempfile.TemporaryDirectory(dir=options.tmp, prefix="seedvec-batches-") as fresh:
            folder = (options.keep or Path(fresh)) / f"{data.name}-{len(data.train)}-{options.kind}"
            with Served(folder, workers=options.workers) as served:
                filled(served, data, options.kind)
            rows += measured(folder, data, options)
    print(table.show(rows))
    table.write(options.out, "batches", vars(options), rows)
    print(f"written: {options.out}", file=sys.stderr)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, nargs="+", help="ann-benchmarks HDF5 files (default: clustered vectors)")
    parser.add_argument("--rows", type=int, help="take only the first rows")
    parser.add_argument("--kind", default="ivf", help="kind of index")
    parser.add_argument("--queries", type=int, default=1000, help="of a batch")
    parser.add_argument("--recalls", type=shares, default=[0.95, 0.99, 1.0], help="asked for, comma separated")
    parser.add_argument("--clients", type=numbers, default=[1, 8, 32], help="that search exactly, comma separated")
    parser.add_argument("--seconds", type=float, default=3.0, help="of exact searches in a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="where data folders stay, and are found again")
    parser.add_argument("--tmp", type=Path, help="where they are made otherwise")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/batches.json"))
    return parser.parse_args()


def filled(served: Served, data: Dataset, kind: str) -> None:
    words = served.collection
    if words.wire.call("GET", words.path).status == 404:
        words.create(data.train.shape[1], metric=data.metric, id_type="int", index={"kind": kind})
        add(words, data.train, 5000)
    served.ready()


def measured(folder: Path, data: Dataset, options: argparse.Namespace) -> list[dict[str, Any]]:
    plain = PlainFaiss(folder, NAME, options.recalls[0])
    queries = data.queries[: options.queries]
    with Served(folder, workers=options.workers) as served:
        served.opened(queries[0])
        rows = [in_batches(served, plain, data, queries, recall, options.rounds) for recall in options.recalls]
        return rows + [waiting(served, plain, data, clients, options) for clients in options.clients]


def in_batches(
    served: Served, plain: PlainFaiss, data: Dataset, queries: NDArray[np.float32], recall: float, rounds: int
) -> dict[str, Any]:
    workers = served.server.children("app.worker")
    body, path = npy(queries), f"{served.collection.path}/search?k={K}&include=&recall={recall}"

    def ours() -> NDArray[np.float32]:
        answer = served.collection.wire.ok(200, "POST", path, body, Content_Type=NPY, Accept=NPZ)
        distances: NDArray[np.float32] = np.load(io.BytesIO(answer))["distances"]
        return distances

    theirs = as_planned(served, plain, queries, recall)
    took_ours, took_theirs = Took(), Took()
    found, others = ours(), near(plain, queries, theirs())  # none of this counts: pages, threads
    for _ in range(rounds):
        timed(took_ours, ours, lambda: cpu_s(workers))
        timed(took_theirs, theirs, time.process_time)
    wall, cpu = took_ours.ratios(took_theirs)
    return {
        "data": data.name,
        "what": f"batch of {len(queries)}, recall {recall} asked for",
        "qps": len(queries) / median(took_ours.wall) * 1000,
        "faiss_qps": len(queries) / median(took_theirs.wall) * 1000,
        "ratio": wall,
        "cpu_ratio": cpu,
        "recall": datasets.recall(data, found, K),
        "faiss_recall": datasets.recall(data, others, K),
    }


def timed(took: Took, act: Callable[[], object], cpu: Callable[[], float]) -> None:
    busy, begun = cpu(), time.perf_counter()
    act()
    took.wall.append((time.perf_counter() - begun) * 1000)
    took.cpu.append((cpu() - busy) * 1000)


def as_planned(
    served: Served, plain: PlainFaiss, queries: NDArray[np.float32], recall: float
) -> Callable[[], list[NDArray[np.int64]]]:
    """The same batch by plain Faiss, each part with the settings that the server plans for it. → rows (q, K) a part."""
    body = {"vector": queries[0].tolist(), "k": K, "recall": recall, "explain": True}
    explained = served.collection.wire.ok(200, "POST", f"{served.collection.path}/search", body)["explain"]
    settings = {part["rows"]: part["params"] for part in explained["parts"]}
    ways = []
    for part in plain.parts:
        params = settings[len(part.rows)]
        if "rerank" in params:
            # The server has this many candidates re-ranked for each of k and its spare.
            params = params | {"rerank": params["rerank"] * (K + spare(K)) / K}
        ways.append((part, part.prepared(queries) if params else queries, part.params_of(params) if params else None))

    def search() -> list[NDArray[np.int64]]:
        faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))
        found = [
            knn(part, own, K) if params is None else part.index.search(own, K, params=params)
            for part, own, params in ways
        ]
        np.sort(np.concatenate([near for near, _ in found], axis=1), axis=1)  # what bringing the parts together takes
        return [rows for _, rows in found]

    return search


def knn(part: Part, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    found: tuple[NDArray[np.float32], NDArray[np.int64]] = faiss.knn(
        queries, part.rows, k, metric=faiss.METRIC_L2 if part.metric == "l2" else faiss.METRIC_INNER_PRODUCT
    )
    return found


def near(plain: PlainFaiss, queries: NDArray[np.float32], rows: list[NDArray[np.int64]]) -> NDArray[np.float32]:
    """Distances (q, K), ascending, of the rows of each part."""
    far = [part.distances(queries, found) for part, found in zip(plain.parts, rows, strict=True)]
    return np.sort(np.concatenate(far, axis=1), axis=1)[:, :K].astype(np.float32)


def waiting(
    served: Served, plain: PlainFaiss, data: Dataset, clients: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Exact searches of one query each; plain Faiss answers them one by one, on one thread a core."""
    path = f"{served.collection.path}/search"
    bodies = [json.dumps({"vector": q.tolist(), "k": K, "exact": True, "include": []}) for q in data.queries[:500]]
    requests = [loaded.request("POST", path, body.encode()) for body in bodies]
    cores, qps, plain_qps, p50 = len(os.sched_getaffinity(0)), [], [], []
    for _ in range(options.rounds):
        run = loaded.fired(served.server.port, clients, requests, options.seconds, warm_s=options.seconds / 3).figures()
        qps.append(run["qps"])
        p50.append(run["p50_ms"])
        begun = time.perf_counter()
        one_by_one(plain, data.queries[:SINGLES])
        plain_qps.append(cores * SINGLES / (time.perf_counter() - begun))
    return {
        "data": data.name,
        "what": f"exact, {clients} clients",
        "qps": median(qps),
        "faiss_qps": median(plain_qps),
        "ratio": median(ours / theirs for ours, theirs in zip(qps, plain_qps, strict=True)),
        "p50_ms": median(p50),
    }


def one_by_one(plain: PlainFaiss, queries: NDArray[np.float32]) -> None:
    faiss.omp_set_num_threads(1)
    for query in queries:
        for part in plain.parts:
            knn(part, query[None], K)


if __name__ == "__main__":
    main()
