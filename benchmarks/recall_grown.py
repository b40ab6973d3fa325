"""A collection that grows in five steps: what is found after each, what was built anew, and how long that took."""

import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.recall_data import KS, REQUESTED, Data
from benchmarks.recall_requests import judged
from benchmarks.served import Served, built


def evenly(rows: int) -> list[int]:
    """Rows after each step: five times a fifth."""
    return [rows * step // 5 for step in range(1, 6)]


def by_tenths(rows: int) -> list[int]:
    """Rows before, and after each of five times 10 % more."""
    return [round(rows * 1.1**step) for step in range(6)]


def grown(
    folder: Path, data: Data, metric: str, kind: str, steps: str, sizes: list[int], ks: tuple[int, ...] = KS
) -> Iterator[dict[str, Any]]:
    """sizes: rows after each step, the first from nothing; steps: what to call them. A row for each step, k and
    request."""
    with Served(folder) as served:
        served.collection.create(data.train.shape[1], metric=metric, id_type="int", index={"kind": kind})
        for before, rows in pairwise([0, *sizes]):
            begun = time.perf_counter()
            served.fill(data.train[before:rows], before)
            filled_s = time.perf_counter() - begun
            segments = served.ready()["segments"]
            ready_s = time.perf_counter() - begun
            served.opened(data.queries[0])
            indexes = built(folder)
            about = {
                "data": data.name.partition("-euclidean")[0],
                "metric": metric,
                "kind": kind,
                "steps": steps,
                "became": indexes[0].kind if indexes else "flat",
                "rows": rows,
                "segments": segments,
                "built anew": sum(i.rows for i in indexes if i.built_rows == i.rows and i.rows > before),
                "extended": sum(i.rows - i.built_rows for i in indexes),
                "filled_s": filled_s,
                "ready_s": ready_s,
            }
            truth = data.truth(metric, rows)
            for k in ks:
                for requested in REQUESTED:
                    answers = served.search(data.queries, k, recall=requested)
                    cell = {
                        "k": k,
                        "requested": requested,
                        "expected": answers.expected_recall,
                        "measured": float(truth.shares(answers.ids).mean()),
                        "exact": answers.exact,
                        "times": None,
                    }
                    yield judged(about | cell)
