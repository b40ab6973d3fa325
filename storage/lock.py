"""DATA/LOCK: one server owns a data folder.

The lock is the kernel's (flock) on an open descriptor, so it ends with the last process that holds that descriptor
and never lies after a crash. The text in the file is for people; nothing is decided by it.
"""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from storage.failpoints import declare, hit
from storage.layout import DataFolder

RETRY_S: Final = 0.3
"""How long taking the lock is tried again: `holder` holds it shared for microseconds."""
MAX_TEXT_BYTES: Final = 4096
DESCRIBE: Final = declare("lock.describe")


@dataclass(frozen=True, slots=True)
class Holder:
    """Who wrote the text of a lock that is held. Empty where the text could not be read."""

    pid: int | None
    host: str
    address: str

    def __str__(self) -> str:
        if self.pid is None:
            return "a process that left no name"
        here = self.host == socket.gethostname()
        gone = here and not Path("/proc", str(self.pid)).exists() and Path("/proc/self").exists()
        text = f"process {self.pid} on {self.host}" + (f", serving {self.address}" if self.address else "")
        return text + (" (it is gone, but a child of it still holds the lock)" if gone else "")


class LockHeld(Exception):
    """Another server owns the data folder. `holder` says who."""

    def __init__(self, root: Path, holder: Holder) -> None:
        super().__init__(f"{root} is in use by {holder}")
        self.holder = holder


class DataLock:
    """The lock, held. `fd` is inheritable: pass it to every child (`pass_fds`), and the lock outlives its parent
    until the last of them is gone."""

    def __init__(self, root: Path, fd: int) -> None:
        self.root = root
        self.fd = fd

    def describe(self, address: str) -> None:
        """Writes who holds the lock and where it serves. On a full disk nobody is named; the lock is as good."""
        text = f"pid {os.getpid()}\nhost {socket.gethostname()}\naddress {address}\n".encode()
        with suppress(OSError):
            hit(DESCRIBE, lambda: os.pwrite(self.fd, text[: len(text) // 2], 0))
            os.ftruncate(self.fd, os.pwrite(self.fd, text[:MAX_TEXT_BYTES], 0))

    def release(self) -> None:
        """Closes this process's descriptor. The file stays: unlinking it would let two servers lock two inodes."""
        os.close(self.fd)


def acquire(root: Path, address: str = "") -> DataLock:
    """Takes the lock of an existing data folder, or raises LockHeld; OSError where the folder cannot be written."""
    path = DataFolder(root).lock
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if not _try_lock(fd, fcntl.LOCK_EX, RETRY_S):
            raise LockHeld(root, _read(fd))
        os.set_inheritable(fd, True)
        lock = DataLock(root, fd)
        lock.describe(address)
    except BaseException:
        os.close(fd)
        raise
    return lock


def holder(root: Path) -> Holder | None:
    """Who holds the lock now; None where nobody does, whatever the text says."""
    try:
        fd = os.open(DataFolder(root).lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with _closing(fd):
        # Shared, so that two who look do not take each other for a server.
        return None if _try_lock(fd, fcntl.LOCK_SH, 0.0) else _read(fd)


def _try_lock(fd: int, how: int, for_s: float) -> bool:
    until = time.monotonic() + for_s
    while True:
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.02)


def _read(fd: int) -> Holder:
    text = os.pread(fd, MAX_TEXT_BYTES, 0).decode("utf-8", "replace")
    fields = dict(line.split(" ", 1) for line in text.splitlines() if " " in line)
    text_pid = fields.get("pid", "")
    pid = int(text_pid) if text_pid.isascii() and text_pid.isdigit() else None
    return Holder(pid, fields.get("host", ""), fields.get("address", ""))


@contextmanager
def _closing(fd: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(fd)
