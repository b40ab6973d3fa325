"""XXH3-64 of files: what notices a flipped bit. It runs at tens of GB/s, so the disk is what costs."""

import os
from pathlib import Path
from typing import Final

import numpy as np
import xxhash
from numpy.typing import NDArray

BLOCK_BYTES: Final = 1 << 20
"""The blocks of `/block_xxh3`, and what is read at once."""


class FileCut(Exception):
    """The file ends before where it should."""


def hex16(digest: int) -> str:
    """As the catalogue keeps it: SQLite's integers are signed."""
    return f"{digest:016x}"


def block_count(end: int) -> int:
    return -(-end // BLOCK_BYTES)


def hash_blocks(fd: int, end: int, whole: xxhash.xxh3_64) -> NDArray[np.uint64]:
    """xxh3 of each block of [0, end) of the file, the last one cut at `end`; all bytes also go into `whole`.

    Raises FileCut where the file is shorter.
    """
    blocks = np.empty(block_count(end), np.uint64)
    buffer = memoryview(bytearray(min(BLOCK_BYTES, max(end, 1))))
    for i in range(len(blocks)):
        start = i * BLOCK_BYTES
        block = buffer[: min(BLOCK_BYTES, end - start)]
        if _read_full(fd, block, start) != len(block):
            raise FileCut
        blocks[i] = xxhash.xxh3_64_intdigest(block)
        whole.update(block)
    return blocks


def hash_rest(fd: int, start: int, whole: xxhash.xxh3_64) -> int:
    """Feeds the bytes from `start` to the end of the file; returns where it ended."""
    buffer = memoryview(bytearray(BLOCK_BYTES))
    at = start
    while got := _read_full(fd, buffer, at):
        whole.update(buffer[:got])
        at += got
    return at


def file_xxh3(path: Path) -> tuple[int, int]:
    """Length and xxh3 of a whole file. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        whole = xxhash.xxh3_64()
        return hash_rest(fd, 0, whole), whole.intdigest()
    finally:
        os.close(fd)


def _read_full(fd: int, buffer: memoryview, at: int) -> int:
    got = 0
    while got < len(buffer):
        n = os.preadv(fd, [buffer[got:]], at + got)
        if n == 0:
            break
        got += n
    return got
