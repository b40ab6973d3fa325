"""Bounds on a real server: deadlines, settings of limits, queues that are full, and a stop that is announced."""

import http.client
import json
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx  # verify=False: else each client loads all certificates of the machine
import numpy as np
import pytest

from tests.harness import HOST, SMALL, Server, wait_for
from tests.wire import npy

C = "/v1/collections/c"
NPY = {"content-type": "application/x-npy"}
ROWS, DIMENSION = 40_000, 64
TIGHT = {
    "SEEDVEC_INDEX_MIN_ROWS": "1000000",
    "SEEDVEC_SEARCH_QUEUE_S": "0.05",
    "SEEDVEC_BODIES_BYTES": "1MiB",
    "SEEDVEC_K_MAX": "500",
    "SEEDVEC_LIST_MAX": "200",
    "SEEDVEC_ITEMS_MAX": "50000",
    "SEEDVEC_JSON_BODY_BYTES": "1MiB",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One worker, that searches exactly what takes some milliseconds."""
    with Server(tmp_path_factory.mktemp("bounds") / "data", 1, SMALL | TIGHT) as running:
        running.client.put(C, json={"dimension": DIMENSION, "metric": "l2", "index": {"kind": "flat"}})
        rows = np.random.default_rng(1).standard_normal((ROWS, DIMENSION), np.float32)
        running.client.post(f"{C}/vectors", content=npy(rows), headers=NPY).raise_for_status()
        yield running


def queries(n: int) -> bytes:
    return npy(np.random.default_rng(2).standard_normal((n, DIMENSION), np.float32))


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, str(answer.json().get("type", "")).rpartition("/")[2]


# ---------------------------------------------------------------- deadlines


def test_a_search_past_its_deadline(server: Server) -> None:
    late = server.client.post(f"{C}/search?timeout_ms=1&exact=true", content=queries(500), headers=NPY)
    assert code(late) == (504, "deadline-exceeded")
    # The thread is free again: what is not begun takes nothing.
    in_time = server.client.post(f"{C}/search?timeout_ms=60000&exact=true", content=queries(2), headers=NPY)
    assert in_time.status_code == 200
    body = {"vector": [0.0] * DIMENSION, "k": 1, "timeout_ms": 60_000}
    assert server.client.post(f"{C}/search", json=body).status_code == 200
    assert server.client.get(f"{C}/neighbors/1?k=1&timeout_ms=60000").status_code == 200


@pytest.mark.parametrize("given", [0, -1, 86_400_001, 1.5, "1", None])
def test_a_deadline_that_is_none(server: Server, given: Any) -> None:
    answer = server.client.post(f"{C}/search", json={"vector": [0.0] * DIMENSION, "timeout_ms": given})
    assert answer.status_code == 422 and answer.json()["errors"][0]["where"] == "timeout_ms"


# ---------------------------------------------------------------- limits


def test_limits_are_settings(server: Server) -> None:
    shown = server.client.get("/v1").json()["limits"]
    assert (shown["k_max"], shown["list_max"], shown["write_items_max"]) == (500, 200, 50_000)
    assert shown["json_body_bytes_max"] == 1 << 20
    vector = [0.0] * DIMENSION
    asked: list[tuple[str, Any, int]] = [
        ("search", {"vector": vector, "k": 501}, 422),
        ("search", {"vector": vector, "k": 500}, 200),
        ("vectors/list", {"limit": 201}, 422),
        ("vectors/list", {"limit": 200}, 200),
        ("recall", {"k": 501, "sample": 1}, 422),
        ("vectors/fetch", {"ids": list(range(10_001))}, 422),
        ("search", {"vector": vector, "filter": {"a": "x" * (1 << 20)}}, 413),
    ]
    for path, body, status in asked:
        assert server.client.post(f"{C}/{path}", json=body).status_code == status, (path, status)
    assert server.client.get(f"{C}/neighbors/1?k=501").status_code == 422
    assert server.client.get(f"{C}/vectors?limit=201").status_code == 422
    spec = server.client.get("/openapi.json").json()
    assert spec["components"]["schemas"]["SearchBody"]["properties"]["k"]["maximum"] == 500
    assert spec["components"]["schemas"]["ListBody"]["properties"]["limit"]["maximum"] == 200


# ---------------------------------------------------------------- queues


def test_dear_searches_wait_within_bounds(server: Server) -> None:
    """Sixteen clients send what takes longer together than may be waited for, and go on while somebody else asks what
    is cheap."""
    body, answers, lock, over = queries(300), [], threading.Lock(), threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=server.url, verify=False, trust_env=False, timeout=60) as client:
            while not over.is_set():
                answer = client.post(f"{C}/search?exact=true", content=body, headers=NPY)
                with lock:
                    answers.append(answer)

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    try:
        wait_for("all have asked twice", lambda: len(answers) >= 32)
        assert httpx.get(f"{server.url}/livez", verify=False, trust_env=False).status_code == 200
    finally:
        over.set()
    for thread in threads:
        thread.join()
    refused = [a for a in answers if a.status_code != 200]
    assert 0 < len(refused) < len(answers)
    for answer in refused:
        assert code(answer) == (503, "overloaded") and int(answer.headers["retry-after"]) >= 1
    assert server.client.post(f"{C}/search?exact=true", content=body, headers=NPY).status_code == 200


def test_large_bodies_are_held_within_bounds(server: Server) -> None:
    """A megabyte for all of them: while one of 900 KiB comes in, another one is refused."""

    def started(kib: int) -> socket.socket:
        connection = socket.create_connection((HOST, server.port), timeout=30)
        lines = ("POST /v1/collections/c/search HTTP/1.1", "host: x", "content-type: application/json")
        connection.sendall(("\r\n".join((*lines, f"content-length: {1000 << 10}")) + "\r\n\r\n").encode())
        connection.sendall(b" " * (kib << 10))
        return connection

    def answer(connection: socket.socket) -> tuple[int, dict[str, Any]]:
        response = http.client.HTTPResponse(connection)
        response.begin()
        return response.status, json.loads(response.read())

    with ExitStack() as stack:
        first = stack.enter_context(started(900))
        server.wait_read(first)
        second = stack.enter_context(started(900))
        status, problem = answer(second)
        assert (status, problem["type"]) == (503, "/problems/overloaded")
        small = server.client.post(f"{C}/search", json={"vector": [0.0] * DIMENSION, "k": 1})
        assert small.status_code == 200
        first.sendall(b" " * (100 << 10))
        assert answer(first)[0] == 400  # it came in whole, and is blank
    again = server.client.post(f"{C}/search", content=b" " * (900 << 10), headers={"content-type": "application/json"})
    assert again.status_code == 400


# ---------------------------------------------------------------- stopping


def test_a_stop_is_announced(tmp_path: Path) -> None:
    """First `readyz` says so, while everything goes on; then the port closes."""
    with Server(tmp_path / "data", 1, SMALL | {"SEEDVEC_UNREADY_S": "5"}) as server:
        client, process = server.client, server.process
        assert process is not None and client.get("/readyz").status_code == 200
        process.send_signal(signal.SIGTERM)
        wait_for("it is not ready", lambda: client.get("/readyz").status_code == 503, 4.0)
        assert client.get("/readyz").json()["type"] == "/problems/not-ready"
        assert httpx.get(f"{server.url}/livez", verify=False, trust_env=False).status_code == 200
        assert client.put(C, json={"dimension": 2}).status_code == 201
        assert process.wait(15) == 0
        server.stop()
