"""Queries a second of the whole search path in process (view, plan, index, distances, merge, ids; no HTTP), beside
plain Faiss with re-ranking on the same index files at equal recall. One thread, one query at a time, in turn."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.in_process import InProcess
from benchmarks.oracle import Truth
from benchmarks.plain_faiss import Part, PlainFaiss
from benchmarks.recall_data import Data
from benchmarks.recall_requests import Params, chains, first_that_does
from benchmarks.served import NAME

ROUNDS = 9
QUERIES = 400
EQUAL = 0.001
"""Recalls that near to each other are taken for equal."""
K = 10
GRAPH_RERANK = (1, 2, 4)
"""Times k candidates of a graph over copies."""


def speeds(folder: Path, data: Data, metric: str, requested: float) -> dict[str, Any]:
    """Plain Faiss is given the cheapest parameters that find as much as the engine did: not the engine's own, whose
    re-ranking looks at a few more."""
    truth = data.truth(metric)
    plain = PlainFaiss(folder, NAME, requested)
    (part,) = plain.parts
    asked = part.prepared(data.queries)
    with InProcess(folder) as engine:
        answers = engine.batch(NAME, data.queries, K, recall=requested)
        chosen = engine.explained(NAME, data.queries[0], K, recall=requested)["parts"][0]["params"]
        found = float(truth.shares(answers.ids).mean())
        rivals = _rivals(part, asked, truth, found)
        # The same work, found by fewer: what the way through the engine costs.
        rivals.append((chosen, _recall(part, asked, truth, part.params_of(chosen))))
        ours, theirs = _in_turn(engine, data.queries, part, asked, rivals, requested)
    fastest = int(np.argmin([median(own) for own in theirs[:-1]]))
    params, recall = rivals[fastest]
    return {
        "kind": part.kind,
        "rows": len(data.train),
        "requested": requested,
        "recall": found,
        "params": chosen,
        "us": median(ours),
        "QPS": 1e6 / median(ours),
        "plain recall": recall,
        "plain params": params,
        "plain us": median(theirs[fastest]),
        "plain QPS": 1e6 / median(theirs[fastest]),
        "times plain": median(theirs[fastest]) / median(ours),
        "same params: plain recall": rivals[-1][1],
        "same params: plain us": median(theirs[-1]),
    }


def _rivals(part: Part, asked: NDArray[Any], truth: Truth, found: float) -> list[tuple[Params, float]]:
    """The first of each way to search that finds as much, with what it finds."""
    rivals = []
    ways = chains(part.kind, part.meta, K)
    if part.kind == "hnsw" and part.reranks:
        ways = [[point | {"rerank": wide} for point in way] for way in ways for wide in GRAPH_RERANK]
    for chain in ways:
        first = first_that_does(chain, lambda p: _recall(part, asked, truth, part.params_of(p)), found - EQUAL)
        if first is not None:
            rivals.append((first, _recall(part, asked, truth, part.params_of(first))))
    return rivals


def _recall(part: Part, asked: NDArray[Any], truth: Truth, params: Any) -> float:
    faiss.omp_set_num_threads(2)
    return float(truth.shares(part.search(asked, K, params)).mean())


def _in_turn(
    engine: InProcess,
    queries: NDArray[Any],
    part: Part,
    asked: NDArray[Any],
    rivals: list[tuple[Params, float]],
    requested: float,
) -> tuple[list[float], list[list[float]]]:
    """Median µs a query of each round, of processor time: ours, and of each rival."""

    def engine_asked(begin: int) -> NDArray[np.float64]:
        return engine.each(NAME, queries[begin : begin + QUERIES], K, recall=requested)

    def faiss_asked(params: Any, begin: int) -> NDArray[np.float64]:
        return _each(part, asked[begin : begin + QUERIES], params)

    ways: list[Callable[[int], NDArray[np.float64]]] = [engine_asked]
    ways += [partial(faiss_asked, part.params_of(params)) for params, _ in rivals]
    took: list[list[float]] = [[] for _ in ways]
    for turn in range(ROUNDS + 1):
        begin = turn * QUERIES % (len(queries) - QUERIES)
        for way, own in zip(ways, took, strict=True):
            us = float(np.mean(way(begin)))
            if turn:  # the first touches the pages
                own.append(us)
    return took[0], took[1:]


def _each(part: Part, asked: NDArray[Any], params: Any) -> NDArray[np.float64]:
    faiss.omp_set_num_threads(1)
    took = np.empty(len(asked))
    for i in range(len(asked)):
        begun = time.process_time()
        part.search(asked[i : i + 1], K, params)
        took[i] = time.process_time() - begun
    return took * 1e6
