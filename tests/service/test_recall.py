"""Recall over HTTP on an index that misses some: what is answered is what an independent count of the hits says."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from seedvec import Client
from tests.harness import HOST, ROOT, SMALL, Server
from tests.wire import Collection, plain

ROWS, DIMENSION, QUERIES = 6000, 64, 300
KS, RECALLS = [1, 10, 40], [0.5, 0.7, 0.95]
Json = dict[str, Any]


SPREAD = np.random.default_rng(0).standard_normal((16, DIMENSION))


def drawn(n: int, seed: int) -> NDArray[np.float32]:
    """Of 16 dimensions, seen in 64: a graph finds its way."""
    random = np.random.default_rng(seed)
    return (random.standard_normal((n, 16)) @ SPREAD + 0.1 * random.standard_normal((n, DIMENSION))).astype(np.float32)


def distances(query: NDArray[np.float32]) -> NDArray[np.float64]:
    """To every row."""
    far: NDArray[np.float64] = np.linalg.norm(VECTORS.astype(np.float64) - query, axis=1)
    return far


VECTORS, ASKED = drawn(ROWS, 1), drawn(QUERIES, 2)
NEAREST = np.array([np.argsort(distances(query)) for query in ASKED])
"""(QUERIES, ROWS): row numbers, which are the ids. Drawn from a continuous distribution: no two are as far."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Nothing is kept of the queries: a recalibration on them would come between two ways of counting."""
    with Server(tmp_path_factory.mktemp("recall") / "data", env=SMALL | {"SEEDVEC_KEEP_QUERIES": "0"}) as running:
        c = running.collection("measured")
        c.create(DIMENSION, metric="l2", id_type="int", index={"kind": "hnsw", "m": 8, "ef_construction": 40})
        c.add_npy(VECTORS, first_id=0)
        running.wait_ready("measured", 110)
        yield running


@pytest.fixture
def measured(server: Server) -> Collection:
    return server.collection("measured")


def shares(c: Collection, k: int, recall: float) -> NDArray[np.float64]:
    """Of each query, counted by ids, one search at a time."""
    found = []
    for query, nearest in zip(ASKED, NEAREST, strict=True):
        hits = c.search(query, k, recall=recall)["hits"]
        found.append(len({hit["id"] for hit in hits} & set(nearest[:k].tolist())) / k)
    return np.array(found)


def test_what_is_measured_is_what_searches_find(measured: Collection) -> None:
    """To the last digit that is answered; with the exact search as the truth, and with a truth of our own."""
    body = {"k": KS, "recall": RECALLS, "queries": plain(ASKED)}
    exactly = measured.wire.ok(200, "POST", f"{measured.path}/recall", body)
    truth = NEAREST[:, : max(KS)].tolist()
    by_ids = measured.wire.ok(200, "POST", f"{measured.path}/recall", body | {"truth": truth})
    missed = 0
    for row, other in zip(exactly["rows"], by_ids["rows"], strict=True):
        counted = shares(measured, row["k"], row["requested"])
        for answered in (row, other):
            assert answered["measured"] == round(float(counted.mean()), 6)
            assert answered["p10_recall"] == round(float(np.percentile(counted, 10)), 6)
            low, high = answered["interval"]
            assert low <= answered["measured"] <= high
            assert answered["queries"] == QUERIES
        missed += counted.mean() < 1
    assert missed >= 3, "an index that misses nothing shows nothing"


def test_a_promise_is_kept_and_seen_to_be(measured: Collection) -> None:
    rows = measured.wire.ok(200, "POST", f"{measured.path}/recall", {"k": KS, "recall": RECALLS, "sample": 400})["rows"]
    for row in rows:
        assert row["measured"] >= row["requested"] - 0.02, row


def test_stored_rows_are_measured_without_themselves(measured: Collection) -> None:
    """Each query would find itself: were that counted, the recall at 1 would be that of finding oneself."""
    ids = list(range(0, ROWS, 40))
    nearest = [int(np.argsort(distances(VECTORS[i]))[1]) for i in ids]
    found = [
        measured.wire.ok(200, "GET", f"{measured.path}/neighbors/{i}?k=1&recall=0.5")["hits"][0]["id"] for i in ids
    ]
    counted = float(np.mean(np.array(found) == np.array(nearest)))
    body = {"k": 1, "recall": 0.5, "sample": 1000}
    answer = measured.wire.ok(200, "POST", f"{measured.path}/recall", body)
    assert answer["on"] == "data"
    assert abs(answer["rows"][0]["measured"] - counted) < 0.12


def test_the_fronts(measured: Collection) -> None:
    answer = measured.wire.ok(200, "GET", f"{measured.path}/recall")
    assert answer["requested"] == 0.95
    assert [front["k"] for front in answer["fronts"]][:3] == [1, 10, 100]
    for front in answer["fronts"]:
        assert (front["kind"], front["on"], front["rows"]) == ("hnsw", "data", ROWS)
        points = front["points"]
        assert points and all(point["params"].keys() == {"ef_search"} for point in points)
        assert [p["cost_us"] for p in points] == sorted(p["cost_us"] for p in points)
        assert all(p["lower"] <= p["recall"] <= 1 for p in points)
    svg = measured.wire.ok(200, "GET", f"{measured.path}/recall", Accept="image/svg+xml").decode()
    for text in ("recall@k", "one query on one thread, µs", "asked for: 0.95", "k = 1<", "k = 10<", "k = 100<"):
        assert text in svg, text
    again = measured.wire.ok(200, "GET", f"{measured.path}/recall", Accept="image/svg+xml").decode()
    assert again == svg


def test_calibrating_on_given_queries(server: Server) -> None:
    """Queries unlike the data: what is answered is from before, what is found afterwards is as promised."""
    c = server.collection("shifted")
    c.create(DIMENSION, metric="l2", id_type="int", recall=0.9, index={"kind": "hnsw", "m": 8, "ef_construction": 40})
    c.add_npy(VECTORS, first_id=0)
    c.wait_ready(110)
    given = 0.5 * drawn(600, 5) + 2 * np.eye(DIMENSION, dtype=np.float32)[0]
    body = {"k": [1, 10], "queries": plain(given[:300]), "calibrate": True}
    answer = c.wire.ok(200, "POST", f"{c.path}/recall", body)
    assert (answer["calibrating"], answer["calibrating_on"], len(answer["rows"])) == (True, 300, 2)
    c.wait_ready(110)
    assert {front["on"] for front in c.wire.ok(200, "GET", f"{c.path}/recall")["fronts"]} == {"queries"}
    assert c.search(given[0])["calibrated_on"] in ("queries", None)
    rows = c.wire.ok(200, "POST", f"{c.path}/recall", {"k": [1, 10], "queries": plain(given[300:])})["rows"]
    for row in rows:
        assert row["measured"] >= 0.9 - 0.02, row


def test_a_client_that_goes_away_is_not_measured_for(server: Server) -> None:
    """Ten plans of a thousand searches by the exact search: half a minute of work, were nobody to stop it."""
    c = server.collection("dear")
    c.create(1024, metric="l2", id_type="int", index={"kind": "flat"})
    c.add_npy(np.random.default_rng(1).standard_normal((6000, 1024)).astype(np.float32), first_id=0)
    body = json.dumps({"k": list(range(1, 11)), "recall": 1, "sample": 1000}).encode()
    head = (
        f"POST {c.path}/recall HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    )
    for _ in range(4):  # at each worker
        with socket.create_connection((HOST, server.port)) as leaver:
            leaver.sendall(head.encode() + b"\r\n" + body)
            time.sleep(0.5)
    began = time.monotonic()
    for _ in range(2):
        server.collection("dear").wire.ok(200, "POST", f"{c.path}/recall", {"k": 1, "sample": 5})
    assert time.monotonic() - began < 15


# ---------------------------------------------------------------- the client and the command


def test_the_client_asks_for_recall(server: Server) -> None:
    with Client(server.url) as client:
        c = client.collection("measured")
        few = c.search(ASKED[0], 10, recall=0.5)
        assert few.expected_recall is None or few.expected_recall < 1
        assert c.search(ASKED[0], 10, recall=1).exact
        assert len(c.search(ASKED[:3], 10, params={"ef_search": 64})) == 3
        answer = c.recall(ASKED, [1, 10], (0.5, 0.9), truth=NEAREST[:, :10])
        assert [(row["k"], row["requested"]) for row in answer["rows"]] == [(1, 0.5), (1, 0.9), (10, 0.5), (10, 0.9)]
        assert c.recall(sample=30, k=3)["rows"][0]["queries"] == 30
        assert c.calibration()["fronts"][0]["k"] == 1


def bench(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "seedvec.cli", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)


def test_bench_counts_the_same(server: Server, measured: Collection, tmp_path: Path) -> None:
    np.save(tmp_path / "q.npy", ASKED)
    np.save(tmp_path / "gt.npy", NEAREST[:, :100])
    out = tmp_path / "curve.svg"
    common = ["measured", "--url", server.url, "--queries", str(tmp_path / "q.npy"), "--seconds", "0.2"]
    lists = ["--k", "1,10", "--recall", "0.5,.95", "--clients", "1,3"]
    for more in (["--truth", str(tmp_path / "gt.npy"), "--out", str(out)], []):
        done = bench(*common, *lists, *more)
        assert done.returncode == 0, done.stderr
        head, *lines = done.stdout.splitlines()
        assert head.split() == ["k", "asked", "expected", "measured", "clients", "QPS", "p50", "ms", "p99", "ms"]
        assert len(lines) == 8
        for line in lines:
            k, recall, _, found, clients, qps, p50, p99 = line.split()
            assert float(found) == round(float(shares(measured, int(k), float(recall)).mean()), 4)
            assert clients in ("1", "3") and float(qps.replace(",", "")) > 0 and 0 < float(p50) <= float(p99)
    drawn = out.read_text()
    for text in ("recall@k", "p50 of a search, ms", "asked for: 0.5, 0.95", "k = 10, 3 clients<"):
        assert text in drawn, text


def test_bench_reads_what_ann_benchmarks_writes(server: Server, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "all.hdf5", "w") as file:
        file["test"] = ASKED
        file["neighbors"] = NEAREST[:, ::-1][:, :10]
    done = bench("measured", "--url", server.url, "--queries", str(tmp_path / "all.hdf5"), "--seconds", "0")
    assert done.returncode == 0, done.stderr
    assert [line.split()[3] for line in done.stdout.splitlines()[1:]] == 3 * ["0.0000"]


def test_bench_says_what_is_wrong(server: Server, tmp_path: Path) -> None:
    good, short = tmp_path / "q.npy", tmp_path / "gt.npy"
    np.save(good, ASKED[:10])
    np.save(short, NEAREST[:10, :5])
    queries = ["--queries", str(good)]
    wrong: list[tuple[list[str], int, str]] = [
        (["nowhere", *queries], 1, "no collection nowhere"),
        (["measured", "--queries", str(tmp_path / "none.npy")], 2, "none.npy"),
        (["measured", *queries, "--truth", str(short)], 2, "10 of 10 are needed"),
        (["measured", *queries, "--out", "curve.pdf"], 2, ".svg or .png"),
        (["measured", *queries, "--k", "0"], 2, "0 does not lie in 1"),
        (["measured", *queries, "--recall", ".3"], 2, ".3 does not lie in 0.5"),
        (["measured", *queries, "--clients", "x"], 2, "no number"),
        (["measured"], 2, "--queries"),
    ]
    for arguments, status, words in wrong:
        done = bench(*arguments, "--url", server.url)
        assert (done.returncode, done.stdout) == (status, ""), (arguments, done)
        assert words in done.stderr and "Traceback" not in done.stderr, (arguments, done.stderr)
    assert bench("measured", *queries, "--url", "http://127.0.0.1:1").returncode == 1
