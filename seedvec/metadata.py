"""The metadata of a snapshot's rows as it stood when it was opened, in files without a name: mapped, never in memory.

What is kept of it is bounded by the page cache, which every process that reads the snapshot shares.
"""

import mmap
import os
import sqlite3
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from seedvec import catalogue
from seedvec.held import HeldFile

MAX_KEY: Final = (1 << 63) - 1


class Metadata:
    """keys: (m,) int64 ascending; offsets: (m + 1,) int64; the JSON of entry i is `[offsets[i]:offsets[i + 1]]`."""

    def __init__(self, keys: HeldFile, offsets: HeldFile, texts: HeldFile) -> None:
        self._files = (keys, offsets, texts)
        self._map()

    def __getstate__(self) -> tuple[HeldFile, ...]:
        return self._files

    def __setstate__(self, files: tuple[HeldFile, HeldFile, HeldFile]) -> None:
        self._files = files
        self._map()

    def __len__(self) -> int:
        return len(self._keys)

    def of(self, keys: NDArray[np.int64]) -> list[bytes | None]:
        """The JSON object of each key, in the order asked; None where the item has none."""
        if not len(self._keys):
            return [None] * len(keys)
        at = np.minimum(self._keys.searchsorted(keys), len(self._keys) - 1)
        there = (self._keys[at] == keys).tolist()
        begins, ends, texts = self._offsets[at].tolist(), self._offsets[at + 1].tolist(), self._texts
        return [texts[b:e] if t else None for b, e, t in zip(begins, ends, there, strict=True)]

    def _map(self) -> None:
        keys, offsets, texts = map(_mapped, self._files)
        self._keys: NDArray[np.int64] = np.frombuffer(keys, np.int64)
        self._offsets: NDArray[np.int64] = np.frombuffer(offsets, np.int64)
        self._texts = texts


class MetadataCopy:
    """Filled in the order of keys, by `append`. near: the folder whose disk takes it, where that may be written to."""

    def __init__(self, near: Path) -> None:
        self._keys, self._offsets, self._texts = (_nameless(near) for _ in range(3))
        self._end = 0
        self._last_key = -1
        self._offsets.write(np.zeros(1, np.int64).tobytes())

    def fill(self, db: sqlite3.Connection, before_key: int = MAX_KEY) -> None:
        """What the catalogue has behind what is here, up to that key."""
        while rows := catalogue.read_metadata(db, self._last_key, before_key):
            self._append(rows)

    def _append(self, rows: Sequence[tuple[int, bytes]]) -> None:
        ends = np.cumsum(np.fromiter((len(text) for _, text in rows), np.int64, len(rows))) + self._end
        self._texts.write(b"".join(text for _, text in rows))
        self._offsets.write(ends.tobytes())
        self._keys.write(np.fromiter((key for key, _ in rows), np.int64, len(rows)).tobytes())
        self._end, self._last_key = int(ends[-1]), rows[-1][0]

    def finish(self) -> Metadata:
        return Metadata(*(_handed_over(file) for file in (self._keys, self._offsets, self._texts)))

    def close(self) -> None:
        for file in (self._keys, self._offsets, self._texts):
            file.close()


def _nameless(near: Path) -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(dir=near)
    except OSError:
        return tempfile.TemporaryFile()


def _handed_over(file: IO[bytes]) -> HeldFile:
    file.flush()
    return HeldFile(os.dup(file.fileno()))


def _mapped(file: HeldFile) -> Any:
    size = file.bytes
    if not size:
        return b""
    fd = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return mmap.mmap(fd, size, prot=mmap.PROT_READ)
    finally:
        os.close(fd)
