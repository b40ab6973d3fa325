"""What the sealer and the builder share: following the registry, and one publisher a collection."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Protocol

from storage import catalogue, errors
from storage.database import Database
from storage.layout import WRITE_LOCK_NAME
from storage.publish import Publisher
from storage.registry import Registry
from storage.turns import Turns

log = logging.getLogger(__name__)
NICENESS = 10
RETRY_S = 1.0


class Worked:
    """One open collection of a background process. Belongs to its main thread."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.db: Database = catalogue.connect(folder)
        self.turns = Turns(folder / WRITE_LOCK_NAME)
        self.publisher = Publisher(self.db, self.turns)
        self.reader: Database = catalogue.connect(folder)
        """Its `data_version` moves with this process's own commits too."""

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

    def collections(self) -> Iterator[Worked]:
        version = self._registry.data_version()
        if version != self._version:
            self._follow()
            self._version = version
        yield from list(self._open.values())

    def _follow(self) -> None:
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

    def checkpoint_registry(self) -> None:
        """Brings home what was committed since the last time. For the sealer alone: two at once disturb each other."""
        if self._version == self._brought_home:
            return
        self._brought_home = self._version
        try:
            self._registry.checkpoint()
        except (errors.StorageError, OSError) as e:
            log.error("the registry's log is not brought home: %s", e)


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
    while not stop:
        busy = False
        here = list(watched.collections())
        works = {c: works.get(c) or make(c) for c in here}
        resume = {c: at for c, at in resume.items() if c in works}
        for c in here:
            if stop or time.monotonic() < resume.get(c, 0.0):
                continue
            try:
                busy |= works[c].step()
            except errors.Dropped:
                continue
            except (errors.StorageError, OSError) as e:
                # A full disk, most often: writes are refused meanwhile, and it goes on when there is room again.
                log.error("collection %s: background work failed, trying again: %s", c.name, e)
                resume[c] = time.monotonic() + RETRY_S
        each_round()
        if not busy:
            stop.wait(poll_s)


def be_nice() -> None:
    """Searches come first."""
    os.nice(NICENESS)
