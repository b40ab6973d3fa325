"""Stopped and started: everything is as it was, and a folder has one server at a time."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
from numpy.typing import NDArray

from tests.harness import ROOT, Server, free_port
from tests.oracle import Oracle

DIMENSION = 16
ROWS = 3000


def drawn(n: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, DIMENSION)).astype(np.float32)


def test_everything_is_as_it_was(server: Server) -> None:
    """Pending and sealed rows, an index, metadata, settings and an emptied collection."""
    sealed, fresh, gone = (server.collection(name) for name in ("sealed", "fresh", "gone"))
    oracle = Oracle(DIMENSION, "cosine", "float16")
    sealed.create(DIMENSION, dtype="float16", index={"kind": "hnsw"}, id_type="int")
    sealed.add(list(range(ROWS)), drawn(ROWS), [{"n": i} for i in range(ROWS)])
    oracle.put(range(ROWS), drawn(ROWS), [{"n": i} for i in range(ROWS)])
    sealed.delete(list(range(0, ROWS, 7)))
    oracle.remove(range(0, ROWS, 7))
    assert sealed.wait_ready()["index"]["kind"] == "hnsw"
    fresh.create(3, metric="dot", id_type="str")
    gone.create(3)
    gone.drop()
    before = sealed.describe()
    # Written last and not waited for: they are pending when the server stops.
    fresh.add(["a"], np.ones((1, 3), np.float32), [{"x": 2**70}])

    server.restart()
    sealed, fresh = server.collection("sealed"), server.collection("fresh")
    names = server.client.get("/v1/collections").json()
    assert "gone" not in str(names) and "sealed" in str(names) and "fresh" in str(names)
    after = sealed.describe()
    assert after["index"]["state"] == "ready"
    for name in ("dimension", "metric", "dtype", "id_type", "recall", "count", "segments"):
        assert after[name] == before[name], name
    assert after["index"]["indexed"] == before["index"]["indexed"]
    oracle.judge_stored(sealed.everything())
    recalls = []
    for query in drawn(40, seed=9):
        oracle.judge(query, 10, sealed.search(query, exact=True)["hits"], exact=True)
        answer = sealed.search(query)
        recalls.append(oracle.judge(query, 10, answer["hits"], exact=answer["exact"]))
    assert float(np.mean(recalls)) > 0.85, recalls
    assert fresh.get("a") == {"id": "a", "vector": [1, 1, 1], "metadata": {"x": 2**70}}


def test_stops_in_time_and_quits_with_idle_connections(server: Server) -> None:
    """Clients that keep their connections open must not hold up the stop."""
    wires = [server.wire() for _ in range(20)]
    for wire in wires:
        wire.ok(200, "GET", "/livez")
    process = server.process
    assert process is not None
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert time.monotonic() - begun < 10
    server.process = None


def test_one_server_per_folder(server: Server) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "app.cli", "serve", "--data", str(server.data_dir), "--port", str(free_port())],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert second.returncode not in (0, None)
    assert server.process is not None
    assert str(server.process.pid) in second.stderr + second.stdout, "names who holds the folder"
    server.collection("still").create(4)


def test_sealer_and_builder_stand_behind_the_workers(server: Server) -> None:
    """From their first moment: a start is as fast as its workers' imports."""

    def niceness(module: str) -> list[int]:
        return [os.getpriority(os.PRIO_PROCESS, pid) for pid in server.children(module)]

    [first, *_] = niceness("app.worker")
    assert niceness("app.sealer") == niceness("app.builder") == [min(19, first + 10)]
    behind = server.children("app.sealer") + server.children("app.builder")
    assert {os.sched_getscheduler(pid) for pid in behind} == {os.SCHED_BATCH}
    # The event loop's slice is its own: what a worker starts is like others again.
    first_ones = {os.sched_getscheduler(pid) for pid in server.children("app.worker")}
    assert first_ones == {os.SCHED_OTHER | os.SCHED_RESET_ON_FORK}
