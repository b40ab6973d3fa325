"""The page cache emptied, for what is measured on a machine that has just started."""

import os
from pathlib import Path

DROP = Path("/proc/sys/vm/drop_caches")
EVERYTHING = b"3\n"


def forget(folder: Path) -> None:
    """Nothing of these files is in the page cache afterwards. Mapped pages stay, so nobody may have them open."""
    for path in (p for p in folder.rglob("*") if p.is_file()):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)  # what is not on the disk yet is not dropped
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def forget_everything() -> bool:
    """Nothing of any file is cached afterwards, libraries and folders included. False where we may not do that."""
    os.sync()
    try:
        DROP.write_bytes(EVERYTHING)
    except PermissionError:
        return False
    return True
