"""Writers take turns: one kernel lock a collection, taken before SQLite's own.

SQLite's polling starved a writer for up to 1.6 s (4 writers); in front of it an flock brought the worst to 0.24 s.
Each writing thread opens the lock file itself: a descriptor of its own excludes the others of its process too.

The kernel's lock alone is not fair: who gives it back can take it again before those who wait have woken (4 writers:
255 of 320 turns went to one of them). So there is a gate in front of it, which one waiter at a time holds: who comes
back finds it taken, and queues. The gate is a lock on the collection's folder, so that no more files are needed.
"""

import fcntl
import os
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import xxhash

from storage.catalogue import State
from storage.remembered import remember

CLIENT_TURN_BYTES = 4 << 20
CLIENT_TURN_S = 0.010


class Turns:
    def __init__(self, path: Path) -> None:
        self._gate = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except BaseException:
            os.close(self._gate)
            raise
        # Requests under way keep a dropped collection, so that nobody can say when to close it: the last one does.
        self._close = weakref.finalize(self, _close, self._fd, self._gate)

    @contextmanager
    def turn(self) -> Iterator[None]:
        fcntl.flock(self._gate, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
        finally:
            fcntl.flock(self._gate, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    @contextmanager
    def background_turn(self) -> Iterator[None]:
        """A turn that afterwards leaves the lock alone for as long as it held it."""
        with self.turn():
            begun = time.monotonic()
            yield
        time.sleep(min(time.monotonic() - begun, 1.0))

    def hold(self, key: str) -> None:
        """Waits until no other process holds that key, and holds it until this is closed, or the process is gone: a
        lock on one byte of the file's range, which is no part of its content."""
        fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, xxhash.xxh3_64_intdigest(key.encode()) >> 1)

    def remember(self, state: State) -> None:
        """Within a turn, after its transaction: see `storage/remembered.py`."""
        remember(self._fd, state)

    def close(self) -> None:
        self._close()


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
