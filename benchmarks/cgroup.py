"""A memory cgroup (version 1 or 2) below this process's own, for a server that is to have only so much memory, page
cache included."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


class NoCgroup(Exception):
    """None can be made here: no memory controller, or no right to."""


class Limited:
    """`with Limited(name, bytes) as group:`; what is started `with group.entered():` stays within the limit.

    It is a child of the group that this process is in, and is taken away at the end, when nothing is in it any more.
    """

    def __init__(self, name: str, limit_bytes: int) -> None:
        home, self._v1 = _own()
        self._home, self._path, self._limit = home, home / name, limit_bytes

    def __enter__(self) -> "Limited":
        try:
            self._path.mkdir()
            self._write("memory.limit_in_bytes" if self._v1 else "memory.max", self._limit)
            if not self._v1:
                self._write("memory.swap.max", 0)
        except OSError as e:
            raise NoCgroup(str(e)) from e
        return self

    def __exit__(self, *_: object) -> None:
        self._path.rmdir()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This process and what it starts are in the group; then this process is out again."""
        self._write("cgroup.procs", os.getpid())
        try:
            yield
        finally:
            (self._home / "cgroup.procs").write_text(str(os.getpid()))

    @property
    def peak_bytes(self) -> int:
        name = "memory.max_usage_in_bytes" if self._v1 else "memory.peak"
        return int((self._path / name).read_text())

    @property
    def usage(self) -> dict[str, int]:
        """Bytes by what they are: `cache` (v1) or `file` (v2) is the page cache."""
        lines = (self._path / "memory.stat").read_text().splitlines()
        return {name: int(number) for name, _, number in (line.partition(" ") for line in lines)}

    def _write(self, name: str, value: int) -> None:
        (self._path / name).write_text(str(value))


def _own() -> tuple[Path, bool]:
    """This process's own memory cgroup, and whether it is one of version 1. Raises NoCgroup."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return ROOT / "memory" / path.lstrip("/"), True
    if not (ROOT / "cgroup.controllers").exists():
        raise NoCgroup("no memory controller")
    path = Path("/proc/self/cgroup").read_text().splitlines()[0].split(":", 2)[2]
    return ROOT / path.lstrip("/"), False


def forget_pages(folder: Path) -> None:
    """Drops the page cache of a folder's files, so that who reads them next is charged for them."""
    for file in (f for f in folder.rglob("*") if f.is_file()):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
