"""What comes row by row beside the vectors and is written after them: kept in unnamed files meanwhile, not in memory."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from storage.files.contract import Ids

_COPY_BYTES: Final = 1 << 20


class SpilledIds:
    """Ids kept on disk until all are known: only then is it known how wide a string must be."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by close
        self._blocks: list[tuple[int, np.dtype[Any]]] = []

    def add(self, ids: Ids) -> None:
        array = np.asarray(ids, "<i8" if isinstance(ids, np.ndarray) else None)
        if array.dtype.kind not in "iU":
            raise ValueError("ids must be int64 or str")
        self._file.write(array.tobytes())
        self._blocks.append((len(array), array.dtype))

    def dtype(self, kind: str) -> np.dtype[Any]:
        """One that holds them all: `<i8`, or `<U` of at least one character."""
        if kind == "int":
            return np.dtype("<i8")
        return np.dtype(f"<U{max([1, *(dtype.itemsize // 4 for _, dtype in self._blocks)])}")

    def arrays(self, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
        """All, block by block."""
        self._file.seek(0)
        for n, stored in self._blocks:
            yield np.frombuffer(self._file.read(n * stored.itemsize), stored).astype(dtype)

    def close(self) -> None:
        self._file.close()


class SpilledLines:
    """JSON Lines kept on disk until it is their turn."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by close
        self.bytes = 0

    def add(self, items: list[bytes | None]) -> None:
        self.bytes += self._file.write(json_lines(items))

    def chunks(self) -> Iterator[bytes]:
        self._file.seek(0)
        while chunk := self._file.read(_COPY_BYTES):
            yield chunk

    def close(self) -> None:
        self._file.close()


def json_lines(items: list[bytes | None]) -> bytes:
    """A line each. A line break in an item's JSON stands between tokens, never in a string, and becomes a space."""
    return b"".join((b"null" if item is None else item.replace(b"\n", b" ")) + b"\n" for item in items)
