"""What comes row by row beside the vectors and is written after them: in unnamed files meanwhile, not in memory."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from storage.files.contract import Batch, Ids, Outline

_COPY_BYTES: Final = 1 << 20
INT: Final = np.dtype("<i8")


class Spilled:
    """Ids and metadata of the rows so far, where the outline has them. folder: where there is room for them."""

    def __init__(self, outline: Outline, folder: Path) -> None:
        with ExitStack() as files:
            self.ids = SpilledIds(_unnamed(files, folder), outline) if outline.ids else None
            self.lines = SpilledLines(_unnamed(files, folder)) if outline.metadata else None
            self._files = files.pop_all()

    def add(self, batch: Batch) -> None:
        """Raises ValueError where the batch lacks what the outline has, or has more or fewer of it than rows."""
        for column, spilled in ((batch.ids, self.ids), (batch.metadata, self.lines)):
            if spilled is not None and (column is None or len(column) != batch.rows):
                raise ValueError(f"a batch of {batch.rows} rows does not bring the ids or metadata that were announced")
        if self.ids is not None and batch.ids is not None:
            self.ids.add(batch.ids)
        if self.lines is not None and batch.metadata is not None:
            self.lines.add(batch.metadata)

    def close(self) -> None:
        self._files.close()


class SpilledIds:
    """Only when all are known is it known how wide a string must be."""

    def __init__(self, file: BinaryIO, outline: Outline) -> None:
        self.is_int = outline.ids == "int"
        self._file = file
        self._blocks: list[tuple[int, np.dtype[Any]]] = []
        self._characters = 1

    def add(self, ids: Ids) -> None:
        array = np.asarray(ids, INT) if self.is_int else np.array([str(text).encode() for text in ids], np.bytes_)
        self._characters = max([self._characters, *map(len, () if self.is_int else ids)])
        self._file.write(array.tobytes())
        self._blocks.append((len(array), array.dtype))

    @property
    def utf8(self) -> np.dtype[Any]:
        """`S`, of strings: wide enough for all, at least one byte."""
        return np.dtype(f"S{max([1, *(dtype.itemsize for _, dtype in self._blocks)])}")

    @property
    def dtype(self) -> np.dtype[Any]:
        """As NumPy has them: int64, or `U` wide enough for all, at least one character."""
        return INT if self.is_int else np.dtype(f"<U{self._characters}")

    def arrays(self, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
        """All as one of these two, in blocks as they came."""
        self._file.seek(0)
        for n, stored in self._blocks:
            block = np.frombuffer(self._file.read(n * stored.itemsize), stored)
            yield np.char.decode(block, "utf-8").astype(dtype) if dtype.kind == "U" else block.astype(dtype)


class SpilledLines:
    """Metadata as JSON Lines."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.bytes = 0

    def add(self, items: list[bytes | None]) -> None:
        self.bytes += self._file.write(json_lines(items))

    def chunks(self) -> Iterator[bytes]:
        """All bytes, a part at a time."""
        self._file.seek(0)
        while chunk := self._file.read(_COPY_BYTES):
            yield chunk


def json_lines(items: list[bytes | None]) -> bytes:
    """A line each. A line break in an item's JSON stands between tokens, never in a string, and becomes a space."""
    return b"".join((b"null" if item is None else item.replace(b"\n", b" ")) + b"\n" for item in items)


def _unnamed(files: ExitStack, folder: Path) -> BinaryIO:
    return files.enter_context(tempfile.TemporaryFile(dir=folder))
