"""Values of variable length in an HDF5 file: text, and lists of indices.

A dataset of them holds 16 bytes a row (length, where the heap lies, number in it); the heaps are read here and not by
HDF5, which allocates what they claim, and which flipped bits in them hung for good.
"""

import struct
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import h5py
import numpy as np
from numpy.typing import NDArray

from storage.files.contract import BadFile
from storage.files.hdf5_open import Hdf5, told
from storage.files.hdf5_rows import Rows, open_rows
from storage.files.lines import TAKEN_BYTES_MAX
from storage.files.source import read

REFERENCE: Final = np.dtype([("length", "<u4"), ("heap", "<u8"), ("number", "<u4")])
HEAP_BYTES_MAX: Final = 16 << 20
"""Of one heap. HDF5 makes them of 4 KiB, and larger only for one value that is."""
HEAPS_KEPT: Final = 16
T = TypeVar("T")
_HEAP_HEADER: Final = struct.Struct("<4sB3xQ")
_OBJECT_HEADER: Final = struct.Struct("<HH4xQ")


class Varying:
    """n values of variable length, as bytes. element_bytes: of one element of a value; 1 for text."""

    def __init__(self, file: Hdf5, dataset: h5py.Dataset, element_bytes: int, most: int) -> None:
        """most: bytes that one value may have."""
        self.name = dataset.name
        with told(self.name):
            if file.root.id.get_create_plist().get_sizes() != (8, 8):
                raise BadFile(f"{self.name}: written with other than 64-bit addresses")
        self._references: Rows = open_rows(file, dataset, REFERENCE)
        if len(self._references.shape) != 1:
            raise BadFile(f"{self.name} has {len(self._references.shape)} dimensions, should have one")
        self.count = self._references.shape[0]
        self._file = file
        self._element_bytes = element_bytes
        self._most = most
        self._heaps: dict[int, dict[int, bytes]] = {}

    def take(self, start: int, stop: int) -> list[bytes]:
        """Of rows start … stop, or where they are long of the first of them. Raises BadFile with the row."""
        found = self._references.rows(start, stop)
        columns = (found[field].tolist() for field in ("length", "heap", "number"))
        out: list[bytes] = []
        size = 0
        for row, (length, heap, number) in enumerate(zip(*columns, strict=True), start):
            if length * self._element_bytes > self._most:
                raise BadFile(f"{self.name}: a value of {length:,} elements is too long", row)
            out.append(self._value(row, length * self._element_bytes, heap, number) if length else b"")
            size += len(out[-1])
            if size >= TAKEN_BYTES_MAX:
                break
        return out

    def _value(self, row: int, length: int, heap: int, number: int) -> bytes:
        objects = self._heaps.get(heap)
        if objects is None:
            if len(self._heaps) >= HEAPS_KEPT:
                del self._heaps[next(iter(self._heaps))]
            try:
                objects = self._heaps[heap] = dict(_objects(self._file, heap))
            except BadFile as e:
                raise BadFile(f"{self.name}: {e.detail}", row) from None
        value = objects.get(number, b"")
        if len(value) < length:
            raise BadFile(f"{self.name}: a value is not where it should be", row)
        return value[:length]


def _objects(file: Hdf5, heap: int) -> Iterator[tuple[int, bytes]]:
    """What one heap holds, by number."""
    # Addresses count from where HDF5's own bytes begin.
    at = heap + int(file.root.userblock_size)
    if at + _HEAP_HEADER.size > file.bytes.size:
        raise BadFile("a heap lies behind the end of the file")
    magic, version, size = _HEAP_HEADER.unpack(read(file.bytes, at, _HEAP_HEADER.size))
    if magic != b"GCOL" or version != 1 or not _HEAP_HEADER.size <= size <= HEAP_BYTES_MAX:
        raise BadFile("a heap is damaged")
    if at + size > file.bytes.size:
        raise BadFile("a heap ends behind the end of the file")
    raw = read(file.bytes, at, size)
    place = _HEAP_HEADER.size
    while place + _OBJECT_HEADER.size <= size:
        number, _, length = _OBJECT_HEADER.unpack_from(raw, place)
        if number == 0:  # What is free, up to the end.
            return
        place += _OBJECT_HEADER.size
        if length > size - place:
            raise BadFile("a heap is damaged")
        yield number, raw[place : place + length]
        place += -(-length // 8) * 8


class Texts:
    """n texts as bytes, of fixed or variable length. Raises BadFile where the dataset is neither."""

    def __init__(self, file: Hdf5, dataset: h5py.Dataset, most: int) -> None:
        self.name = dataset.name
        with told(self.name):
            kind = dataset.id.get_type()
            if kind.get_class() != h5py.h5t.STRING:
                raise BadFile(f"{self.name} holds no text")
            varying, width, padding = kind.is_variable_str(), kind.get_size(), kind.get_strpad()
        if not varying and width > most:
            raise BadFile(f"{self.name}: texts of {width:,} bytes are too long")
        self._varying = Varying(file, dataset, 1, most) if varying else None
        self._fixed = None if varying else open_rows(file, dataset, np.dtype((np.bytes_, width)))
        # Fortran's way; else it ends at the first NUL.
        self._spaces = padding == h5py.h5t.STR_SPACEPAD
        shape = dataset.shape
        if len(shape) != 1:
            raise BadFile(f"{self.name} has {len(shape)} dimensions, should have one")
        self.count = int(shape[0])

    def take(self, start: int, stop: int) -> list[bytes]:
        """Of rows start … stop, or where they are long of the first of them."""
        if self._fixed is None:
            assert self._varying is not None
            return [text.rstrip(b"\0") for text in self._varying.take(start, stop)]
        most = max(1, TAKEN_BYTES_MAX // max(1, self._fixed.dtype.itemsize))
        raw: list[bytes] = self._fixed.rows(start, min(stop, start + most)).tolist()
        return [text.rstrip(b" ") if self._spaces else text.partition(b"\0")[0] for text in raw]

    def take_str(self, start: int, stop: int) -> list[str]:
        """Likewise. Raises BadFile with the row: no UTF-8."""
        return [decoded(text, self.name, row) for row, text in enumerate(self.take(start, stop), start)]


class Lists:
    """n lists of whole numbers. Raises BadFile where the dataset is of another kind."""

    def __init__(self, file: Hdf5, dataset: h5py.Dataset, most: int) -> None:
        """most: elements of one list."""
        self.name = dataset.name
        with told(self.name):
            base = h5py.check_vlen_dtype(dataset.dtype)
            if base is None or np.dtype(base).kind not in "iu":
                raise BadFile(f"{self.name} holds no lists of indices")
        self._base = np.dtype(base)
        self._varying = Varying(file, dataset, self._base.itemsize, most * self._base.itemsize)
        self.count = self._varying.count

    def take(self, start: int, stop: int) -> list[NDArray[Any]]:
        return [np.frombuffer(raw, self._base) for raw in whole(self._varying.take, start, stop)]


def whole(take: Callable[[int, int], list[T]], start: int, stop: int) -> list[T]:
    """All of them, however long, of what is taken until it is long."""
    found: list[T] = []
    while start + len(found) < stop:
        found += take(start + len(found), stop)
    return found


def decoded(text: bytes, name: str, row: int) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise BadFile(f"{name}: a text is no UTF-8", row) from None
