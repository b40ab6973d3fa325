"""Answers that are made as they are sent: in constant memory, and no longer than somebody listens."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.engine.errors import Refused

log = logging.getLogger(__name__)


class StreamedResponse(Response):
    """chunks: closed when they have all been sent, or the client has gone."""

    def __init__(
        self,
        chunks: AsyncGenerator[bytes, None],
        status: int,
        media_type: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.chunks = chunks
        self.status_code = status
        self.media_type = media_type
        self.body = b""
        self.background = None
        self.init_headers({"content-type": media_type, **(headers or {})})
        # Only a body whose length is known has one; this one's is set by who knows it.
        self.raw_headers = [(k, v) for k, v in self.raw_headers if k != b"content-length" or v != b"0"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for chunk in self.chunks:
                if gone.done():
                    return
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except Refused as e:
            # It has begun, so that no status can tell: a body without its end does, and the connection is closed.
            log.error("an answer is cut off: %s", e.detail)
        finally:
            gone.cancel()
            await self.chunks.aclose()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
