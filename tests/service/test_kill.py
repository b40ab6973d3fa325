"""kill -9 in the middle of adds, of sealing, of a build and of a merge: what was acknowledged is served afterwards.

The chosen places are failpoints; the rest are kills at random moments under load. The thorough fault suite goes
through every failpoint; here are those where a mistake would lose or resurrect rows.
"""

import http.client
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.harness import SMALL, Server, wait_for
from tests.ledger import Ledger
from tests.oracle import Oracle
from tests.wire import Collection, Wire, columns

DIMENSION = 8
GONE = (OSError, http.client.HTTPException)
"""What a client sees when its worker dies."""


def drawn(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    return rng.standard_normal((n, DIMENSION)).astype(np.float32)


class Load(threading.Thread):
    """One client that adds, upserts and deletes ids of its own and writes down what it was told.

    After its connection broke it opens another; with `server.process` gone or `stop()` called it ends. A write in
    doubt stays in the ledger as such, and its ids are not touched again.
    """

    def __init__(self, server: Server, name: str, number: int, ledger: Ledger) -> None:
        super().__init__(name=f"load-{number}", daemon=True)
        self.server, self.collection, self.ledger = server, name, ledger
        self.rng = np.random.default_rng([number, time.time_ns()])
        self.next_id = number * 10_000_000
        self.mine: list[int] = []
        self.stopped = threading.Event()
        self.fault: BaseException | None = None

    def stop(self) -> None:
        self.stopped.set()

    def run(self) -> None:
        try:
            while not self.stopped.is_set():
                wire = Wire("127.0.0.1", self.server.port)
                try:
                    while not self.stopped.is_set():
                        self.write(Collection(wire, self.collection))
                except GONE:
                    self.stopped.wait(0.05)
                finally:
                    wire.close()
        except BaseException as fault:
            self.fault = fault

    def write(self, collection: Collection) -> None:
        kind = self.rng.random()
        if kind < 0.6 or len(self.mine) < 10:
            n = int(self.rng.integers(1, 40))
            ids = list(range(self.next_id, self.next_id + n))
            self.next_id += n
            self.send(collection, "POST", "", ids, drawn(self.rng, n))
        else:
            n = int(self.rng.integers(1, min(10, len(self.mine))))
            ids = [self.mine.pop(int(self.rng.integers(len(self.mine)))) for _ in range(n)]
            if kind < 0.8:
                self.send(collection, "PUT", "", ids, drawn(self.rng, n))
            else:
                self.send(collection, "POST", "/delete", ids, None)

    def send(self, c: Collection, method: str, path: str, ids: list[int], vectors: NDArray[np.float32] | None) -> None:
        body = {"ids": ids} if vectors is None else columns(ids, vectors, None)
        self.ledger.announce(ids, vectors)
        answer = c.wire.call(method, f"{c.path}/vectors{path}", body)
        if answer.status in (200, 201):
            self.ledger.acknowledge(ids, vectors)
            self.mine += ids if vectors is not None else []
        elif answer.status == 429 or (answer.status == 503 and b"outcome-unknown" not in answer.body):
            self.ledger.refuse(ids)
            self.stopped.wait(0.05)
        else:
            raise AssertionError(f"{method} …/vectors{path}: {answer}")


def loads(server: Server, name: str, ledger: Ledger, count: int = 3) -> list[Load]:
    started = [Load(server, name, random.randrange(1, 10**6), ledger) for _ in range(count)]
    for load in started:
        load.start()
    return started


def end(started: list[Load]) -> None:
    for load in started:
        load.stop()
    for load in started:
        load.join()
        if load.fault is not None:
            raise load.fault


def assert_kept(server: Server, name: str, ledger: Ledger) -> None:
    """The walk, fetches and exact searches all give what was acknowledged (and nothing but doubts besides)."""
    words = server.collection(name)
    served = words.everything()
    ledger.settle(served)
    described = words.describe()
    assert described["count"] == len(served)
    oracle = Oracle(DIMENSION, "l2")
    vectors = np.array([item["vector"] for item in served.values()], np.float32).reshape(-1, DIMENSION)
    oracle.put(served, vectors)
    sample = list(served)[:: max(1, len(served) // 50)]
    fetched = words.fetch(sample, include=["vector", "metadata"])
    assert [item["vector"] for item in fetched["items"]] == [served[id]["vector"] for id in sample]
    for query in drawn(np.random.default_rng(1), 10):
        oracle.judge(query, 10, words.search(query, 10, exact=True)["hits"], exact=True)
        answer = words.search(query, 10)
        oracle.judge(query, 10, answer["hits"], exact=answer["exact"])


def create(server: Server, name: str = "kept", kind: str = "auto") -> Collection:
    words = server.collection(name)
    words.create(DIMENSION, metric="l2", id_type="int", index={"kind": kind})
    return words


POINTS = [
    ("app.worker", "database.commit:kill:40"),
    ("app.worker", "database.committed:kill:40"),
    ("app.sealer", "segment.fsync:kill:2"),
    ("app.sealer", "segment.published:kill:2"),
    ("app.sealer", "seal.commit:kill:2"),
    ("app.builder", "segment.published:kill:1"),
    ("app.builder", "merge.commit:kill:1"),
    ("app.builder", "index.published:kill:1"),
    ("app.builder", "index.commit:kill:1"),
]


def all_of(server: Server, module: str) -> set[int]:
    """The processes of a kind, once all of them are up: `readyz` asks for one worker only."""
    count = server.workers if module == "app.worker" else 1
    wait_for(f"{count} × {module}", lambda: len(server.children(module)) == count)
    return set(server.children(module))


@pytest.mark.parametrize(("module", "point"), POINTS)
def test_killed_at_a_chosen_place(tmp_path: Path, module: str, point: str) -> None:
    """The process that comes there dies by its own hand; then the whole server is killed and started unarmed."""
    ledger = Ledger()
    # Armed in that module's processes alone: the sealer publishes segments long before the builder does.
    place, action = point.split(":", 1)
    armed = {"SEEDVEC_FAILPOINTS": f"{place}@{module}:{action}"}
    with Server(tmp_path / "data", env=SMALL | armed, may_trace=True) as server:
        create(server, kind="hnsw")
        victims = all_of(server, module)
        started = loads(server, "kept", ledger)
        try:
            if point.startswith("index."):
                # An index is built when writing pauses: what is written to all the time is about to be merged.
                wait_for("enough rows for an index", lambda: len(ledger.live()) > 1500)
                end(started)
            wait_for(f"{module} dies at {point}", lambda: bool(victims - set(server.children(module))))
            if point.startswith("index."):
                started = loads(server, "kept", ledger)
            time.sleep(0.3)
        finally:
            server.kill()
            end(started)
        del server.env["SEEDVEC_FAILPOINTS"]
        assert ledger.acknowledged_writes > 0
        server.start()
        assert_kept(server, "kept", ledger)
        server.collection("kept").wait_ready()
        assert_kept(server, "kept", ledger)


def test_killed_at_random_moments_under_load(tmp_path: Path) -> None:
    """The same folder, killed three times: supervisor first, as the kernel or an operator would."""
    ledger = Ledger()
    with Server(tmp_path / "data", env=SMALL) as server:
        create(server)
        for _ in range(3):
            started = loads(server, "kept", ledger)
            await_writes(ledger)
            time.sleep(random.uniform(0.0, 1.5))
            server.kill()
            end(started)
            server.start()
            assert_kept(server, "kept", ledger)


@pytest.mark.parametrize("module", ["app.worker", "app.sealer", "app.builder"])
def test_one_process_killed_under_load(tmp_path: Path, module: str) -> None:
    """The rest goes on serving, the dead one is replaced, nothing is lost."""
    ledger = Ledger()
    with Server(tmp_path / "data", env=SMALL) as server:
        create(server)
        started = loads(server, "kept", ledger)
        try:
            for _ in range(3):
                kill_one(server, module)
                await_writes(ledger)
        finally:
            end(started)
        assert_kept(server, "kept", ledger)
        server.collection("kept").wait_ready()
        assert_kept(server, "kept", ledger)


def await_writes(ledger: Ledger, count: int = 20) -> None:
    enough = ledger.acknowledged_writes + count
    wait_for(f"{count} writes are acknowledged", lambda: ledger.acknowledged_writes >= enough)


def kill_one(server: Server, module: str) -> None:
    before = all_of(server, module)
    victim = random.choice(list(before))
    os.kill(victim, signal.SIGKILL)

    def replaced() -> bool:
        now = server.children(module)
        return victim not in now and len(now) >= len(before)

    wait_for(f"{module} is replaced", replaced)


def until(condition: Callable[[], bool]) -> None:
    wait_for("the background work has begun", condition, timeout_s=30, every_s=0.005)


def test_killed_while_an_index_is_being_built(tmp_path: Path) -> None:
    ledger, rng = Ledger(), np.random.default_rng(5)
    with Server(tmp_path / "data", env=SMALL) as server:
        words = create(server, kind="hnsw")
        for begin in range(0, 12_000, 2_000):
            ids, vectors = list(range(begin, begin + 2_000)), drawn(rng, 2_000)
            ledger.announce(ids, vectors)
            words.add(ids, vectors)
            ledger.acknowledge(ids, vectors)
        until(lambda: words.describe()["index"]["state"] == "building")
        time.sleep(random.uniform(0, 0.3))
        server.kill()
        server.start()
        assert_kept(server, "kept", ledger)
        assert server.collection("kept").wait_ready()["index"]["kind"] == "hnsw"
        assert_kept(server, "kept", ledger)
