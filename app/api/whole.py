"""Answers that are there as a whole, handed to the connection in one piece.

As two ASGI messages each header of theirs is looked at by uvicorn and each message by every layer it comes through:
17 µs of a search's 150 around the index. Where the connection takes an answer whole (`app.connections`) it says so in
the scope; anywhere else it goes out by messages, as any.
"""

from collections.abc import Callable
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

WHOLE: Final = "seedvec.whole"
"""In the scope of a request: `TakesWhole`."""
TakesWhole = Callable[[int, bytes, bytes], bool]
"""status, headers (lines, each with its end), body → False: not now, it must go out by messages."""


class Whole(Response):
    """Starlette's, for a body that is complete. lines: what it is sent with, but for the request's id."""

    def __init__(self, body: bytes, lines: bytes, headers: list[tuple[bytes, bytes]], status: int) -> None:
        """lines, headers: the same, the one as it is sent, the others for messages."""
        # What Starlette looks at to make its headers takes longer than to make them.
        self.status_code, self.body, self.background, self.raw_headers = status, body, None, headers
        self._lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        take: TakesWhole | None = scope.get(WHOLE)
        if take is not None and take(self.status_code, self._lines + _id_line(scope), bytes(self.body)):
            scope["status"] = self.status_code
        else:
            await super().__call__(scope, receive, send)


def _id_line(scope: Scope) -> bytes:
    request_id: str = scope["request_id"]
    return b"x-request-id: %b\r\n" % request_id.encode("ascii")
