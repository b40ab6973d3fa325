"""Dealing out connections: the supervisor accepts them and hands each to the worker with the fewest open ones.

Where workers accept for themselves, connections spread unevenly (8 kept-alive ones split 1:7 in 2 of 12 trials), and
one event loop does nearly all the work. A connection travels as a descriptor (SCM_RIGHTS) over the worker's channel,
a SOCK_SEQPACKET pair: one message, one connection. What comes back on it: `CAME` from a worker that another one forked,
`READY` once, then counts of connections that have closed. `OPEN` tells a worker that it may open the data folder,
`LEAVING` that the server is going to stop. `app/worker.py` speaks the other side. Nothing here ever blocks.
"""

import contextlib
import logging
import selectors
import socket
import struct
import time
from dataclasses import dataclass

log = logging.getLogger("seedvec.dealing")

READY = b"ready"
OPEN = b"o"
CONNECTION = b"c"
LEAVING = b"l"
CLOSED = struct.Struct("<I")
CAME = struct.Struct("<Q")
"""Its process id."""
MAX_MESSAGE = 64
BACKLOG = 2048
ACCEPTED_AT_ONCE = 64
"""Connections taken in one turn, so that signals and dead workers are seen to in between."""

LATECOMERS_S = 5.0
"""At the start accepting waits for all workers, so long at most: kept-alive connections stay where they were dealt,
and clients that wait for the server would all be the first worker's."""

PAUSE_S = 0.02
"""Wait before accepting again when every channel is full or descriptors have run out."""


@dataclass(eq=False)
class Channel:
    """One worker as the supervisor sees it: `sock` is our end of the pair."""

    name: str
    sock: socket.socket
    pid: int | None = None
    """Of a worker that another one forked; the others are known to who started them."""
    ready: bool = False
    open: int = 0
    last_dealt: int = 0
    closed: bool = False


class Dealer:
    """The listening socket and the workers' channels, on the supervisor's selector.

    Accepting is on exactly while a worker is ready and `resume_at` has passed: otherwise connections wait in the
    kernel's backlog. The first time, all workers have to be ready.
    """

    def __init__(self, listener: socket.socket, selector: selectors.BaseSelector) -> None:
        self.listener = listener
        self.selector = selector
        self.channels: list[Channel] = []
        self.resume_at: float | None = None
        self.ever_ready = False
        self.all_came = False
        """Every worker was ready once, or was waited for long enough."""
        self._recovered = False
        self._dealt = 0
        self._in_hand: socket.socket | None = None
        self._accepting = False
        self._stopped = False
        # Linux hands the option on to accepted sockets. Without it, small answers wait for the client's ACK.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setblocking(False)

    def join(self, name: str) -> tuple[Channel, socket.socket]:
        """A new worker's channel, and the end of the pair that the worker inherits (to be closed here then)."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        channel = Channel(name, ours)
        self.channels.append(channel)
        self.selector.register(ours, selectors.EVENT_READ, channel)
        if self._recovered:
            ours.send(OPEN)
        return channel, theirs

    def recovered(self) -> None:
        """Workers may open the data folder, those that wait for it and those that come later."""
        self._recovered = True
        self._tell(OPEN)

    def leave(self, channel: Channel) -> None:
        """The worker is gone: nothing more is dealt to it. What it had open, the kernel has closed."""
        if channel.closed:
            return
        channel.closed, channel.ready = True, False
        self.selector.unregister(channel.sock)
        channel.sock.close()
        self.channels.remove(channel)
        self._arrange()

    def heard(self, channel: Channel) -> None:
        """Read what the worker reports."""
        while not channel.closed:
            try:
                message = channel.sock.recv(MAX_MESSAGE)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if message == READY:
                log.info("%s is ready", channel.name)
                self._ready(channel)
            elif len(message) == CAME.size:
                channel.pid = CAME.unpack(message)[0]
            elif len(message) == CLOSED.size:
                channel.open = max(0, channel.open - CLOSED.unpack(message)[0])
            else:
                # End of file (or nothing we understand): it is dying. Its exit follows and starts another.
                self.leave(channel)

    def _ready(self, channel: Channel) -> None:
        channel.ready = True
        if not self.ever_ready:
            self.ever_ready = True
            self.resume_at = time.monotonic() + LATECOMERS_S
        if not self.all_came and all(c.ready for c in self.channels):
            self.all_came, self.resume_at = True, None
        self._arrange()

    def accept(self, now: float) -> None:
        """Accept what waits and deal it out. now: seconds on the caller's monotonic clock."""
        for _ in range(ACCEPTED_AT_ONCE):
            if self._in_hand is None:
                self._in_hand = self._take(now)
            if self._in_hand is None:
                return
            if not self._deal(self._in_hand):
                self._pause(now)  # it stays in hand: a client that was accepted is not sent away
                return
            self._in_hand.close()
            self._in_hand = None

    def _take(self, now: float) -> socket.socket | None:
        if not self._accepting:
            return None
        try:
            return self.listener.accept()[0]
        except (BlockingIOError, ConnectionError):  # none waits, or it was closed while it waited
            return None
        except OSError as error:
            log.warning("cannot accept a connection: %s; trying again", error)
            self._pause(now)
            return None

    def _deal(self, connection: socket.socket) -> bool:
        ready = [channel for channel in self.channels if channel.ready]
        # Among equals the one that has waited longest: short-lived connections would all go to the first.
        for channel in sorted(ready, key=lambda c: (c.open, c.last_dealt)):
            try:
                socket.send_fds(channel.sock, [CONNECTION], [connection.fileno()])
            except OSError:  # its channel is full, or it has just died: the next one
                continue
            channel.open += 1
            self._dealt += 1
            channel.last_dealt = self._dealt
            return True
        return False

    def announce_leaving(self) -> None:
        """Tell the workers that the server is going to stop, while they go on."""
        self._tell(LEAVING)

    def _tell(self, message: bytes) -> None:
        for channel in self.channels:
            with contextlib.suppress(OSError):  # its channel is full, or it has just died
                channel.sock.send(message)

    def stop(self) -> None:
        """Accept no more; new connections are refused by the kernel."""
        self._stopped = True
        self._arrange()
        self.listener.close()
        if self._in_hand is not None:
            self._in_hand.close()

    def _pause(self, now: float) -> None:
        self.resume_at = now + PAUSE_S
        self._arrange()

    def tick(self, now: float) -> None:
        """Accept again after a pause."""
        if self.resume_at is not None and now >= self.resume_at:
            self.resume_at, self.all_came = None, True
            self._arrange()
            self.accept(now)

    def _arrange(self) -> None:
        wanted = not self._stopped and self.resume_at is None and any(c.ready for c in self.channels)
        if wanted == self._accepting:
            return
        self._accepting = wanted
        if wanted:
            self.selector.register(self.listener, selectors.EVENT_READ, None)
        else:
            with contextlib.suppress(KeyError):
                self.selector.unregister(self.listener)
