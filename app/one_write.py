"""An answer goes out in one system call. uvicorn writes its head and its body one after the other, and uvloop sends
each at once: a segment more, and a wake-up more of the client.
"""

import asyncio
from typing import Any


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
