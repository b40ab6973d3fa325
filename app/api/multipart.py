"""`multipart/form-data` taken apart as it comes: no part is ever in memory, whatever its size."""

import re
from collections.abc import AsyncIterator
from email.message import Message
from typing import NamedTuple

from app.engine.errors import Malformed

HEADERS_MAX = 8192
"""Bytes of one part's headers."""
PARTS_MAX = 1000
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{1,70}")


class Part(NamedTuple):
    """name and filename: of its Content-Disposition, filename empty where there is none. chunks: to be read to their
    end before the next part is asked for; what is left is passed over."""

    name: str
    filename: str
    chunks: AsyncIterator[bytes]


def boundary_of(content_type: str) -> str:
    """Raises Malformed."""
    message = Message()
    message["content-type"] = content_type
    found = message.get_param("boundary")
    if not isinstance(found, str) or _BOUNDARY.fullmatch(found) is None:
        raise Malformed("multipart/form-data without a boundary")
    return found


async def parts(body: AsyncIterator[bytes], boundary: str) -> AsyncIterator[Part]:
    """Raises Malformed where it is no multipart body, or is cut off."""
    reader = _Reader(body, f"\r\n--{boundary}".encode("ascii"))
    # As if the body's first line had one before it: then every delimiter looks the same.
    reader.held += b"\r\n"
    async for _ in reader.until_delimiter():
        pass
    for _ in range(PARTS_MAX):
        if await reader.is_last():
            return
        name, filename = await reader.headers()
        chunks = reader.until_delimiter()
        yield Part(name, filename, chunks)
        async for _ in chunks:
            pass
    raise Malformed(f"more than {PARTS_MAX} parts")


class _Reader:
    def __init__(self, body: AsyncIterator[bytes], delimiter: bytes) -> None:
        self._body = body
        self._delimiter = delimiter
        self.held = bytearray()

    async def _more(self) -> None:
        try:
            self.held += await anext(self._body)
        except StopAsyncIteration:
            raise Malformed("the multipart body is cut off") from None

    async def until_delimiter(self) -> AsyncIterator[bytes]:
        while (at := self.held.find(self._delimiter)) < 0:
            # The delimiter may lie across two chunks.
            sure = len(self.held) - len(self._delimiter) + 1
            if sure > 0:
                yield bytes(self.held[:sure])
                del self.held[:sure]
            await self._more()
        if at:
            yield bytes(self.held[:at])
        del self.held[: at + len(self._delimiter)]

    async def is_last(self) -> bool:
        while len(self.held) < 2:
            await self._more()
        return self.held.startswith(b"--")

    async def headers(self) -> tuple[str, str]:
        while (end := self.held.find(b"\r\n\r\n")) < 0:
            if len(self.held) > HEADERS_MAX:
                raise Malformed("a part of the multipart body has headers without an end")
            await self._more()
        if not self.held.startswith(b"\r\n"):
            raise Malformed("a part of the multipart body does not begin on a line of its own")
        message = Message()
        for line in bytes(self.held[2:end]).decode("utf-8", "replace").split("\r\n"):
            name, _, value = line.partition(":")
            message[name.strip() or "x"] = value.strip()
        del self.held[: end + 4]
        field = message.get_param("name", header="content-disposition")
        filename = message.get_param("filename", header="content-disposition")
        if not isinstance(field, str):
            raise Malformed("a part of the multipart body has no name: send it as -F NAME=@FILE")
        return field, filename if isinstance(filename, str) else ""
