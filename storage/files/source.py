"""Bytes by offset, out of a file or a part of one. Read by `pread` into fresh memory, not mapped: a file that is cut
meanwhile is then a BadFile and no SIGBUS, no page of it counts as the process's memory, and it is no slower (both copy
what is written elsewhere faster than `cp`)."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from storage.files.contract import BadFile

CHUNK_BYTES: Final = 1 << 20
"""What is read at once where nobody says how much."""


class Source(Protocol):
    """Some bytes of known number."""

    @property
    def size(self) -> int: ...

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fills the whole buffer (of bytes) from there. Raises BadFile: it is damaged, or ends before that; OSError."""


class Part:
    """Bytes offset … offset + size of an open file. Raises BadFile where the file ends before them."""

    def __init__(self, file: BinaryIO, offset: int = 0, size: int | None = None) -> None:
        length = os.fstat(file.fileno()).st_size
        self.size = length - offset if size is None else size
        if not 0 <= offset <= length or not 0 <= self.size <= length - offset:
            raise BadFile(f"the file has {length} bytes, and must have {offset + self.size}: it is cut")
        self._file = file
        self._offset = offset

    def read_into(self, buffer: memoryview, offset: int) -> None:
        if offset + len(buffer) > self.size:
            raise BadFile("ends too soon")
        done = 0
        while done < len(buffer):
            n = os.preadv(self._file.fileno(), [buffer[done:]], self._offset + offset + done)
            if n == 0:
                raise BadFile("the file was cut while it was read")
            done += n


class Held:
    """Bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self.size = len(data)
        self._data = data

    def read_into(self, buffer: memoryview, offset: int) -> None:
        if offset + len(buffer) > self.size:
            raise BadFile("ends too soon")
        buffer[:] = self._data[offset : offset + len(buffer)]


def open_file(path: Path) -> BinaryIO:
    """Raises BadFile where there is no such file, OSError."""
    try:
        # Opening a pipe would wait for its other end, and closing would not help: what is no file is refused first.
        if not path.is_file():
            raise BadFile(f"{path.name}: there is no such file")
        return open(path, "rb", buffering=0)
    except ValueError as e:
        raise BadFile(f"the name of the file cannot be: {e}") from None


def read(source: Source, offset: int, size: int) -> bytes:
    """Those bytes. The caller bounds the size."""
    buffer = bytearray(size)
    source.read_into(memoryview(buffer), offset)
    return bytes(buffer)


def chunks(source: Source, offset: int = 0) -> Iterator[memoryview]:
    """All bytes from there on, CHUNK_BYTES at a time."""
    for start in range(offset, source.size, CHUNK_BYTES):
        buffer = memoryview(bytearray(min(CHUNK_BYTES, source.size - start)))
        source.read_into(buffer, start)
        yield buffer
