"""A repeated POST with the same Idempotency-Key is answered as the first was, and stores nothing again."""

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.harness import Server
from tests.wire import Collection, npy, plain

DIMENSION = 4


def drawn(n: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, DIMENSION)).astype(np.float32)


def test_repeated_add_is_answered_once_stored_once(server: Server) -> None:
    words = server.collection("once")
    words.create(DIMENSION)
    first = words.add(None, drawn(3), Idempotency_Key="k1")
    assert first == {"count": 3, "first_id": 0}
    assert words.add(None, drawn(3), Idempotency_Key="k1") == first
    assert server.collection("once").add(None, drawn(3), Idempotency_Key="k1") == first
    assert words.describe()["count"] == 3
    assert words.add(None, drawn(3), Idempotency_Key="k2") == {"count": 3, "first_id": 3}

    problem = words.wire.ok(
        422, "POST", f"{words.path}/vectors", {"vectors": plain(drawn(3, seed=2))}, Idempotency_Key="k1"
    )
    assert problem["type"] == "/problems/idempotency-mismatch"
    assert words.describe()["count"] == 6

    server.restart()
    words = server.collection("once")
    assert words.add(None, drawn(3), Idempotency_Key="k1") == first
    assert words.describe()["count"] == 6


def test_refused_add_does_not_take_the_key(server: Server) -> None:
    words = server.collection("refused")
    words.create(DIMENSION)
    words.add([1], drawn(1))
    body = {"ids": [1], "vectors": plain(drawn(1, seed=2))}
    words.wire.ok(409, "POST", f"{words.path}/vectors", body, Idempotency_Key="k")
    words.delete([1])
    words.wire.ok(201, "POST", f"{words.path}/vectors", body, Idempotency_Key="k")
    assert np.array(words.get(1)["vector"], np.float32).tobytes() == drawn(1, seed=2).tobytes()


def test_repeated_delete_and_npy(server: Server) -> None:
    words = server.collection("deletes")
    words.create(DIMENSION)
    headers = {"Content_Type": "application/x-npy", "Idempotency_Key": "npy"}
    for _ in range(2):
        answer = words.wire.ok(201, "POST", f"{words.path}/vectors", npy(drawn(4)), **headers)
        assert answer == {"count": 4, "first_id": 0}
    assert words.delete([0, 1], Idempotency_Key="d") == 2
    words.add([0, 1], drawn(2))
    # The answer of the first time, though the items are back: a client that retries must not delete them again.
    assert words.delete([0, 1], Idempotency_Key="d") == 2
    assert words.describe()["count"] == 4


def test_sent_twice_at_the_same_time(server: Server) -> None:
    """Eight connections over both workers send the same POST at once: one run of ids, eight equal answers."""
    words = server.collection("race")
    words.create(DIMENSION)
    body = drawn(20)
    collections = [server.collection("race") for _ in range(8)]
    for collection in collections:
        collection.wire.ok(200, "GET", "/livez")
    for round in range(10):
        answers = all_at_once(collections, body, f"round-{round}")
        assert answers == [{"count": 20, "first_id": 20 * round}] * 8
    assert words.describe()["count"] == 200


def all_at_once(collections: list[Collection], body: NDArray[Any], key: str) -> list[Any]:
    answers: list[Any] = [None] * len(collections)
    gate = threading.Barrier(len(collections))

    def send(number: int) -> None:
        gate.wait()
        answers[number] = collections[number].add(None, body, Idempotency_Key=key)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(len(collections))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers
