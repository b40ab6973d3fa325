"""DATA/ballast: room kept back for what frees room. On a full disk even a DELETE has to write before it can free.

Its whole size stands for "there is room". Whoever must write in order to free, and cannot, cuts it to nothing
(`give_up`); as long as it is empty, whatever would only add is refused, so that the room goes to deletes and drops
alone. The sealer fills it again (`restore`) once there is room for it twice. Where there is no such file (a folder
without a server, or a ballast of 0 bytes) nothing is kept back and nothing refused.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from storage.errors import FULL
from storage.failpoints import declare, hit
from storage.layout import DataFolder

START_BYTES: Final = 2 << 20
"""A start needs some room, for the shared-memory files of SQLite (32 KiB a collection) and for what it records."""
GIVE_UP: Final = declare("ballast.give_up")
RESTORE: Final = declare("ballast.restore")


class Ballast:
    """Of one data folder. All of it may be called from any thread and process."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._path = DataFolder(root).ballast

    def given_up(self) -> bool:
        """Then only what frees room may be written. A microsecond."""
        try:
            return os.stat(self._path).st_size == 0
        except OSError:
            return False

    def give_up(self) -> bool:
        """Frees its room. False: there was none to free, and to try the write again is of no use."""
        try:
            if os.stat(self._path).st_size == 0:
                return False
            hit(GIVE_UP)
            os.truncate(self._path, 0)
        except OSError:
            return False
        return True

    def restore(self, size: int) -> bool:
        """Makes it of `size` bytes (0: takes it away) where there is room for it twice; else leaves it given up.

        True: it is as it should be. Raises OSError where the folder cannot be written at all.
        """
        if size == 0:
            self._path.unlink(missing_ok=True)
            return True
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if os.fstat(fd).st_size == size:
                return True
            os.ftruncate(fd, 0)
            if self._free() < 2 * size:
                return False
            hit(RESTORE)
            os.posix_fallocate(fd, 0, size)
        except OSError as e:
            with suppress(OSError):
                os.ftruncate(fd, 0)
            if e.errno in FULL:
                return False
            raise
        finally:
            os.close(fd)
        return True

    def room_for_a_start(self) -> None:
        """Gives it up where a start might lack room."""
        if self._free() < START_BYTES:
            self.give_up()

    def _free(self) -> int:
        """Bytes."""
        room = os.statvfs(self._root)
        return room.f_bavail * room.f_frsize
