"""What is no HTTP is refused as everything else is: problem JSON, with an id, and nothing behind it."""

import json
import socket

import pytest

from tests.harness import HOST, Server


def answered(server: Server, data: bytes) -> tuple[str, dict[str, str], bytes]:
    """Status line, headers and body of the whole answer, read until the server closes."""
    got = b""
    with socket.create_connection((HOST, server.port), timeout=10) as connection:
        connection.sendall(data)
        while part := connection.recv(65536):
            got += part
    head, _, body = got.partition(b"\r\n\r\n")
    status, *lines = head.decode("ascii").split("\r\n")
    return status, dict(line.split(": ", 1) for line in lines), body


@pytest.mark.parametrize(
    "line", [b"BREW /v1 HTTP/1.1", b"GET /v1/collections/\xfc HTTP/1.1", b"GET /v1 HTTP/1.1\r\nno colon"]
)
def test_no_http_is_a_problem_too(shared_server: Server, line: bytes) -> None:
    status, headers, body = answered(shared_server, line + b"\r\nHost: x\r\n\r\n")
    assert status == "HTTP/1.1 400 Bad Request"
    assert headers["content-type"] == "application/problem+json" and headers["connection"] == "close"
    assert int(headers["content-length"]) == len(body)
    problem = json.loads(body)
    assert problem["type"] == "/problems/malformed-request" and problem["status"] == 400
    assert problem["instance"] == headers["x-request-id"]
