"""An answer is one segment, whatever it is; and whatever has no body is complete with its head."""

import re
import socket

import pytest

from tests.harness import HOST, Server

LARGEST = 1 << 16


def first_part(connection: socket.socket, request: bytes) -> bytes:
    connection.sendall(request + b"\r\nHost: x\r\n\r\n")
    return connection.recv(LARGEST)


@pytest.mark.parametrize("path", [b"/livez", b"/v1/collections", b"/v1/collections/none", b"/docs"])
def test_head_and_body_come_together(shared_server: Server, path: bytes) -> None:
    with socket.create_connection((HOST, shared_server.port), timeout=10) as connection:
        for _ in range(2):
            head, _, body = first_part(connection, b"GET " + path + b" HTTP/1.1").partition(b"\r\n\r\n")
            assert int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]) == len(body)


def test_what_has_no_body_is_answered(shared_server: Server) -> None:
    with socket.create_connection((HOST, shared_server.port), timeout=10) as connection:
        for request in (b"HEAD /v1/collections HTTP/1.1", b"OPTIONS /livez HTTP/1.1", b"HEAD /none HTTP/1.1"):
            head = first_part(connection, request)
            assert head.startswith(b"HTTP/1.1 4") and b"\r\n\r\n" in head


def test_answers_to_many_at_once_come_in_order(shared_server: Server) -> None:
    paths = [b"/livez", b"/none", b"/v1/collections", b"/livez"]
    with socket.create_connection((HOST, shared_server.port), timeout=10) as connection:
        connection.sendall(b"".join(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n" for path in paths))
        got = b""
        while got.count(b"HTTP/1.1 ") < len(paths) or not got.endswith(b"}"):
            got += connection.recv(LARGEST)
    assert re.findall(rb"HTTP/1\.1 (\d+) ", got) == [b"200", b"404", b"200", b"200"]
