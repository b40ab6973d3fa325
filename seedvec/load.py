"""Searches sent by many clients at once, and how long each took, as cheaply as Python can: the clients share one thread
and one selector, requests are made beforehand, and of an answer only its status and length are read while the clock
runs. A thread or a process for each would take from the server, where both share a machine, what is to be measured.
"""

import selectors
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from seedvec.errors import refusal
from seedvec.exchange import JSON, problem

RECEIVE_BYTES = 1 << 16
LENGTH = b"content-length: "
SILENT_S = 60.0
"""A server that answers nothing for so long ends the run."""


@dataclass(slots=True)
class Loaded:
    """latencies_s: of each answer, in order of arrival; bodies: of the last answer to each request."""

    elapsed_s: float
    latencies_s: list[float]
    bodies: list[bytes]


@dataclass(slots=True, eq=False)
class _Connection:
    """One client. number: of the request under way, sent at `at`; due: bytes that its answer has, −1: not known yet."""

    socket: socket.socket
    number: int = 0
    at: float = 0.0
    got: bytearray = field(default_factory=bytearray)
    due: int = -1


class Load:
    """`clients` connections to the server at `url`, one request under way on each. Raises OSError."""

    def __init__(self, url: str, clients: int) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._base = parts.path.rstrip("/")
        self._selector = selectors.DefaultSelector()
        self._connections: list[_Connection] = []
        secure = parts.scheme == "https"
        context = ssl.create_default_context() if secure else None
        address = (self._host, parts.port or (443 if secure else 80))
        try:
            for _ in range(clients):
                self._open(address, context)
        except BaseException:
            self.__exit__()
            raise

    def _open(self, address: tuple[str, int], context: ssl.SSLContext | None) -> None:
        opened = socket.create_connection(address, SILENT_S)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            opened = context.wrap_socket(opened, server_hostname=self._host)
        connection = _Connection(opened)
        self._connections.append(connection)
        self._selector.register(opened, selectors.EVENT_READ, connection)

    def __enter__(self) -> "Load":
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        for connection in self._connections:
            connection.socket.close()

    def request(self, path: str, body: bytes) -> bytes:
        """A POST of JSON as it is sent."""
        head = (
            f"POST {self._base}{path} HTTP/1.1\r\nhost: {self._host}\r\ncontent-type: {JSON}\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        return head.encode("ascii") + body

    def run(self, requests: Sequence[bytes], seconds: float) -> Loaded:
        """Every request once, and on from the first until the time is over.

        Raises Refused for the first that is refused, OSError where the server goes away."""
        bodies = [b""] * len(requests)
        latencies: list[float] = []
        begun = time.perf_counter()
        end, sent = begun + seconds, 0
        idle, under_way = list(self._connections), 0
        while True:
            while idle and (sent < len(requests) or time.perf_counter() < end):
                self._send(idle.pop(), sent % len(requests), requests)
                sent, under_way = sent + 1, under_way + 1
            if not under_way:
                return Loaded(time.perf_counter() - begun, latencies, bodies)
            ready = self._selector.select(SILENT_S)
            if not ready:
                raise TimeoutError(f"the server has answered nothing for {SILENT_S:g} s")
            for key, _ in ready:
                connection: _Connection = key.data
                body = self._answer(connection)
                if body is None:
                    continue
                latencies.append(time.perf_counter() - connection.at)
                bodies[connection.number] = body
                idle.append(connection)
                under_way -= 1

    @staticmethod
    def _send(connection: _Connection, number: int, requests: Sequence[bytes]) -> None:
        connection.number, connection.due = number, -1
        connection.got.clear()
        connection.at = time.perf_counter()
        # Blocks at most until the server has read it: nothing else is under way on this connection.
        connection.socket.settimeout(SILENT_S)
        connection.socket.sendall(requests[number])
        connection.socket.settimeout(0)

    @staticmethod
    def _answer(connection: _Connection) -> bytes | None:
        """The body of the answer, once it is there."""
        while True:
            try:
                part = connection.socket.recv(RECEIVE_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError):
                return None
            if not part:
                raise ConnectionResetError("the server closed a connection")
            got = connection.got
            got += part
            if connection.due < 0:
                head = got.find(b"\r\n\r\n")
                if head < 0:
                    continue
                length = got.lower().find(LENGTH, 0, head)
                if length < 0:
                    raise ConnectionError("the answer does not say how long it is: this is no Seedvec server")
                connection.due = head + 4 + int(got[length + len(LENGTH) : got.index(b"\r", length)])
            if len(got) >= connection.due:
                break
        body = bytes(got[got.index(b"\r\n\r\n") + 4 :])
        if got[9:12] != b"200":
            raise refusal(int(got[9:12]), problem(body))
        return body
