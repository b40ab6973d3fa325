"""A file being written from front to back, and what is asked of those who write one."""

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from seedvec.writeback import start_writing
from storage.files.contract import Batch, Outline, Sparse

_BUFFER_BYTES: Final = 1 << 16
"""What is longer goes to the file at once, without a copy."""
FLOATS_WRITTEN: Final = ("float16", "float32", "float64")


class Output:
    """A new file, or a pipe that stands there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.file: BinaryIO = open(path, "wb", buffering=_BUFFER_BYTES)  # noqa: SIM115 - closed by close or abort

    def array(self, array: NDArray[Any]) -> None:
        """Its numbers, in C order."""
        self.file.write(as_bytes(array))
        start_writing(self.file.fileno(), array.nbytes)

    def close(self) -> None:
        self.file.close()

    def abort(self) -> None:
        """Closes and unlinks; a pipe is left where it is."""
        with suppress(OSError):  # What cannot be flushed is not wanted any more.
            self.file.close()
        remove_file(self._path)


def remove_file(path: Path) -> None:
    """If it is there, and a file."""
    with suppress(FileNotFoundError):
        if stat.S_ISREG(os.lstat(path).st_mode):
            os.unlink(path)


class Count:
    """How many rows have come, of those that were announced."""

    def __init__(self, outline: Outline, *, sparse: bool = False) -> None:
        """sparse: whether the format writes sparse vectors too."""
        self.rows = written_rows(outline, sparse=sparse)
        self.done = 0

    def add(self, n: int) -> None:
        self.done += n
        if self.done > self.rows:
            raise ValueError(f"{self.done} rows came where {self.rows} were announced")

    def finish(self) -> None:
        if self.done != self.rows:
            raise ValueError(f"{self.done} rows came where {self.rows} were announced")


def written_rows(outline: Outline, *, sparse: bool = False) -> int:
    """Raises ValueError for an outline that says not how many, or of vectors that the format does not write."""
    if outline.rows is None or outline.rows < 0:
        raise ValueError("a writer must be told the number of rows")
    if outline.sparse and sparse:
        return outline.rows
    if outline.dtype not in FLOATS_WRITTEN or outline.sparse:
        raise ValueError(f"dense vectors of {', '.join(FLOATS_WRITTEN)} are written, not {outline.dtype}")
    return outline.rows


def little_endian(outline: Outline) -> np.dtype[Any]:
    """Of the vectors as they are written."""
    return np.dtype(outline.dtype).newbyteorder("<")


def dense(batch: Batch, outline: Outline) -> NDArray[Any]:
    """The batch's vectors as they are written: no copy where they are so already. Raises ValueError for others."""
    if isinstance(batch.vectors, Sparse) or batch.vectors.shape[1:] != (outline.dimension,):
        raise ValueError(f"the batch holds no vectors of {outline.dimension} numbers")
    return np.ascontiguousarray(batch.vectors, little_endian(outline))


def as_bytes(array: NDArray[Any]) -> memoryview:
    """The array's own memory where it is in C order, else a copy in it."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data if array.nbytes else memoryview(b"")
