"""Whole requests as bytes, nearly right: heads, headers, chunks and bodies as no client library would send them."""

import socket
from collections import Counter
from contextlib import suppress

import orjson
from hypothesis import given

from tests.fuzz import bodies
from tests.fuzz.mutants import Mutant, Sound, mutants, repeatable
from tests.fuzz.reference import KEY
from tests.harness import HOST, Server

WAIT_S = 20.0
"""Longer than the server waits for what does not come, as the tests set it."""
CLOSED = 0
"""In the place of a status: closed without an answer."""


def request(method: str, path: str, *headers: str, body: bytes = b"", counted: bool = True) -> Sound:
    """Its lines, and its body. counted: with a Content-Length."""
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", f"api-key: {KEY}", *headers]
    if body and counted:
        lines.append(f"content-length: {len(body)}")
    return Sound((*(f"{line}\r\n".encode() for line in lines), b"\r\n", body))


C = "/v1/collections/colours"
JSON = "content-type: application/json"
CHUNKED = b'5\r\n{"vec\r\nd\r\ntor": [1,0,0]\r\n1\r\n}\r\n0\r\n\r\n'
ITEM = orjson.dumps({"items": [{"id": 3, "vector": [1, 2, 3], "metadata": {"hue": 1}}]})
SOUND = [
    request("GET", f"{C}/vectors/1", "range: bytes=0-10", "accept: application/json;q=0.5", "x-request-id: abc"),
    request("GET", f"{C}/vectors?limit=2&cursor=AAAAAAAAAAM&include=vector", "expect: 100-continue"),
    request(
        "GET", f"{C}/neighbors/1?k=3&filter=%7B%22hue%22%3A1%7D", "traceparent: 00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    ),
    request("GET", "/v1/snapshots/monday", "authorization: Bearer x", "connection: keep-alive", "cookie: a=b"),
    request("POST", f"{C}/search", JSON, body=orjson.dumps({"vector": [1, 0, 0], "filter": {"hue": {"$lt": 9}}})),
    request("POST", f"{C}/search", JSON, "transfer-encoding: chunked", body=CHUNKED, counted=False),
    request(
        "POST",
        f"{C}/search?k=2",
        "content-type: application/x-npy",
        "accept: application/x-npz",
        body=bodies.npy((2, 3)).whole,
    ),
    request("PUT", f"{C}/vectors", f"{JSON}; charset=utf-8", "idempotency-key: fuzz-1", body=ITEM),
    request("PATCH", f"{C}/vectors/1", JSON, "content-encoding: identity", body=b'{"metadata": {"hue": null}}'),
    request("PUT", "/v1/snapshots/sent.tar", "content-type: application/x-tar", body=bodies.import_tar().whole),
]


def attempt(server: Server, cases: int, seed: int = 1) -> Counter[int]:
    """What so many mutants were answered: by status. Raises AssertionError for one that is the server's fault."""
    answered: Counter[int] = Counter()

    @repeatable(cases, seed)
    @given(mutants(SOUND))
    def ask(mutant: Mutant) -> None:
        status = answer(server, mutant.body)
        answered[status] += 1
        assert status < 500 or status == 503, f"{status} to {mutant.body!r}"

    ask()
    return answered


def answer(server: Server, raw: bytes) -> int:
    """The status of the first answer, CLOSED where there is none. Nothing more is sent after these bytes."""
    with socket.create_connection((HOST, server.port), timeout=WAIT_S) as connection:
        got = b""
        with suppress(ConnectionError):
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while more := connection.recv(1 << 16):
                got += more
    if not got:
        return CLOSED
    assert got.startswith(b"HTTP/1.1 "), got[:100]
    return int(got[9:12])
