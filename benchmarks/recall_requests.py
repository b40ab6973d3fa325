"""Requested recall against what is found, and its cost against the cheapest parameters that would have done.

The cheapest are looked for in a grid of our own, much finer than the product's, on the very queries that judge.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.in_process import InProcess
from benchmarks.oracle import Truth
from benchmarks.recall_data import KS, REQUESTED, Data
from benchmarks.served import NAME, Served, built

Params = dict[str, int]
BELOW = 0.005
DEARER = 2.0
RISING_AFTER, RISING_FROM, RISING = 7, 0.5, 0.0005
"""The first steps of a graph's chain are all one: it keeps at least k and some in sight."""
SEARCHED_QUERIES = 2_000
"""As many look for the cheapest parameters; all of them measure what was answered."""
TIMED_QUERIES = 120
ROUNDS = 3
RERANK = (1, 2, 4, 8, 16, 32, 64, 128, 256)
RERANKED = 2_560
"""Candidates at most; with more, comparing them is all that a search does."""
STEP = 1.2


def steps(first: int, last: int) -> list[int]:
    """From first to last, each about STEP times the one before."""
    found = [first]
    while found[-1] < last:
        found.append(min(last, max(found[-1] + 1, round(found[-1] * STEP))))
    return found


def chains(kind: str, meta: dict[str, Any], k: int) -> list[list[Params]]:
    """Settings from cheap to thorough, in one way each."""
    if kind == "hnsw":
        return [[{"ef_search": ef} for ef in steps(max(10, k), 2048)]]
    probes = steps(1, int(meta["params"]["nlist"]))
    return [[{"nprobe": p, "rerank": r} for p in probes] for r in RERANK if r == 1 or k * r <= RERANKED]


def first_that_does(chain: list[Params], recall: Callable[[Params], float], requested: float) -> Params | None:
    """Recall rises along a chain, and so does the price of asking: in growing steps from the cheap end, then by
    bisection. None: it ends, or stops rising, before it gets there."""
    low = high = 0
    before = -1.0
    while (found := recall(chain[high])) < requested:
        if high == len(chain) - 1 or (high >= RISING_AFTER and found > RISING_FROM and found - before < RISING):
            return None
        low, high, before = high + 1, min(len(chain) - 1, 2 * high + 1), found
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if recall(chain[middle]) >= requested else (middle + 1, high)
    return chain[low]


class Measured:
    """One collection as it stands: what it answers, and what it could."""

    def __init__(self, engine: InProcess, data: Data, truth: Truth, kind: str, meta: dict[str, Any]) -> None:
        self._engine, self._data, self._truth = engine, data, truth
        self._kind, self._meta = kind, meta
        self._recalls: dict[tuple[int, tuple[tuple[str, int], ...]], float] = {}

    def cell(self, k: int, requested: float) -> dict[str, Any]:
        answers = self._engine.batch(NAME, self._data.queries, k, recall=requested)
        chosen = self._chosen(k, requested)
        return {
            "k": k,
            "requested": requested,
            "expected": answers.expected_recall,
            "measured": float(self._truth.shares(answers.ids).mean()),
            "exact": answers.exact,
            "chosen": chosen,
        } | self._costs(k, requested, chosen)

    def _chosen(self, k: int, requested: float) -> Params | None:
        """None: it searches exactly."""
        return self._asked_with(k, recall=requested) or None

    def _asked_with(self, k: int, **asked: Any) -> Params:
        parts = self._engine.explained(NAME, self._data.queries[0], k, **asked)["parts"]
        assert len(parts) == 1, f"{len(parts)} parts: the collection has not settled"
        params: Params = parts[0]["params"]
        return params

    def _costs(self, k: int, requested: float, chosen: Params | None) -> dict[str, Any]:
        """Of what was chosen and of the cheapest that would have done, taken in turn."""
        given = chains(self._kind, self._meta, k)[0][0]
        assert self._asked_with(k, params=given) == given, "the engine does not search with the parameters given"
        able = [
            params
            for chain in chains(self._kind, self._meta, k)
            if (params := first_that_does(chain, lambda p: self._recall(k, p), requested)) is not None
        ]
        took: list[list[NDArray[np.float64]]] = [[] for _ in range(len(able) + 1)]
        for turn in range(ROUNDS):
            some = self._data.queries[turn * TIMED_QUERIES : (turn + 1) * TIMED_QUERIES]
            took[0].append(self._engine.each(NAME, some, k, recall=requested))
            for params, own in zip(able, took[1:], strict=True):
                own.append(self._engine.each(NAME, some, k, params=params))
        own_us, *others_us = [float(np.median(np.concatenate(own))) for own in took]
        if not able:
            return {"us": own_us, "cheapest": None, "cheapest_us": None, "times": None}
        least = int(np.argmin(others_us))
        # What was chosen may be cheaper than all of the grid: then it is itself the cheapest.
        least_us = min(own_us, others_us[least]) if chosen else others_us[least]
        return {"us": own_us, "cheapest": able[least], "cheapest_us": others_us[least], "times": own_us / least_us}

    def _recall(self, k: int, params: Params) -> float:
        key = (k, tuple(sorted(params.items())))
        if key not in self._recalls:
            queries = self._data.queries[:SEARCHED_QUERIES]
            answers = self._engine.batch(NAME, queries, k, params=params)
            self._recalls[key] = float(self._truth.first(len(queries)).shares(answers.ids).mean())
        return self._recalls[key]


def judged(row: dict[str, Any]) -> dict[str, Any]:
    """Names what of the goals a row misses; an empty string: nothing."""
    missed = []
    if row["measured"] < row["requested"] - BELOW:
        missed.append("below")
    if row["times"] is not None and row["times"] > DEARER:
        missed.append("dear")
    return row | {"missed": " ".join(missed)}


def requests(folder: Path, data: Data, metric: str, kinds: list[str], ks: tuple[int, ...] = KS) -> Iterator[Any]:
    """A fresh collection in `folder`, indexed one way after the other. Rows as they are measured."""
    with Served(folder) as served:
        served.collection.create(
            data.train.shape[1], metric=metric, id_type="int", index={"kind": "flat"}, recall=REQUESTED[1]
        )
        served.fill(data.train, 0)
        served.ready()
    for kind in kinds:
        # `auto` goes by the collection's own recall, the others do not: there a request may ask for any.
        for setting, wanted in (
            ((0.95, REQUESTED[:2]), (0.99, REQUESTED[2:])) if kind == "auto" else ((0.95, REQUESTED),)
        ):
            with Served(folder) as served:
                seconds = served.index(kind, setting)
            yield from _asked(folder, data, metric, kind, wanted, ks, seconds)


def _asked(
    folder: Path, data: Data, metric: str, kind: str, wanted: tuple[float, ...], ks: tuple[int, ...], seconds: float
) -> Iterator[dict[str, Any]]:
    indexes = built(folder)
    if len(indexes) != 1:
        raise SystemExit(f"{data.name}, {kind}: {len(indexes)} indexes where one is wanted")
    index = indexes[0]
    truth = data.truth(metric)
    about = {
        "data": f"{data.name.partition('-euclidean')[0]} {len(data.train):,}",
        "metric": metric,
        "kind": kind,
        "became": " ".join([index.kind, *(f"{name} {value}" for name, value in index.meta["params"].items())]),
        "build_s": seconds,
    }
    with InProcess(folder) as engine:
        measured = Measured(engine, data, truth, index.kind, index.meta)
        for k in ks:
            for requested in wanted:
                yield judged(about | measured.cell(k, requested))
