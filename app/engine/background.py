"""What the sealer and the builder share: following the registry, and one publisher a collection."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from storage import catalogue, errors
from storage.database import Database
from storage.layout import WRITE_LOCK_NAME
from storage.publish import Publisher
from storage.registry import Registry
from storage.turns import Turns

log = logging.getLogger(__name__)
NICENESS = 10


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
        if self._version != self._brought_home:
            self._brought_home = self._version
            self._registry.checkpoint()


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


def be_nice() -> None:
    """Searches come first."""
    os.nice(NICENESS)
