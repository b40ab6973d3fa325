"""Routes that decode their own bodies: one path, its methods, matched on the raw path.

A FastAPI route costs more than a search does, and it sees a path that was decoded before it was split: an id with
a slash, or a newline, would not arrive. These routes live in the same application and the same OpenAPI.
"""

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from app.api.bodies import ClientGone, Media, header, media_type, read_body
from app.api.ids import check_name, decoded, path_id
from app.api.query_in import decode_query
from app.api.rights import Rights, require
from app.api.schemas import NoQuery
from app.engine.types import CollectionSettings, Engine, Id

Q = TypeVar("Q", bound=msgspec.Struct)


class Call:
    """One request to a resource: what its handler may ask for."""

    __slots__ = ("_raw_id", "_receive", "engine", "name", "scope", "started")

    def __init__(self, engine: Engine, scope: Scope, receive: Receive, name: str, raw_id: bytes) -> None:
        """raw_id: of a route that has one."""
        self.started = time.perf_counter()
        self.engine = engine
        self.scope = scope
        self.name = name
        self._receive = receive
        self._raw_id = raw_id

    def settings(self) -> CollectionSettings:
        """Raises CollectionNotFound, CollectionClosed."""
        return self.engine.settings(self.name)

    def id(self) -> Id:
        """The id at the end of the path. Raises what `path_id` raises."""
        return path_id(self._raw_id, self.settings().id_type)

    def query(self, kind: type[Q]) -> Q:
        """The query string; raises Invalid's family, naming what is wrong or not known."""
        return decode_query(self.scope["query_string"], kind)

    def no_query(self) -> None:
        if self.scope["query_string"]:
            self.query(NoQuery)

    def header(self, name: bytes) -> str | None:
        return header(self.scope, name)

    def accepts(self, media: str) -> bool:
        """Whether the client asks for this media type by its name; JSON is what it gets otherwise."""
        accept = self.header(b"accept")
        return accept is not None and media in accept.lower()

    async def body(self, npy: bool = False) -> tuple[Media, bytes | bytearray]:
        """The body and its media type; npy: whether arrays are taken. Raises as `bodies` does."""
        media = media_type(self.scope, npy)
        return media, await read_body(self.scope, self._receive, media)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes, of any type and without a bound. Raises ClientGone."""
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            if body := message.get("body", b""):
                yield body
            more = message.get("more_body", False)

    async def gone(self) -> None:
        """Returns when the client has closed the connection, or been answered. To be called once the body is read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


Handler = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of a resource, with what the OpenAPI says of it.

    body: the JSON body; npy: whether `application/x-npy` is taken too; files: it is a file of any kind; query: the
    query string (of a search and of writes: that which goes with `.npy`); example: a body that works; answer: what it
    answers, or None: nothing; answers: further media types of the answer; problems: codes of `problems.TABLE`;
    rights: what its key must have.
    """

    method: str
    name: str
    summary: str
    handler: Handler
    status: int
    answer: Any
    problems: tuple[str, ...]
    body: type[msgspec.Struct] | None = None
    examples: Mapping[str, Any] | None = None
    npy: bool = False
    files: bool = False
    query: type[msgspec.Struct] | None = None
    answers: tuple[str, ...] = ()
    description: str = ""
    tag: str = "vectors"
    rights: Rights = "write"


def raw_path(scope: Scope) -> bytes:
    """As the client wrote it, percent-encoded; of a server that does not say, encoded anew."""
    raw: bytes | None = scope.get("raw_path")
    return quote(scope["path"]).encode("ascii") if raw is None else raw


class Resource(BaseRoute):
    """A path with `{collection}` and perhaps a last `{id}`, which may hold slashes."""

    def __init__(self, engine: Engine, path: str, operations: Sequence[Operation]) -> None:
        self.engine = engine
        self.path_format = path
        self.operations = {operation.method: operation for operation in operations}
        pattern = re.escape(path).replace(r"\{collection\}", "([^/]+)").replace(r"\{id\}", "(.+)")
        self._match = re.compile(pattern.encode("ascii"), re.DOTALL).fullmatch

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http":
            return Match.NONE, {}
        found = self._match(raw_path(scope))
        if found is None:
            return Match.NONE, {}
        child: Scope = {"raw_params": found.groups(b"")}
        return (Match.FULL if scope["method"] in self.operations else Match.PARTIAL), child

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        operation = self.operations.get(scope["method"])
        if operation is None:
            raise HTTPException(status_code=405)
        scope["route"] = operation
        params = scope["raw_params"]
        try:
            call = Call(self.engine, scope, receive, _name(params[0]), params[-1])
            require(scope, operation.rights, call.name)
            response = await operation.handler(call)
        except ClientGone:
            return
        await response(scope, receive, send)


@lru_cache(1024)
def _name(raw: bytes) -> str:
    """Of a collection. Raises CollectionNotFound, Invalid."""
    # Names are ASCII; one that is percent-encoded needlessly is the same name.
    plain = decoded(raw).encode("utf-8", "replace") if b"%" in raw else raw
    return check_name(plain.decode("latin-1"))
