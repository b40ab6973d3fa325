"""An answer is of one moment: vector, metadata and distance of a hit belong to the same version of the item."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.harness import Server
from tests.wire import Collection

DIMENSION = 6
ITEMS = 20
SECONDS = 5.0


def version(id: int, n: int) -> NDArray[np.float32]:
    """The vector that item `id` has in its n-th version."""
    return np.random.default_rng([id, n]).standard_normal(DIMENSION).astype(np.float32)


class Repeated(threading.Thread):
    """Calls `act` until told to stop; keeps the first fault."""

    def __init__(self, act: Callable[[], None], stop: threading.Event) -> None:
        super().__init__()
        self.act, self.stop_event = act, stop
        self.count = 0
        self.fault: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.stop_event.is_set():
                self.act()
                self.count += 1
        except BaseException as fault:
            self.fault = fault
            self.stop_event.set()


def check_item(item: dict[str, Any]) -> NDArray[np.float32]:
    stored = np.array(item["vector"], np.float32)
    expected = version(item["id"], item["metadata"]["n"])
    assert stored.tobytes() == expected.tobytes(), f"metadata of one version, vector of another: {item}"
    return stored


def writer(words: Collection, ids: range) -> Callable[[], None]:
    n = 0

    def act() -> None:
        nonlocal n
        n += 1
        words.upsert(list(ids), np.array([version(id, n) for id in ids]), [{"n": n} for _ in ids])

    return act


def searcher(words: Collection, *, exact: bool) -> Callable[[], None]:
    rng = np.random.default_rng()

    def act() -> None:
        query = rng.standard_normal(DIMENSION).astype(np.float32)
        hits = words.search(query, ITEMS, exact=exact, include=["metadata", "vector"])["hits"]
        # Nothing but upserts go on: every item is live at every moment.
        assert sorted(hit["id"] for hit in hits) == list(range(ITEMS))
        for hit in hits:
            stored = check_item(hit)
            true = float(np.linalg.norm(stored.astype(np.float64) - query))
            assert abs(hit["distance"] - true) <= 1e-5 * true, f"distance of another version: {hit}, {true}"

    return act


def reader(words: Collection) -> Callable[[], None]:
    def act() -> None:
        found = words.fetch(list(range(ITEMS)), include=["metadata", "vector"])
        assert found["missing"] == []
        for item in found["items"]:
            check_item(item)
        check_item(words.get(7))
        [page] = list(words.pages(1000))
        assert sorted(item["id"] for item in page) == list(range(ITEMS))
        for item in page:
            check_item(item)
        near = words.neighbors(3, ITEMS)["hits"]
        assert sorted(hit["id"] for hit in near) == [id for id in range(ITEMS) if id != 3]

    return act


def test_hits_are_of_one_version(server: Server) -> None:
    """Two writers go on replacing the same items; every answer at both workers is whole."""
    words = server.collection("torn")
    words.create(DIMENSION, metric="l2", id_type="int")
    words.add(list(range(ITEMS)), np.array([version(id, 0) for id in range(ITEMS)]), [{"n": 0}] * ITEMS)
    stop = threading.Event()
    halves = (range(ITEMS // 2), range(ITEMS // 2, ITEMS))
    acts = [writer(server.collection("torn"), ids) for ids in halves]
    acts += [searcher(server.collection("torn"), exact=exact) for exact in (True, False)]
    acts += [reader(server.collection("torn")) for _ in range(2)]
    threads = [Repeated(act, stop) for act in acts]
    for thread in threads:
        thread.start()
    stop.wait(SECONDS)
    stop.set()
    for thread in threads:
        thread.join()
    for thread in threads:
        if thread.fault is not None:
            raise thread.fault
    assert min(thread.count for thread in threads) >= 5, [thread.count for thread in threads]
