"""The folders below DATA/snapshots: made under a name that counts for nothing, put in place, swept.

A folder counts only when the registry names it. Like a collection's it bears a generated name.
"""

import errno
import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Final

from storage.atomic import TMP_SUFFIX, fsync_dir, fsync_file
from storage.failpoints import declare, hit
from storage.layout import DataFolder

FOLDER: Final = declare("snapshot.folder")
LINK: Final = declare("snapshot.link")
RENAME: Final = declare("snapshot.rename")
RENAMED_FSYNC: Final = declare("snapshot.renamed_fsync")
UNLINK: Final = declare("snapshot.unlink")
NO_LINKS: Final = frozenset({errno.EPERM, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS})
"""What file systems say that have no hard links, or not there, or no more of them."""


def make_stage(data: Path) -> Path:
    """An empty folder of its own, on the same file system as the collections."""
    snapshots = DataFolder(data).snapshots
    hit(FOLDER)
    if not snapshots.is_dir():
        snapshots.mkdir(exist_ok=True)
        fsync_dir(data)
    stage = snapshots / f"{uuid.uuid4().hex}{TMP_SUFFIX}"
    stage.mkdir()
    return stage


def put_in_place(stage: Path) -> Path:
    """All of it is on the disk: it gets the name that the registry will know. Raises OSError; then nothing is left."""
    final = stage.with_name(stage.name.removesuffix(TMP_SUFFIX))
    try:
        hit(RENAME)
        os.rename(stage, final)
        hit(RENAMED_FSYNC)
        fsync_dir(final.parent)
    except BaseException:
        take_away(stage)
        take_away(final)
        raise
    return final


def link(source: Path, target: Path) -> None:
    """Another name for a file that never changes; a copy where the file system has no such thing. Raises OSError."""
    hit(LINK)
    try:
        os.link(source, target)
    except OSError as e:
        if e.errno not in NO_LINKS:
            raise
        shutil.copyfile(source, target)
        fsync_file(target)


def take_away(folder: Path) -> None:
    """Unlinks what nothing names. What is left of it is swept at the next start."""
    with suppress(OSError):
        hit(UNLINK)
        shutil.rmtree(folder, ignore_errors=True)


def discard(folder: Path) -> None:
    """As `take_away`, of one that still bears a snapshot's name: half of it must not look like one."""
    going = folder.with_name(folder.name + TMP_SUFFIX)
    with suppress(OSError):
        folder.rename(going)
    take_away(going)
