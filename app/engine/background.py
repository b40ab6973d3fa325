"""What the sealer and the builder share: following the registry, and one publisher a collection."""

import logging
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from types import FrameType
from typing import Protocol

from app.engine.seldom import Seldom
from app.engine.verifying import ADVICE
from storage import catalogue, errors
from storage.ballast import Ballast
from storage.database import Database
from storage.layout import WRITE_LOCK_NAME
from storage.publish import Publisher
from storage.registry import Registry
from storage.turns import Turns

log = logging.getLogger(__name__)
RETRY_S = 1.0
TELL_AGAIN_S = 60.0


class Worked:
    """One open collection of a background process. Belongs to its main thread."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        with ExitStack() as opened:  # where the disk fails half way, nothing is left open: it is tried again
            self.db: Database = opened.enter_context(closing(catalogue.connect(folder)))
            self.turns = opened.enter_context(closing(Turns(folder / WRITE_LOCK_NAME)))
            self.reader: Database = opened.enter_context(closing(catalogue.connect(folder)))
            """Its `data_version` moves with this process's own commits too."""
            opened.pop_all()
        self.publisher = Publisher(self.db, self.turns)

    def close(self) -> None:
        self.db.close()
        self.reader.close()
        self.turns.close()


class Watched:
    """The open collections of a data folder, followed as they come and go."""

    def __init__(self, data: Path) -> None:
        self._registry = Registry(data)
        self._open: dict[str, Worked] = {}
        self._version = -1
        self._brought_home = -1
        self._checkpoint_at = 0.0
        self._complete = True
        self._try_again_at = 0.0

    def collections(self) -> list[Worked]:
        """Raises StorageError where the registry cannot be read."""
        version = self._registry.data_version()
        if version != self._version or (not self._complete and time.monotonic() >= self._try_again_at):
            self._complete = self._follow()
            self._try_again_at = time.monotonic() + RETRY_S
            self._version = version
        return list(self._open.values())

    def _follow(self) -> bool:
        """False: one could not be opened, and may be later."""
        complete = True
        registered = {r.uuid: r for r in self._registry.read() if r.reason is None}
        for uuid in [u for u in self._open if u not in registered]:
            self._open.pop(uuid).close()
        for uuid, entry in registered.items():
            if uuid in self._open:
                continue
            try:
                self._open[uuid] = Worked(entry.name, self._registry.folder(uuid))
            except (errors.StorageError, OSError) as e:
                log.warning("collection %s: %s", entry.name, e)
                complete = False
        return complete

    def shut(self, c: Worked, why: errors.Damaged) -> None:
        """Closes it for every process, until the next start has looked at it."""
        log.error("collection %s is closed: %s", c.name, why)
        try:
            self._registry.set_reason(c.folder.name, f"{why}; {ADVICE}")
        except errors.StorageError as e:
            log.error("the registry cannot be written, trying again: %s", e)

    def checkpoint_registry(self) -> None:
        """Brings home what was committed since the last time. For the sealer alone: two at once disturb each other."""
        if self._version == self._brought_home or time.monotonic() < self._checkpoint_at:
            return
        version = self._version
        try:
            self._registry.checkpoint()
        except (errors.StorageError, OSError) as e:
            log.error("the registry's log is not brought home: %s", e)
            self._checkpoint_at = time.monotonic() + RETRY_S
        else:
            self._brought_home = version


class Refill:
    """The ballast, filled again once there is room. For the sealer alone."""

    def __init__(self, data: Path, size: int) -> None:
        self._ballast = Ballast(data)
        self._size = size
        self._look_at = 0.0

    def look(self) -> None:
        now = time.monotonic()
        if now < self._look_at or not self._ballast.given_up():
            return
        self._look_at = now + RETRY_S
        try:
            if self._ballast.restore(self._size):
                log.info("there is room on the disk again: everything is written")
        except OSError as e:
            log.error("the ballast cannot be made: %s", e)


class Works(Protocol):
    """What a background process does to one collection."""

    def step(self) -> bool:
        """Does what is due. True: it did something, and there may be more."""
        ...


class Stop:
    """Set by SIGTERM: a background process ends between two jobs, or at the next progress report of one."""

    def __init__(self) -> None:
        self._event = threading.Event()
        signal.signal(signal.SIGTERM, self._set)

    def _set(self, number: int, frame: FrameType | None) -> None:
        self._event.set()

    def __bool__(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        return self._event.wait(seconds)


def work(
    watched: Watched, make: Callable[[Worked], Works], stop: Stop, poll_s: float, each_round: Callable[[], None]
) -> None:
    """One step after the other, collection by collection, until stopped. One that fails does not hold up the others.

    poll_s: between two rounds in which nothing was due.
    """
    works: dict[Worked, Works] = {}
    resume: dict[Worked, float] = {}
    told: dict[Worked, Seldom] = {}
    while not stop:
        busy = False
        try:
            here = watched.collections()
        except errors.StorageError as e:
            log.error("the registry cannot be read, trying again: %s", e)
            stop.wait(RETRY_S)
            continue
        works = {c: works.get(c) or make(c) for c in here}
        resume = {c: at for c, at in resume.items() if c in works}
        told = {c: seldom for c, seldom in told.items() if c in works}
        for c in here:
            if stop or time.monotonic() < resume.get(c, 0.0):
                continue
            try:
                busy |= works[c].step()
            except errors.Dropped:
                continue
            except errors.Damaged as e:
                watched.shut(c, e)
                resume[c] = time.monotonic() + RETRY_S
            except (errors.StorageError, OSError) as e:
                # A full disk, most often: writes are refused meanwhile, and it goes on when there is room again.
                if told.setdefault(c, Seldom(TELL_AGAIN_S)).due():
                    log.error("collection %s: background work failed, trying again: %s", c.name, e)
                resume[c] = time.monotonic() + RETRY_S
        each_round()
        if not busy:
            stop.wait(poll_s)
