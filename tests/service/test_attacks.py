"""Hostile clients, and what becomes of each: the table of docs/security.md. A good client notices little."""

import http.client
import json
import re
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx  # verify=False: else each client loads all certificates of the machine
import pytest

from tests.harness import HOST, ROOT, SMALL, Server, wait_for
from tests.processes import held_by

C = "/v1/collections/c"
SLOW_SOCKETS = 200
SLOW_BYTES = 640
"""Every 0.11 s."""
PATIENT = {
    "SEEDVEC_HEADER_S": "1",
    "SEEDVEC_BODY_S": "1",
    "SEEDVEC_KEEP_ALIVE_S": "30",
    # On a busy machine some of 200 that come at once would be told that it is.
    "SEEDVEC_QUEUE_S": "20",
}
UNSEEN_S = 5.0
"""What a good client's request may take beside an attack, on a machine that others use too."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("attacked") / "data", env=SMALL | PATIENT) as running:
        running.client.put(C, json={"dimension": 2, "metric": "l2", "id_type": "str"}).raise_for_status()
        running.client.post(f"{C}/vectors", json={"ids": ["a"], "vectors": [[1, 0]]}).raise_for_status()
        yield running


def good(server: Server) -> float:
    """Seconds that a search takes on a connection of its own; AssertionError where it is not answered right."""
    begun = time.monotonic()
    with httpx.Client(base_url=server.url, verify=False, trust_env=False) as client:
        answer = client.post(f"{C}/search", json={"vector": [1, 0], "k": 1})
    assert answer.status_code == 200, answer.text
    assert [hit["id"] for hit in answer.json()["hits"]] == ["a"]
    return time.monotonic() - begun


def opened(server: Server) -> socket.socket:
    return socket.create_connection((HOST, server.port), timeout=30)


def head(method: str, path: str, length: int) -> bytes:
    lines = (f"{method} {path} HTTP/1.1", "host: x", "content-type: application/json", f"content-length: {length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def answer(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """Status and problem of what is answered on it."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, json.loads(response.read())


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name",
    ["..", "../../etc/passwd", "%2e%2e", "%2e%2e%2f%2e%2e%2fetc", "..%2f..", "a%00", "%00", "/etc", "%2fetc", "a%0ab",
     "%c3%28", "A", "-a", "a" * 64],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_path_traversal_in_names(server: Server, method: str, name: str) -> None:
    before = {path for path in server.data_dir.parent.rglob("*") if "/c/" not in str(path)}
    connection = http.client.HTTPConnection(HOST, server.port, timeout=30)
    body = json.dumps({"dimension": 2} if method == "PUT" else {"recall": 0.9}).encode()
    headers = {"content-type": "application/json"} if method in ("PUT", "PATCH") else {}
    for path in (f"/v1/collections/{name}", f"/v1/aliases/{name}", f"/v1/snapshots/{name}"):
        # Sent as it stands: a client library would resolve the dots itself.
        connection.request(method, path, body if headers else None, headers)
        response = connection.getresponse()
        text = response.read()
        assert 400 <= response.status < 500, (method, path, response.status, text)
        assert b"root:" not in text
        assert response.getheader("content-type") == "application/problem+json"
    connection.close()
    assert {path for path in server.data_dir.parent.rglob("*") if "/c/" not in str(path)} == before


# ---------------------------------------------------------------- bodies


def test_a_body_of_200_mb(server: Server) -> None:
    """Declared and not: refused before it is held."""
    before = server.private_bytes()
    for chunked in (False, True):
        with opened(server) as connection:
            if chunked:
                start = head("POST", f"{C}/search", 0).replace(b"content-length: 0", b"transfer-encoding: chunked")
                connection.sendall(start)
                piece = b"1" * (1 << 20)
                try:
                    for _ in range(200):
                        connection.sendall(b"100000\r\n" + piece + b"\r\n")
                except (ConnectionError, TimeoutError):
                    pass  # it has been told, and did not listen
            else:
                connection.sendall(head("POST", f"{C}/search", 200_000_000))
                assert answer(connection)[0] == 413
        assert good(server) < UNSEEN_S
    assert server.private_bytes() - before < 160 * 2**20


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"[" * 100_000, 422, "invalid-request"),
        (b'{"vector":' + b"[" * 100_000, 422, "invalid-request"),
        (b'{"vector": [1, 0], "filter": ' + b'{"$not": ' * 100_000 + b"{}" + b"}" * 100_000 + b"}", 400, ""),
        (b'{"vector": [NaN, 0]}', 400, "malformed-body"),
        (b'{"vector": [1e400, 0]}', 422, "not-finite"),
        (b'{"vector": [-1e400, 0]}', 422, "not-finite"),
        (b'{"vector": [1, 0], "k": 1e400}', 422, "not-finite"),
        (b'{"vector": [1, 0], "k": ' + b"9" * 100_000 + b"}", 422, ""),
    ],
    ids=["brackets", "brackets in a vector", "nested filter", "NaN", "1e400", "-1e400", "k 1e400", "k of many digits"],
)
def test_hostile_json(server: Server, body: bytes, status: int, code: str) -> None:
    response = server.client.post(f"{C}/search", content=body, headers={"content-type": "application/json"})
    assert response.status_code in ((status,) if code else (400, 422)), response.text
    assert not code or response.json()["type"] == f"/problems/{code}", response.text
    assert good(server) < UNSEEN_S


def test_keys_that_stand_twice(server: Server) -> None:
    """Of a JSON object the last counts, everywhere; of a query string none does."""
    body = b'{"k": 9, "k": 1, "vector": [9], "vector": [1, 0]}'
    response = server.client.post(f"{C}/search", content=body, headers={"content-type": "application/json"})
    assert [hit["distance"] for hit in response.json()["hits"]] == [0.0]
    body = b'{"dimension": 9, "dimension": 2, "id_type": "str", "metric": "cosine", "metric": "l2"}'
    assert server.client.put(C, content=body, headers={"content-type": "application/json"}).status_code == 200
    assert server.client.get(f"{C}/neighbors/a?k=1&k=2").status_code == 422
    both = [("content-length", "2"), ("content-length", "3")]
    with opened(server) as connection:
        lines = "".join(f"{name}: {value}\r\n" for name, value in both)
        connection.sendall(f"POST {C}/search HTTP/1.1\r\nhost: x\r\n{lines}\r\n{{}}".encode())
        assert answer(connection)[0] == 400


@pytest.mark.parametrize("path", [f"{C}/vectors", f"{C}/search", C, "/v1/collections/never"])
def test_cut_off_in_mid_body(server: Server, path: str) -> None:
    """On routes of both kinds. Nothing is stored, and the log shows no stack (the harness looks)."""
    body = json.dumps({"items": [{"id": "b", "vector": [1, 0]}]}).encode()
    for end in (1, len(body) // 2, len(body) - 1):
        with opened(server) as connection:
            connection.sendall(head("PATCH" if path == C else "PUT" if "never" in path else "POST", path, len(body)))
            connection.sendall(body[:end])
            time.sleep(0.05)
    assert server.client.get(C).json()["count"] == 1
    assert server.client.get("/v1/collections/never").status_code == 404


@pytest.mark.parametrize("start", [b"GET /v1/", b"GET /v1 HTTP/1.1\r\nx: ", b"GET /v1 HTTP/1.1\r\n"])
def test_a_head_without_end(server: Server, start: bytes) -> None:
    """A path, one header, and many headers: 24 MB of it, of which a fraction is read."""
    before = server.private_bytes()
    with opened(server) as connection:
        piece = (b"a: b\r\n" * 20_000) if start.endswith(b"\n") else b"y" * 120_000
        connection.sendall(start)
        with suppress(ConnectionError):
            for _ in range(200):
                connection.sendall(piece)
        with suppress(ConnectionError):  # told, but with so much unread that the answer may be lost on its way
            assert answer(connection)[0] == 431
    assert good(server) < UNSEEN_S
    assert server.private_bytes() - before < 32 * 2**20


def test_a_head_of_64_kib_is_taken(server: Server) -> None:
    """In pieces; and its size is that of this request, not of those before it."""
    with opened(server) as connection:
        for _ in range(3):
            for piece in (b"GET /v1 HTTP/1.1\r\nhost: x\r\nx: ", b"y" * 30_000, b"y" * 30_000, b"\r\n\r\n"):
                connection.sendall(piece)
                time.sleep(0.02)
            assert answer(connection)[0] == 200


def test_requests_without_waiting_for_answers(server: Server) -> None:
    """50,000 on one connection: the first are answered, then it is closed."""
    before = server.private_bytes()
    with opened(server) as connection:
        few = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"
        connection.sendall(few * 20)
        text = b""
        while text.count(b"alive") < 20:
            text += connection.recv(1 << 16)
        assert text.count(b"HTTP/1.1 200") == 20
        with suppress(ConnectionError):
            connection.sendall(few * 50_000)
        with suppress(ConnectionError):
            while connection.recv(1 << 16):
                pass
    assert good(server) < UNSEEN_S
    assert server.private_bytes() - before < 32 * 2**20


# ---------------------------------------------------------------- slow clients


def drip(server: Server, start: bytes, drop: bytes) -> list[tuple[int, str]]:
    """What so many sockets are answered that send a start, and then a drop every tenth of a second until they are."""
    with ExitStack() as stack:
        connections = [stack.enter_context(opened(server)) for _ in range(SLOW_SOCKETS)]
        for connection in connections:
            connection.sendall(start)
        waits, until = [], time.monotonic() + 20
        waiting = list(connections)
        while waiting and time.monotonic() < until:
            for connection in list(waiting):
                try:
                    connection.setblocking(False)
                    if connection.recv(1, socket.MSG_PEEK):
                        waiting.remove(connection)
                        continue
                except BlockingIOError:
                    connection.send(drop)
            waits.append(good(server))
            time.sleep(0.1)
        assert not waiting, f"{len(waiting)} are still open"
        assert max(waits) < UNSEEN_S
        found = []
        for connection in connections:
            connection.setblocking(True)
            status, problem = answer(connection)
            found.append((status, problem["type"]))
    return found


def test_200_slow_heads(server: Server) -> None:
    assert drip(server, b"GET /v1 HTTP/1.1\r\nx: ", b"y") == [(408, "/problems/request-timeout")] * SLOW_SOCKETS


def test_200_slow_bodies(server: Server) -> None:
    answers = drip(server, head("POST", f"{C}/search", 100_000), b" ")
    assert answers == [(408, "/problems/request-timeout")] * SLOW_SOCKETS
    with opened(server) as connection:  # a route of the other kind
        connection.sendall(head("PUT", "/v1/collections/never", 100_000))
        assert answer(connection)[0] == 408


def test_a_body_that_keeps_coming_is_waited_for(server: Server) -> None:
    """At a few KiB a second, which leaves a busy machine some of them, for longer than a body that stalls would be."""
    body = json.dumps({"vector": [1, 0], "k": 1}).encode().ljust(20 * SLOW_BYTES)
    with opened(server) as connection:
        connection.sendall(head("POST", f"{C}/search", len(body)))
        for begin in range(0, len(body), SLOW_BYTES):
            connection.sendall(body[begin : begin + SLOW_BYTES])
            time.sleep(0.11)
        assert answer(connection)[0] == 200


def test_who_does_not_read_the_answer(tmp_path: Path) -> None:
    """An answer of megabytes, asked for and left lying: it is cut off, and its memory comes back."""
    with Server(tmp_path / "data", 1, SMALL | PATIENT) as server:
        server.client.put(C, json={"dimension": 1024, "metric": "l2", "id_type": "int"}).raise_for_status()
        rows = [[(i * j % 97) / 7 for j in range(1024)] for i in range(400)]
        server.client.post(f"{C}/vectors", json={"vectors": rows}).raise_for_status()
        body = json.dumps({"vector": rows[0], "k": 400, "include": ["vector"]}).encode()
        with ExitStack() as stack:
            for _ in range(8):
                connection = stack.enter_context(socket.socket())
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.connect((HOST, server.port))
                connection.sendall(head("POST", f"{C}/search", len(body)) + body)
            held = list(server.children("app.worker"))
            # One more is the test's own, which has nothing to read.
            wait_for("they are served", lambda: held_by(held[0], server.port) == 9)
            wait_for("they are cut off", lambda: held_by(held[0], server.port) == 1, 10)
            assert server.client.get(C).json()["count"] == 400


# ---------------------------------------------------------------- many connections


def test_10000_idle_connections(tmp_path: Path) -> None:
    """As many as this machine lets one process open, at most 10,000, and then more than the server takes."""
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    count = min(10_000, most - 1000)
    env = SMALL | {"SEEDVEC_CONNECTIONS": str(count - 500)}
    try:
        with Server(tmp_path / "data", env=env) as server, ExitStack() as stack:
            server.client.put(C, json={"dimension": 2, "metric": "l2", "id_type": "str"}).raise_for_status()
            server.client.post(f"{C}/vectors", json={"ids": ["a"], "vectors": [[1, 0]]}).raise_for_status()
            before, idle = server.private_bytes(), []
            for n in range(count):
                idle.append(stack.enter_context(opened(server)))
                if n % 1000 == 999:
                    assert good(server) < UNSEEN_S
            workers = server.children("app.worker")
            bound = count - 500 + 2 * 8
            wait_for("the oldest have given way", lambda: sum(held_by(w, server.port) for w in workers) <= bound)
            assert idle[0].recv(1) == b""
            assert good(server) < UNSEEN_S
            assert httpx.get(f"{server.url}/livez", verify=False, trust_env=False).status_code == 200
            idle[-1].sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
            assert answer(idle[-1]) == (200, {"status": "alive"})
            assert (server.private_bytes() - before) / count < 40_000
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, most))


def test_where_none_is_idle_only_probes_are_answered(tmp_path: Path) -> None:
    env = SMALL | {"SEEDVEC_CONNECTIONS": "20", "SEEDVEC_BODY_S": "60"}
    with Server(tmp_path / "data", 1, env) as server, ExitStack() as stack:
        server.client.put(C, json={"dimension": 2}).raise_for_status()
        server.client.close()
        server._client = None
        for _ in range(20):
            stack.enter_context(opened(server)).sendall(head("POST", f"{C}/search", 10))
        wait_for("all are taken", lambda: held_by(server.children("app.worker")[0], server.port) >= 20)
        with httpx.Client(base_url=server.url, verify=False, trust_env=False) as client:
            assert client.get("/livez").status_code == 200
            assert client.get("/readyz").status_code == 200
            refused = client.get("/v1")
        assert (refused.status_code, refused.json()["type"]) == (503, "/problems/overloaded")
        assert refused.headers["retry-after"] == "1"


# ---------------------------------------------------------------- the table


def test_the_table_names_these_tests() -> None:
    page, names = (ROOT / "docs/security.md").read_text(), set(globals())
    others = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    named = re.findall(r"`(test_\w+)\.py::(test_\w+)`", page)
    assert len(named) >= 14
    for file, test in named:
        assert f"def {test}(" in others[f"{file}.py"], (file, test)
    for test in (name for name in names if name.startswith("test_") and name != "test_the_table_names_these_tests"):
        assert f"::{test}`" in page, f"{test} is missing on docs/security.md"
