"""The connections of one worker: uvicorn's HTTP protocol, with bounds on how long a client may take and how many come.

A client that is slow costs nothing but its connection: a look at all of them every second finds those that have
exceeded a bound. So no request pays for a timer of its own.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, Literal

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app.api.problems import MEDIA_TYPE, TABLE, plain_problem
from app.api.request_ids import new_request_id
from app.api.whole import WHOLE, Headers
from app.one_write import OneWrite

LOOK_S = 1.0
BODY_RATE = 1024
"""Bytes a second that a body has to come in at, once `body_s` is over: 64 MiB may take 18 hours, and nobody's drip
keeps a connection for longer than its bytes are worth."""
HEAD_BYTES = 64 << 10
PIPELINED = 64
"""Requests that a client may send on one connection before it has read the answers to those before them."""
RESERVE = 256
"""Connections beyond the bound that are still served, for probes alone."""
GIVE_WAY = 64
"""Idle connections closed at once when the bound is reached: looking for them costs a look at all."""

SMALL = 1 << 16
"""Bytes of a body that are copied behind the head; larger ones take longer to copy than a second system call."""

Phase = Literal["new", "idle", "head", "body", "answer", "unread"]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a client may take, in seconds; connections: how many a worker serves at once."""

    header_s: float
    body_s: float
    keep_alive_s: float
    connections: int


class TooManyPipelined(Exception):
    """A client sends on and on, and waits for no answer."""


class DealtProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol that tells when its connection has begun and ended, and refuses in our words."""

    def __init__(self, made: Callable[[], None], lost: Callable[[], None], **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._made = made
        self._lost = lost
        self.came = 0
        """Bytes of bodies so far."""
        self._head = 0
        """Bytes of a head that is not complete."""
        self._out: OneWrite
        self.phase: Phase = "new"
        self.since = time.monotonic()
        """When the phase was first seen (`look`)."""
        self._mark: tuple[object, int] = (None, 0)

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before or (before is not None and (before.more_body or not before.response_complete)):
            self._head = 0
            return
        # No request has begun: all of it was head, of which the parser bounds nothing.
        self._head += len(data)
        if self._head > HEAD_BYTES and not self.transport.is_closing():
            self.refuse("head-too-large")

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= PIPELINED:
            # Each would take kilobytes while it waits, and a connection brings thousands at once.
            raise TooManyPipelined  # uvicorn refuses it as no HTTP
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        self.came += len(body)
        super().on_body(body)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        self._out = OneWrite(transport)
        super().connection_made(self._out)  # type: ignore[arg-type]  # all of a transport that uvicorn uses
        self._made()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        cycle.scope[WHOLE] = partial(write_whole, cycle)  # type: ignore[typeddict-unknown-key]
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        self._out.flush()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._lost()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is refused as everything else is; uvicorn answers plain text. msg: its words, not ours."""
        self.refuse("malformed-request")

    def refuse(self, code: str) -> None:
        """Answer with a problem and close: no application sees the request, or sees that its client is gone."""
        instance, status = new_request_id(), TABLE[code].status
        body = plain_problem(code, instance)
        head = f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nx-request-id: {instance}\r\n"
        line = f"HTTP/1.1 {status} {_PHRASES[status]}\r\nconnection: close\r\n"
        self.transport.write((line + head + "\r\n").encode("ascii") + body)
        self.transport.close()

    def phase_now(self) -> Phase:
        """From what uvicorn knows: nothing is kept for it while requests are answered."""
        if self.cycle is not None and not self.cycle.response_complete:
            if self.transport.get_write_buffer_size():
                return "unread"
            return "body" if self.cycle.more_body and not self.flow.read_paused else "answer"
        if self.transport.get_write_buffer_size():
            return "unread"
        if self.headers is None:
            return "new"
        # uvicorn's own timer runs from the end of an answer to the first byte of the next request.
        return "idle" if self.timeout_keep_alive_task is not None else "head"

    def look(self, now: float, patience: Patience) -> None:
        """Once a second. Ends what has taken too long."""
        phase = self.phase_now()
        mark = (self.cycle, self.transport.get_write_buffer_size() if phase == "unread" else 0)
        if phase != self.phase or mark != self._mark:
            self.phase, self._mark, self.since = phase, mark, now
            self.came = 0 if phase == "body" else self.came
            return
        lasted, overdue = now - self.since, self._patience(patience)
        if lasted <= overdue or (phase == "body" and self.came >= BODY_RATE * lasted):
            return
        if phase in ("head", "body"):
            self._time_out()
        elif phase == "unread":
            self.transport.abort()  # closing would wait for the client to read
        else:
            self.transport.close()

    def _patience(self, patience: Patience) -> float:
        if self.phase == "head":
            return patience.header_s
        if self.phase in ("body", "unread"):
            return patience.body_s
        # Of idle connections uvicorn closes most by itself; an answer may take as long as it takes.
        return inf if self.phase == "answer" else patience.keep_alive_s + LOOK_S

    def _time_out(self) -> None:
        cycle = self.cycle
        if cycle is not None and cycle.response_started and (not cycle.response_complete or cycle.more_body):
            self.transport.abort()  # an answer is out, or half of one: what goes on coming is the body it refused
        else:
            self.refuse("request-timeout")

    def idle_since(self) -> float | None:
        """When it was first seen idle; None where a request is under way."""
        return self.since if self.phase_now() in ("new", "idle") else None


_PHRASES = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}


def make_room(connections: Iterable[DealtProtocol]) -> None:
    """Close those that are idle longest. They do not count as open any more, though it takes a turn to close them."""
    idle = [(since, id(c), c) for c in connections if (since := c.idle_since()) is not None]
    for _, _, connection in sorted(idle)[:GIVE_WAY]:
        connection.connections.discard(connection)
        connection.transport.close()


def write_whole(cycle: RequestResponseCycle, status: int, headers: Headers, body: bytes) -> bool:
    """A whole answer to uvicorn's request, as its `send` would write it, past its look at every header: these are ours,
    and well formed. False: it has to wait for the client to read, or is none of the common kind: `send` knows what to
    do."""
    if cycle.flow.write_paused or cycle.disconnected or cycle.response_started or len(body) > SMALL:
        return False
    if cycle.scope["method"] == "HEAD":
        return False
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    lines = [b"%b: %b\r\n" % header for header in (*cycle.default_headers, *headers)]
    if not cycle.keep_alive:
        lines.append(b"connection: close\r\n")
    cycle.transport.write(b"".join((STATUS_LINE[status], *lines, b"\r\n", body)))
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True
