"""A peer as a process of its own: a JSON object a line on standard input, one on standard output for each.

    {"op": "open", "folder": F, "dimension": d, "metric": "l2"}            → {"rows"}
    {"op": "ingest", "vectors": NPY, "bucket": true}                       → {"acknowledged_s", "indexed_s"}
    {"op": "tune", "queries": NPY, "truth": NPY, "k": 10, "recall": 0.95, "buckets": null}
                                                                           → {"params", "recall", "tried"}
    {"op": "search", "queries": NPY, "k": 10, "params": {…}, "clients": c, "seconds": s, "buckets": null,
     "answers": NPY}                                        → {"qps", "p50_ms", "p99_ms", "elapsed_s", "failures"}
    {"op": "batch", "queries": NPY, "k": 10, "params": {…}, "answers": NPY}              → {"elapsed_s"}
    {"op": "fetch", "ids": NPY, "clients": c, "seconds": s}                → as `search`
    {"op": "pids"} → {"pids"}                                               {"op": "close"} ends the process

Each answer has `ok`; where that is false, `error` says why, and the process goes on. `truth` is (q, ≥ k): Euclidean
distances of the nearest, ascending, among the rows that `buckets` leaves. `answers` is (q, k) int64 ids, filled with -1
where fewer were found and -2 where a query was never asked.
"""

import json
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.clients import Timed
from benchmarks.peers.peer import Hits, Params, Peer, Unable

WARM_S = 0.5
BATCH_S = 3600.0
LAST, HOPELESS = 2, 10
"""A ladder ends where more recall is missing than so many times what its last rungs have added."""
SLACK = 1e-4
"""Share of the k-th true distance within which another row counts as a tie, as benchmarks/datasets.py has it."""
NONE, NOT_ASKED = -1, -2


class Rung(NamedTuple):
    """us: median of one search, microseconds."""

    params: Params
    recall: float
    us: float


def serve(peer: Peer) -> None:
    """Until `close`, or the end of the input."""
    answers = _only_ours()
    try:
        for line in sys.stdin:
            asked = json.loads(line)
            print(json.dumps(_answered(peer, asked)), file=answers, flush=True)
            if asked.get("op") == "close":
                break
    finally:
        peer.close()


def _only_ours() -> TextIO:
    """Standard output, kept from libraries that print: theirs goes where the logs go."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


def _answered(peer: Peer, asked: dict[str, Any]) -> dict[str, Any]:
    operation = OPERATIONS.get(str(asked.get("op")))
    if operation is None:
        return {"ok": False, "error": f"unknown op {asked.get('op')!r}; known are {', '.join(OPERATIONS)}"}
    try:
        return {"ok": True} | operation(peer, asked)
    except Unable as error:
        return {"ok": False, "error": str(error)}
    except Exception as error:
        # Whatever a peer's library raises is the answer: the others go on being measured.
        traceback.print_exc(file=sys.stderr)
        return {"ok": False, "error": f"{type(error).__name__}: {error}"}


def _open(peer: Peer, asked: dict[str, Any]) -> dict[str, Any]:
    if asked["metric"] != "l2":
        raise Unable(f"only l2 is compared, not {asked['metric']}")
    return {"rows": peer.open(Path(asked["folder"]), asked["dimension"])}


def _ingest(peer: Peer, asked: dict[str, Any]) -> dict[str, Any]:
    return peer.ingest(np.load(asked["vectors"], mmap_mode="r"), asked["bucket"])._asdict()


def _tune(peer: Peer, asked: dict[str, Any]) -> dict[str, Any]:
    """The quickest of the first rungs that reach the recall, one of each ladder."""
    tried = [rung for ladder in peer.ladders(asked.get("buckets")) for rung in _climbed(peer, ladder, asked)]
    reached = [rung for rung in tried if rung.recall >= asked["recall"]]
    told = {"tried": [rung._asdict() for rung in tried]}
    if not reached:
        return told | {"params": None, "recall": max((rung.recall for rung in tried), default=0.0)}
    chosen = min(reached, key=lambda rung: rung.us)
    return told | {"params": chosen.params, "recall": chosen.recall}


def _climbed(peer: Peer, ladder: list[Params], asked: dict[str, Any]) -> Iterator[Rung]:
    """The rungs up to the one that reaches the recall, or to where it has all but stopped growing."""
    queries, truth, k, wanted = np.load(asked["queries"]), np.load(asked["truth"]), asked["k"], asked["recall"]
    recalls: list[float] = []
    for params in ladder:
        timed = peer.probe(queries, k, params, asked.get("buckets"))
        recalls.append(_recall(peer, timed, truth, k))
        # The median: others on the machine lengthen some searches, not half of them.
        yield Rung(params, recalls[-1], float(np.median(timed.latencies_s or [np.inf])) * 1e6)
        missing = wanted - recalls[-1]
        if missing <= 0 or (len(recalls) > LAST and missing > HOPELESS * (recalls[-1] - recalls[-1 - LAST])):
            return


def _recall(peer: Peer, timed: Timed, truth: NDArray[np.float32], k: int) -> float:
    """Share of the true k nearest that came back; equal distances count as found."""
    found = [
        (peer.hits(answer).distances[:k] <= truth[number, k - 1] * (1 + SLACK)).sum() / k
        for number, answer in timed.answers.items()
    ]
    return float(np.mean(found)) if found else 0.0


def _search(peer: Peer, asked: dict[str, Any]) -> dict[str, Any]:
    queries, k = np.load(asked["queries"]), asked["k"]
    asks = peer.searches(queries, k, asked["params"], asked["buckets"])
    timed = peer.run(asks, asked["clients"], asked["seconds"], warm_s=min(WARM_S, asked["seconds"]))
    _write(asked["answers"], {n: peer.hits(answer) for n, answer in timed.answers.items()}, len(queries), k)
    return _figures(timed)


def _batch(peer: Peer, asked: dict[str, Any]) -> dict[str, Any]:
    queries, k = np.load(asked["queries"]), asked["k"]
    params: Params = asked["params"]
    timed = peer.run([peer.batch(queries, k, params)], 1, BATCH_S, most=1)
    if not timed.answers:
        raise Unable("the batch failed")
    hits: Sequence[Hits] = peer.batch_hits(timed.answers[0])
    _write(asked["answers"], dict(enumerate(hits)), len(queries), k)
    return {"elapsed_s": timed.elapsed_s}


def _fetch(peer: Peer, asked: dict[str, Any]) -> dict[str, Any]:
    asks, seconds = peer.fetches(np.load(asked["ids"])), asked["seconds"]
    return _figures(peer.run(asks, asked["clients"], seconds, warm_s=min(WARM_S, seconds)))


def _figures(timed: Timed) -> dict[str, Any]:
    if not timed.latencies_s:
        raise Unable(f"none of {timed.failures} requests was answered")
    p50, p99 = np.percentile(timed.latencies_s, [50, 99]) * 1000
    qps = len(timed.latencies_s) / timed.elapsed_s
    told = {"qps": qps, "p50_ms": float(p50), "p99_ms": float(p99)}
    return told | {"elapsed_s": timed.elapsed_s, "failures": timed.failures}


def _write(file: str, found: dict[int, Hits], queries: int, k: int) -> None:
    ids = np.full((queries, k), NOT_ASKED, np.int64)
    for number, hits in found.items():
        ids[number] = NONE
        ids[number, : len(hits.ids)] = hits.ids[:k]
    np.save(file, ids)


def _pids(peer: Peer, asked: dict[str, Any]) -> dict[str, Any]:
    return {"pids": peer.pids()}


def _close(peer: Peer, asked: dict[str, Any]) -> dict[str, Any]:
    return {}


OPERATIONS = {
    "open": _open,
    "ingest": _ingest,
    "tune": _tune,
    "search": _search,
    "batch": _batch,
    "fetch": _fetch,
    "pids": _pids,
    "close": _close,
}
