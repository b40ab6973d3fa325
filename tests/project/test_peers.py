"""A peer of the comparison as its harness speaks with it: plain Faiss, which needs no package that is not here."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.peers.clients import Clients
from benchmarks.peers.peer import Unable

ROOT = Path(__file__).resolve().parents[2]
ROWS, QUERIES, DIMENSION, K = 2_000, 40, 16, 10
BUCKETS = 100
RECALL = 0.9


class Spoken:
    """One process of `plain`, and the files that it is given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(1)
        self.rows = rng.standard_normal((ROWS, DIMENSION), dtype=np.float32)
        self.queries = rng.standard_normal((QUERIES, DIMENSION), dtype=np.float32)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.peers.plain"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def file(self, name: str, array: NDArray[Any]) -> str:
        np.save(self.folder / name, array)
        return str(self.folder / name)

    def asked(self, op: str, **words: Any) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"op": op, **words}) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def ok(self, op: str, **words: Any) -> dict[str, Any]:
        answer = self.asked(op, **words)
        assert answer["ok"], answer
        return answer

    def nearest(self, buckets: int = BUCKETS) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """By brute force among the rows of these buckets. → ids (q, K), distances (q, K)."""
        among = np.flatnonzero(np.arange(ROWS) % BUCKETS < buckets)
        far = np.linalg.norm(self.rows[among][None] - self.queries[:, None], axis=2)
        order = np.argsort(far, axis=1)[:, :K]
        return among[order], np.take_along_axis(far, order, axis=1)

    def tuned(self, recall: float, buckets: int | None) -> dict[str, Any]:
        truth = self.file("truth.npy", self.nearest(buckets or BUCKETS)[1])
        queries = self.file("queries.npy", self.queries)
        return self.ok("tune", queries=queries, truth=truth, k=K, recall=recall, buckets=buckets)

    def found(self, op: str, **words: Any) -> tuple[dict[str, Any], NDArray[np.int64]]:
        answers = str(self.folder / "answers.npy")
        told = self.ok(op, queries=self.file("queries.npy", self.queries), k=K, answers=answers, **words)
        return told, np.load(answers)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spoken]:
    folder = tmp_path_factory.mktemp("peer")
    spoken = Spoken(folder)
    assert spoken.ok("open", folder=str(folder / "plain"), dimension=DIMENSION, metric="l2")["rows"] == 0
    told = spoken.ok("ingest", vectors=spoken.file("rows.npy", spoken.rows), bucket=True)
    assert 0 < told["acknowledged_s"] < told["indexed_s"]
    yield spoken
    spoken.ok("close")
    assert spoken.process.wait(30) == 0
    assert spoken.process.stdin is not None and spoken.process.stdout is not None
    spoken.process.stdin.close()
    spoken.process.stdout.close()


def share(found: NDArray[np.int64], right: NDArray[np.int64]) -> float:
    return float(np.mean([len(set(a) & set(b)) / K for a, b in zip(found, right, strict=True)]))


@pytest.mark.parametrize("buckets", [None, 10, 1])
def test_it_is_tuned_to_the_recall_that_it_is_then_measured_at(spoken: Spoken, buckets: int | None) -> None:
    tuned = spoken.tuned(RECALL, buckets)
    assert tuned["recall"] >= RECALL
    told, ids = spoken.found("search", params=tuned["params"], clients=2, seconds=0.2, buckets=buckets)
    assert told["failures"] == 0 and told["qps"] > 0 and 0 < told["p50_ms"] <= told["p99_ms"]
    asked = ids[:, 0] >= 0
    assert asked.any()
    if asked.all():  # a machine that is busy elsewhere may not come to all of them
        assert share(ids, spoken.nearest(buckets or BUCKETS)[0]) == pytest.approx(tuned["recall"], abs=0.01)
    if buckets is not None:
        assert (ids[asked] % BUCKETS < buckets).all()


def test_what_cannot_be_reached_is_said(spoken: Spoken) -> None:
    tuned = spoken.tuned(1.1, None)
    assert tuned["params"] is None and RECALL < tuned["recall"] <= 1


def test_a_batch_finds_what_single_searches_find(spoken: Spoken) -> None:
    tuned = spoken.tuned(RECALL, None)
    told, ids = spoken.found("batch", params=tuned["params"])
    assert told["elapsed_s"] > 0
    assert share(ids, spoken.nearest()[0]) >= RECALL


def test_queries_that_were_never_asked_are_told_apart(spoken: Spoken) -> None:
    many = spoken.file("many.npy", np.tile(spoken.queries, (2000, 1)))
    answers = str(spoken.folder / "answers.npy")
    spoken.ok("search", queries=many, k=K, params={"ef": 64}, clients=1, seconds=0.01, buckets=None, answers=answers)
    ids = np.load(answers)
    assert (ids[0] >= 0).all() and (ids[-1] == -2).all()


def test_items_are_fetched(spoken: Spoken) -> None:
    told = spoken.ok("fetch", ids=spoken.file("ids.npy", np.arange(100)), clients=2, seconds=0.1)
    assert told["qps"] > 0 and told["failures"] == 0


def test_what_it_cannot_do_is_an_answer_and_not_its_end(spoken: Spoken) -> None:
    refused = spoken.asked("guess")
    assert not refused["ok"] and "guess" in refused["error"]
    refused = spoken.asked("open", folder="x", dimension=DIMENSION, metric="cosine")
    assert not refused["ok"] and "cosine" in refused["error"]
    refused = spoken.asked("ingest", vectors="absent.npy", bucket=True)
    assert not refused["ok"] and "FileNotFoundError" in refused["error"]
    assert spoken.ok("pids")["pids"] == [spoken.process.pid]


def test_calls_are_counted_and_those_that_fail_apart() -> None:
    made: list[int] = []

    def call(number: int) -> int:
        made.append(number)
        if number == 3:
            raise Unable("for once")
        return number

    timed = Clients([lambda n=n: call(n) for n in range(5)], 3, 60.0, 12).run(2, lambda: None)
    assert sorted(made) == sorted([*range(5), *range(5), 0, 1])
    assert timed.failures == 2 and len(timed.latencies_s) == 10
    assert timed.answers == {0: 0, 1: 1, 2: 2, 4: 4}
