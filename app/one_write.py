"""An answer goes out in one system call. uvicorn writes its head and its body one after the other, and uvloop sends
each at once: a segment more, and a wake-up more of the client.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

SMALL = 1 << 16
"""Bytes of a body that are copied behind the head; larger ones take longer to copy than a second system call."""


class OneWrite:
    """A transport that keeps the head of an answer until the first of its body comes, which goes with it. Whoever ends
    an answer says so (`flush`): it may have no body. All else is the transport's own."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head + data)
        elif data.endswith(b"\r\n\r\n") and data.startswith(b"HTTP/1.1 ") and b"content-length: " in data:
            # Without a length it is the head of what comes piece by piece, perhaps after a while.
            self._head = data
        else:
            self._transport.write(data)

    def flush(self) -> None:
        if self._head:
            self.write(b"")

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def write_whole(cycle: RequestResponseCycle, status: int, lines: bytes, body: bytes) -> bool:
    """A whole answer to uvicorn's request, as its `send` would write it, past its look at every header. lines: of the
    headers, each with its end; they are ours, and well formed. False: it has to wait for the client to read, or is
    none of the common kind: `send` knows what to do."""
    if cycle.flow.write_paused or cycle.disconnected or cycle.response_started or len(body) > SMALL:
        return False
    if cycle.scope["method"] == "HEAD":
        return False
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    head = STATUS_LINE[status]
    for header in cycle.default_headers:
        head += b"%b: %b\r\n" % header
    cycle.transport.write(b"%b%b%b\r\n%b" % (head, lines, b"" if cycle.keep_alive else b"connection: close\r\n", body))
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True
