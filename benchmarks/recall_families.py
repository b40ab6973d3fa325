"""Where one kind of index overtakes the other, by rows, dimension, metric and recall: what `auto` goes by.

On the indexes alone, built in this process: what a certified search costs, and what was found by queries that are not
in the data.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.oracle import Truth
from benchmarks.recall_builds import Phases
from benchmarks.recall_data import REQUESTED, Data
from index.build import build, resolve
from index.contract import Index, Metric, Plan, Vectors
from index.distance import norms
from index.load import load
from index.memory import private_bytes

K = 10
WAYS: tuple[tuple[str, dict[str, int]], ...] = (("ivf", {}), ("hnsw", {"m": 16}), ("hnsw", {"m": 32}))
TIMED = 300
ROUNDS = 3
THREADS = 2


def families(data: Data, metric: Metric, folder: Path) -> Iterator[dict[str, Any]]:
    """A row for each way to index and each recall."""
    n, d = data.train.shape
    vectors = Vectors(data.train, norms(data.train), metric)
    truth = data.truth(metric)
    opened: list[tuple[Index, dict[str, Any]]] = []
    for kind, given in WAYS:
        _, params = resolve(kind, given, n, d, metric, REQUESTED[1])
        path = folder / f"family-{kind}-{params.get('m', 0)}.faiss"
        begun, cpu = time.perf_counter(), time.process_time()
        with Phases() as phases:
            meta = build(vectors, (kind, params), path, recall=REQUESTED[1], threads=THREADS)
        about = {
            "data": data.name.partition("-euclidean")[0],
            "rows": n,
            "dimension": d,
            "metric": metric,
            "kind": kind,
            "params": " ".join(f"{name} {value}" for name, value in params.items()),
            "build_s": time.perf_counter() - begun,
            "build_cpu_s": time.process_time() - cpu,
            "index_s": phases.seconds.get("index", 0.0),
            "file_mib": path.stat().st_size / 2**20,
            "private_mib": private_bytes(meta) / 2**20,
        }
        opened.append((load(path, meta, vectors), about))
        path.unlink()  # mapped: the file goes with the index
    for requested in REQUESTED:
        yield from _asked(opened, data.queries, truth, requested)


def _asked(
    opened: list[tuple[Index, dict[str, Any]]], queries: NDArray[np.float32], truth: Truth, requested: float
) -> Iterator[dict[str, Any]]:
    plans = [index.plan(K, requested) for index, _ in opened]
    found = [_recall(index, queries, plan, truth) for (index, _), plan in zip(opened, plans, strict=True)]
    took: list[list[float]] = [[] for _ in opened]
    for turn in range(ROUNDS):  # in turn, so that what disturbs one disturbs all
        some = queries[turn * TIMED : (turn + 1) * TIMED]
        for (index, _), plan, own in zip(opened, plans, took, strict=True):
            own.extend(_each(index, some, plan))
    for (_, about), plan, recall, own in zip(opened, plans, found, took, strict=True):
        yield about | {
            "requested": requested,
            "expected": plan.expected_recall,
            "measured": recall,
            "exact": plan.exact,
            "chosen": " ".join(f"{name} {value}" for name, value in plan.params.items()),
            "us": float(np.median(own)),
        }


def _recall(index: Index, queries: NDArray[np.float32], plan: Plan, truth: Truth) -> float:
    rows = index.search(queries, K, plan).rows[:, :K]
    return float(truth.shares(rows).mean())


def _each(index: Index, queries: NDArray[np.float32], plan: Plan) -> list[float]:
    took = []
    for query in queries:
        begun = time.process_time()
        index.search(query[None], K, plan)
        took.append((time.process_time() - begun) * 1e6)
    return took
