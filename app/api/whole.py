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
Headers = list[tuple[bytes, bytes]]
TakesWhole = Callable[[int, Headers, bytes], bool]
"""status, headers, body → False: not now, it must go out by messages."""


class Whole(Response):
    """Starlette's, for a body that is complete. headers: all but the request's id."""

    def __init__(self, body: bytes, headers: Headers, status: int) -> None:
        # What Starlette looks at to make its headers takes longer than to make them.
        self.status_code, self.body, self.background, self.raw_headers = status, body, None, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        take: TakesWhole | None = scope.get(WHOLE)
        if take is not None and take(self.status_code, [*self.raw_headers, _id_of(scope)], bytes(self.body)):
            scope["status"] = self.status_code
        else:
            await super().__call__(scope, receive, send)


def _id_of(scope: Scope) -> tuple[bytes, bytes]:
    return b"x-request-id", scope["request_id"].encode("ascii")
