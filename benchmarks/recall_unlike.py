"""Queries that are not like the data: what is promised and found before calibrating on them and after, and how soon
the background notices by itself.

Blurred: photo-sift queries smoothed along each histogram, shifted, with noise. Two modalities: the data under cosine,
asked with queries that a random rotation and an offset have moved, as text embeddings lie apart from those of images.
"""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.oracle import Truth, nearest
from benchmarks.recall_data import REQUESTED, Data
from benchmarks.served import Served, built

K = 10
CALIBRATING = 1_000
NOTICED_S = 300.0
BLUR, SHIFT, NOISE = (0.25, 0.5, 0.25), 0.5, 0.5
TURN, OFFSET = 0.35, 0.5
"""Of the rotation: share of a whole random one; of the offset: norms of a query."""


def blurred(queries: NDArray[np.float32], seed: int = 31) -> NDArray[np.float32]:
    """(q, d): smoothed over neighbouring components, moved by a vector in common, and noise on each component, the
    last two SHIFT and NOISE times the components' mean."""
    rng = np.random.default_rng(seed)
    smooth = sum(weight * np.roll(queries, by, axis=1) for weight, by in zip(BLUR, (-1, 0, 1), strict=True))
    level = float(np.abs(queries).mean())
    shift = SHIFT * level * rng.standard_normal(queries.shape[1])
    noise = NOISE * level * rng.standard_normal(queries.shape)
    result: NDArray[np.float32] = np.asarray(smooth + shift + noise, np.float32)
    return result


def other_modality(queries: NDArray[np.float32], seed: int = 32) -> NDArray[np.float32]:
    """(q, d): turned part of the way to a random rotation of the whole space, and moved by a vector in common."""
    rng = np.random.default_rng(seed)
    d = queries.shape[1]
    rotation = np.linalg.qr(rng.standard_normal((d, d)))[0]
    norms = np.linalg.norm(queries, axis=1, keepdims=True)
    turned = (1 - TURN) * queries + TURN * (queries @ rotation)
    turned *= norms / np.linalg.norm(turned, axis=1, keepdims=True)
    offset = rng.standard_normal(d)
    result: NDArray[np.float32] = np.asarray(
        turned + OFFSET * float(norms.mean()) * offset / np.linalg.norm(offset), np.float32
    )
    return result


UNLIKE = {"blurred": ("l2", blurred), "two modalities": ("cosine", other_modality)}


def unlike(folder: Path, data: Data, what: str, kind: str) -> Iterator[dict[str, Any]]:
    """Rows: like the data and unlike, before, after calibrate, and when the background has noticed by itself."""
    metric, make = UNLIKE[what]
    queries = make(data.queries)
    judging = queries[CALIBRATING:]
    truth = nearest(metric, [data.train], judging)
    plain = data.queries[CALIBRATING:]
    whole = data.truth(metric)
    like = Truth(whole.rows[CALIBRATING:], whole.near[CALIBRATING:])
    about = {"data": data.name.partition("-euclidean")[0], "rows": len(data.train), "metric": metric, "kind": kind}
    copy = folder.with_name(folder.name + "-copy")
    with Served(folder) as served:
        served.collection.create(data.train.shape[1], metric=metric, id_type="int", index={"kind": kind})
        served.fill(data.train, 0)
        served.ready()
        yield from _found(served, plain, like, about | {"queries": "like the data", "when": "built"})
        yield from _found(served, judging, truth, about | {"queries": what, "when": "before"})
    shutil.copytree(folder, copy)
    with Served(folder) as served:
        begun = time.perf_counter()
        body = {"k": K, "recall": list(REQUESTED), "queries": queries[:CALIBRATING].tolist(), "calibrate": True}
        served.collection.wire.ok(200, "POST", f"{served.collection.path}/recall", body)
        seconds = _until_calibrated(folder, begun)
        yield from _found(served, judging, truth, about | {"queries": what, "when": "calibrated", "seconds": seconds})
    with Served(copy, env={}) as served:
        seconds = _noticed(served, copy, queries[:CALIBRATING])
        about |= {"queries": what, "when": "noticed by itself", "seconds": seconds}
        yield from _found(served, judging, truth, about)
    shutil.rmtree(copy)


def _found(served: Served, queries: NDArray[Any], truth: Truth, about: dict[str, Any]) -> Iterator[dict[str, Any]]:
    served.opened(queries[0])
    for requested in REQUESTED:
        answers = served.search(queries, K, recall=requested)
        yield about | {
            "requested": requested,
            "measured": float(truth.shares(answers.ids).mean()),
            "expected": answers.expected_recall,
            "calibrated_on": answers.calibrated_on,
        }


def _until_calibrated(folder: Path, begun: float) -> float | None:
    """Seconds since begun until the catalogue has a calibration on queries, or None where that does not come."""
    while time.perf_counter() - begun < NOTICED_S:
        if all(index.meta["calibration"]["on"] == "queries" for index in built(folder)):
            return time.perf_counter() - begun
        time.sleep(0.1)
    return None


def _noticed(served: Served, folder: Path, queries: NDArray[Any]) -> float | None:
    """Asks as users would, and goes on asking. → seconds from the first of these queries."""
    begun = time.perf_counter()
    path = f"{served.collection.path}/search"
    for query in queries:
        served.collection.wire.ok(200, "POST", path, {"vector": query.tolist(), "k": K, "include": []})
    print(f"  asked {len(queries)} in {time.perf_counter() - begun:.1f} s", flush=True)
    return _until_calibrated(folder, begun)
