"""Files that appear whole or not at all: temporary → fsync → rename → fsync of the folder.

Nothing counts until a catalogue transaction names it, so a crash anywhere in here leaves at most a file that
`sweep` takes away at the next start.
"""

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Final

from storage import syncs
from storage.failpoints import declare, hit

TMP_SUFFIX: Final = ".tmp"
KINDS: Final = ("segment", "index", "columns")
"""What is published: the first part of the failpoints' names."""

_FSYNC: Final = {kind: declare(f"{kind}.fsync") for kind in KINDS}
_RENAME: Final = {kind: declare(f"{kind}.rename") for kind in KINDS}
_FSYNC_DIR: Final = {kind: declare(f"{kind}.fsync_dir") for kind in KINDS}
_PUBLISHED: Final = {kind: declare(f"{kind}.published") for kind in KINDS}
UNLINK: Final = declare("file.unlink")
SWEEP: Final = declare("sweep.unlink")
SWEEP_FSYNC: Final = declare("sweep.fsync_dir")


def temporary(final: Path) -> Path:
    """Where the bytes of `final` are written before it exists: the same folder, so that the rename is atomic."""
    return final.with_name(final.name + TMP_SUFFIX)


def publish(tmp: Path, final: Path, kind: str) -> None:
    """Makes the finished file `tmp` appear as `final`, on disk when it returns. kind: one of KINDS.

    Where anything fails (OSError) neither file is left: after a failed fsync the kernel may have dropped the pages,
    so the bytes must not be trusted, not even by trying again.
    """
    try:
        hit(_FSYNC[kind])
        fsync_file(tmp)
        hit(_RENAME[kind])
        os.rename(tmp, final)
        hit(_FSYNC_DIR[kind])
        fsync_dir(final.parent)
    except BaseException:
        remove(tmp)
        remove(final)
        raise
    hit(_PUBLISHED[kind])


def fsync_file(path: Path) -> None:
    _fsync(path, os.O_RDONLY, "file")


def fsync_dir(folder: Path) -> None:
    """Makes names that were added to or taken from the folder last through a power cut."""
    _fsync(folder, os.O_RDONLY | os.O_DIRECTORY, "folder")


def _fsync(path: Path, flags: int, of: syncs.Of) -> None:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        with syncs.timed(of):
            os.fsync(fd)
    finally:
        os.close(fd)


def remove(path: Path) -> bool:
    """Unlinks if it is there. Not synced: a file that comes back is swept, for nothing names it."""
    hit(UNLINK)
    return _unlink(path)


def _unlink(path: Path) -> bool:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def remove_all(paths: Collection[Path]) -> None:
    """Unlinks what can be unlinked; what cannot is left to the sweep at the next start."""
    for path in paths:
        with suppress(OSError):
            hit(UNLINK)
            os.unlink(path)


def sweep(folder: Path, named: Collection[str]) -> list[str]:
    """Unlinks every file of the folder that `named` does not hold; returns their names, sorted.

    Only for a folder that nobody writes to (at start, under DATA/LOCK): a file being written is in no catalogue yet.
    Subfolders are left alone.
    """
    keep = frozenset(named)
    with os.scandir(folder) as entries:
        strays = sorted(e.name for e in entries if e.name not in keep and not e.is_dir(follow_symlinks=False))
    for name in strays:
        hit(SWEEP)
        _unlink(folder / name)
    if strays:
        hit(SWEEP_FSYNC)
        fsync_dir(folder)
    return strays
