"""Who has an import or export in hand: a lock on its folder in `DATA/staging`."""

import fcntl
import os
from pathlib import Path


def hold(staging: Path) -> int:
    """A lock on the folder that lasts until the last process has closed this descriptor, which a child may inherit: who
    finds it free knows that the import is nobody's any more. Raises BlockingIOError: somebody has it."""
    fd = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(fd)
        raise
    return fd


def is_held(staging: Path) -> bool:
    try:
        os.close(hold(staging))
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False
