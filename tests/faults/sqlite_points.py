"""Failpoints inside SQLite: at every write, sync, truncation and deletion that it asks of the system.

The product's own lie around its transactions; a kill may come between any two of SQLite's own system calls too. The
shim is installed below the product's checksums, in a process that has opened no database yet.
"""

from typing import Any, Final

import apsw

from storage.failpoints import declare, hit

NAME: Final = "seedvec-failpoints"
BASE: Final = "unix"
FILES: Final = {"-wal": "wal", "-journal": "journal"}
"""By the name's end; all others are databases."""
DELETE: Final = declare("sqlite.delete")
POINTS: Final = {
    (what, file): declare(f"sqlite.{file}.{what}")
    for file, whats in {
        "db": ("write", "sync", "truncate"),
        "wal": ("write", "sync", "truncate"),
        "journal": ("write",),
    }.items()
    for what in whats
}


class _File(apsw.VFSFile):
    def __init__(self, name: Any, flags: list[int]) -> None:
        super().__init__(BASE, name, flags)
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        self._kind = next((kind for end, kind in FILES.items() if path.endswith(end)), "db")

    def _hit(self, what: str, halfwrite: Any = None) -> None:
        point = POINTS.get((what, self._kind))
        if point is not None:
            hit(point, halfwrite)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        write = super().xWrite
        self._hit("write", lambda: write(data[: len(data) // 2], offset))
        write(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._hit("sync")
        super().xSync(flags)

    def xTruncate(self, size: int) -> None:  # noqa: N802
        self._hit("truncate")
        super().xTruncate(size)


class _Shim(apsw.VFS):
    def __init__(self) -> None:
        super().__init__(NAME, BASE, makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> _File:  # noqa: N802
        return _File(name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        hit(DELETE)
        super().xDelete(filename, syncdir)


_installed: list[_Shim] = []


def install() -> None:
    """For the rest of this process. The product's checksums are laid over what is the default when they are loaded."""
    if not _installed:
        _installed.append(_Shim())
