"""Reading a request's body: bounded while it streams, its media type checked before a byte of it is looked at."""

import asyncio
from collections.abc import Callable
from functools import lru_cache
from typing import Literal, TypeVar

from starlette.types import Receive, Scope

from app.api import limits
from app.api.limits import SMALL_BODY_BYTES
from app.api.refusals import UnsupportedMediaType
from app.engine.errors import Malformed, Overloaded, TooLarge

JSON: Literal["application/json"] = "application/json"
NPY: Literal["application/x-npy"] = "application/x-npy"
NPZ = "application/x-npz"

Media = Literal["application/json", "application/x-npy"]
T = TypeVar("T")


HELD = "seedvec.held"
"""Bytes of the request's body that its `Room` has counted."""
ROOM = "seedvec.room"
_HEADERS = "seedvec.headers"
"""What `headers` has made."""


class Room:
    """The bytes of large bodies that a worker holds, and what decoding makes of them, which goes with these."""

    def __init__(self, bytes: int) -> None:
        self.bytes = bytes
        self.held = 0

    def enter(self, scope: Scope, more: int) -> None:
        """Count bytes of a request's body. Raises Overloaded; a single body always fits."""
        own = scope.get(HELD, 0)
        if self.held + more > self.bytes and self.held > own:
            raise Overloaded(f"the large bodies that this worker is reading take the {self.bytes >> 20} MiB it has")
        scope[HELD] = own + more
        self.held += more

    def leave(self, held: int) -> None:
        """The request is over."""
        self.held -= held


class ClientGone(Exception):
    """The client closed the connection before its body was complete: nobody waits for an answer."""


def headers(scope: Scope) -> dict[bytes, bytes]:
    """By their (lower-case) names; of those that come twice the first. Made once: a search asks for four of them."""
    named: dict[bytes, bytes] | None = scope.get(_HEADERS)
    if named is None:
        named = scope[_HEADERS] = dict(reversed(scope["headers"]))
    return named


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of that (lower-case) name, decoded as Latin-1."""
    value = headers(scope).get(name)
    return None if value is None else value.decode("latin-1")


def media_type(scope: Scope, npy: bool) -> Media:
    """The body's media type; npy: whether arrays are taken. Raises UnsupportedMediaType.

    A body without a Content-Type is refused too: a web page elsewhere may send one across origins without asking,
    and JSON that says so it may not.
    """
    named = headers(scope)
    return _media(named.get(b"content-type"), named.get(b"content-encoding"), npy)


@lru_cache(64)
def _media(content_type: bytes | None, content_encoding: bytes | None, npy: bool) -> Media:
    """Remembered, as a client sends the same with every request."""
    if content_encoding is not None and content_encoding.strip().lower() != b"identity":
        encoding = content_encoding.decode("latin-1")
        raise UnsupportedMediaType(f"Content-Encoding {encoding} is not taken: send the body as it is")
    given = None if content_type is None else content_type.decode("latin-1")
    essence, _, parameters = (given or "").partition(";")
    essence = essence.strip().lower()
    if essence == JSON:
        charset = parameters.replace(" ", "").replace('"', "").lower()
        if charset not in ("", "charset=utf-8", "charset=utf8"):
            raise UnsupportedMediaType(f"JSON is taken in UTF-8 alone, not as {given}")
        return JSON
    if essence == NPY and npy:
        return NPY
    wanted = f"{JSON} or {NPY}" if npy else JSON
    got = f"not {given}" if given else "and the request has none (curl: -H 'content-type: application/json')"
    raise UnsupportedMediaType(f"Content-Type must be {wanted}, {got}")


async def read_body(scope: Scope, receive: Receive, media: Media) -> bytes | bytearray:
    """The whole body, counted while it streams. Raises TooLarge, Malformed (empty), ClientGone."""
    limit = limits.current.json_body_bytes if media == JSON else limits.current.npy_body_bytes
    length = headers(scope).get(b"content-length", b"")
    if length.isdigit() and int(length) > limit:
        raise _too_large(media, limit)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    body: bytes | bytearray = message.get("body", b"")
    if message.get("more_body", False):
        body = await _rest(bytearray(body), scope, receive, media, limit)
    if len(body) > limit:
        raise _too_large(media, limit)
    if not body:
        raise Malformed(f"the body is empty: send {media}")
    return body


async def _rest(body: bytearray, scope: Scope, receive: Receive, media: Media, limit: int) -> bytearray:
    room: Room | None = scope.get(ROOM)
    more, counted = True, 0
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if len(body) > limit:
            raise _too_large(media, limit)
        if room is not None and len(body) > SMALL_BODY_BYTES:
            room.enter(scope, len(body) - counted)
            counted = len(body)
        more = message.get("more_body", False)
    return body


def _too_large(media: Media, limit: int) -> TooLarge:
    advice = "split it into several requests"
    if media == JSON:
        advice += f", or send vectors as {NPY}, of which {limits.current.npy_body_bytes >> 20} MiB are taken"
    return TooLarge(f"the body is over the {limit >> 20} MiB that are taken as {media}: {advice}")


async def off_loop_if_large(size: int, work: Callable[[], T]) -> T:
    """Run work here where the body is small, in a thread where decoding it would hold up everybody else."""
    if size <= SMALL_BODY_BYTES:
        return work()
    return await asyncio.to_thread(work)
