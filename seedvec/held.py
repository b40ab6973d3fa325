"""A file kept open for as long as it is read, by this process and by those it hands it to.

What a merge or a drop unlinks stays whole for whoever has it open, and the kernel gives its room back with the last of
them: so a snapshot needs no lease on the disk, nothing to sweep after a crash, and no right to write to the folder.
Another process gets the file through /proc, by the number it has here: also one that has no name any more.
"""

import os
import weakref
from pathlib import Path
from typing import Any

from seedvec.errors import Gone


class HeldFile:
    """Open for reading until the last reference goes. It can be pickled; it then is opened from the process that
    pickled it, which must be alive and still hold it. Raises Gone where it does not."""

    def __init__(self, fd: int) -> None:
        """fd: taken over."""
        self._fd = fd
        self._closer = weakref.finalize(self, os.close, fd)

    @property
    def path(self) -> Path:
        """Opens the same file again, whatever has become of its name."""
        return Path(f"/proc/self/fd/{self._fd}")

    @property
    def bytes(self) -> int:
        return os.fstat(self._fd).st_size

    def __getstate__(self) -> dict[str, Any]:
        found = os.fstat(self._fd)
        return {"path": f"/proc/{os.getpid()}/fd/{self._fd}", "inode": (found.st_dev, found.st_ino)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        gone = Gone("the process that opened this collection has ended or closed it: open it again")
        try:
            fd = os.open(state["path"], os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as e:
            raise gone from e
        self.__init__(fd)  # type: ignore[misc]
        found = os.fstat(fd)
        if (found.st_dev, found.st_ino) != state["inode"]:
            raise gone  # numbers of processes and of descriptors are given again


def hold(path: Path) -> HeldFile:
    """Raises OSError."""
    return HeldFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
