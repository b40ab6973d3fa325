"""The writing side of one collection in one worker: waiting writers share one transaction and one fsync.

On a full disk what frees room comes first: the ballast is given up for it, and while that is gone nothing else is
taken.
"""

import asyncio
import collections
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from app.engine.errors import Busy
from app.metrics.ours import COMMIT_WRITES, WRITE_QUEUE
from storage import catalogue
from storage.ballast import Ballast
from storage.database import Database
from storage.errors import DiskFailed, Dropped, NoSpace
from storage.layout import WRITE_LOCK_NAME
from storage.turns import CLIENT_TURN_BYTES, CLIENT_TURN_S, Turns
from storage.writes import Turn

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Waiting:
    act: Callable[[Turn], Any]
    bytes: int
    frees: bool
    done: "asyncio.Future[Any]"
    result: Any = None
    error: BaseException | None = None
    again: bool = False
    """Its second turn: the first found no room."""


class Writer:
    """`run` is called on the event loop; one thread of the pool at a time drains the queue."""

    def __init__(
        self, folder: Path, pool: Executor, pending_rows: int, pending_bytes: int, most_waiting: float = math.inf
    ) -> None:
        """most_waiting: writes beyond those in the present turn."""
        self._most = most_waiting
        self._folder = folder
        self._pool = pool
        self._ballast = Ballast(folder.parent.parent)  # DATA/c/<uuid>
        self._limits = (pending_rows, pending_bytes)
        self._queue: collections.deque[Waiting] = collections.deque()
        self._lock = threading.Lock()
        self._draining = False
        self._full = False
        """In this turn only what frees room is taken."""
        self._db: Database | None = None
        self._turns: Turns | None = None

    async def run(self, act: Callable[[Turn], T], size: int = 0, *, frees: bool = False) -> T:
        """Runs `act` in a write transaction; returns its result once it is on disk. `act` may be run again.

        size: bytes it writes, about; frees: in the end it makes room. Raises what `act` raises (its own changes are
        undone, others' are not), Busy, and NoSpace, DiskFailed, Locked, OutcomeUnknown, Dropped of `storage.errors`.
        """
        loop = asyncio.get_running_loop()
        if len(self._queue) >= self._most:
            raise Busy(f"{len(self._queue)} writes wait in this worker: nothing of this one was stored")
        waiting = Waiting(act, size, frees, loop.create_future())
        with self._lock:
            self._queue.append(waiting)
            start = not self._draining
            self._draining = True
        if start:
            self._pool.submit(self._drain, loop)
        with WRITE_QUEUE.held():
            result: T = await waiting.done
        return result

    def _drain(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._draining = False
                    return
            batch: list[Waiting] = []
            try:
                self._turn(batch)
            except NoSpace as e:
                batch = self._make_room(batch, e)
            except BaseException as e:
                # The whole turn failed: all that was in it share its fate, even those whose own part went well.
                for waiting in batch:
                    waiting.error = waiting.error or e
            loop.call_soon_threadsafe(_settle, batch)

    def _make_room(self, batch: list[Waiting], e: NoSpace) -> list[Waiting]:
        """Who is refused. The others, which free room, are first in the queue again, now that there is some."""
        again = [w for w in batch if w.frees and w.error is None and not w.again]
        if again:
            self._ballast.give_up()
        if not self._ballast.given_up():  # by us, or by another worker a moment ago
            again = []
        for waiting in again:
            waiting.again = True
        self._queue.extendleft(reversed(again))
        refused = [w for w in batch if w not in again]
        for waiting in refused:
            waiting.error = waiting.error or e
        return refused

    def _turn(self, batch: list[Waiting]) -> None:
        """One transaction with as many waiting requests as fit a turn. They are in `batch` from when they are taken."""
        batch.append(self._queue.popleft())
        db, turns = self._opened()
        with turns.turn():
            with db.writing():
                turn = self._act_on_all(db, batch)
            turns.remember(turn.state)
        COMMIT_WRITES.observe(len(batch))

    def _act_on_all(self, db: Database, batch: list[Waiting]) -> Turn:
        ends = time.monotonic() + CLIENT_TURN_S
        turn = Turn(db, *self._limits)
        self._full = self._ballast.given_up()
        taken = batch[0].bytes
        self._act(turn, batch[0])
        while self._queue and taken < CLIENT_TURN_BYTES and time.monotonic() < ends:
            if taken + self._queue[0].bytes > CLIENT_TURN_BYTES:
                break
            batch.append(self._queue.popleft())
            taken += batch[-1].bytes
            self._act(turn, batch[-1])
        turn.finish()
        return turn

    def _opened(self) -> tuple[Database, Turns]:
        if self._db is None or self._turns is None:
            db = catalogue.connect(self._folder)
            try:
                self._turns = Turns(self._folder / WRITE_LOCK_NAME)
            except OSError as e:
                db.close()
                if not self._folder.exists():
                    raise Dropped(str(self._folder)) from e
                raise
            self._db = db
        return self._db, self._turns

    def _act(self, turn: Turn, waiting: Waiting) -> None:
        if self._full and not waiting.frees:
            waiting.error = NoSpace("the ballast is given up")
            return
        try:
            with turn.request():
                waiting.result = waiting.act(turn)
        except Exception as e:
            if isinstance(e, NoSpace | DiskFailed) or not turn.db.connection.in_transaction:
                raise  # SQLite gives the whole transaction up: nobody's part of it is there
            waiting.error = e

    def close(self) -> None:
        """Once nothing is queued any more."""
        if self._db is not None:
            self._db.close()
        if self._turns is not None:
            self._turns.close()


def _settle(batch: list[Waiting]) -> None:
    for waiting in batch:
        if waiting.done.done():
            continue  # the request went away; its write stays
        if waiting.error is not None:
            waiting.done.set_exception(waiting.error)
        else:
            waiting.done.set_result(waiting.result)
