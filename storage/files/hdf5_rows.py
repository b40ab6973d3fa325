"""Rows of an HDF5 dataset: its bytes read past HDF5 where they lie as they are or under gzip.

HDF5 inflates a chunk until it ends, however long that takes: 1 GB of gzip is a terabyte. Inflated here it never passes
the size that the chunk must have. lzf and blosc are left to HDF5 once the sizes they claim are the chunk's.
"""

import math
import struct
import zlib
from collections.abc import Callable
from itertools import product
from typing import Any, Final, Protocol

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from storage.files.contract import BadFile
from storage.files.hdf5_open import Hdf5, told
from storage.files.source import Source, read

LZF: Final = int(h5py.h5z.FILTER_LZF)
BLOSC: Final = int(hdf5plugin.Blosc.filter_id)
DEFLATE: Final = int(h5py.h5z.FILTER_DEFLATE)
SHUFFLE: Final = int(h5py.h5z.FILTER_SHUFFLE)
FLETCHER32: Final = int(h5py.h5z.FILTER_FLETCHER32)
BY_HDF5: Final = frozenset({LZF, BLOSC})
KNOWN: Final = BY_HDF5 | {DEFLATE, SHUFFLE, FLETCHER32}

BAND_BYTES_MAX: Final = 256 << 20
"""Of all chunks side by side that hold the same rows: what is in memory at once."""
RATIO_MAX: Final = 1_100
"""Of a dataset's bytes to the file's. gzip reaches 1,032 on zeros; embeddings do not reach 2."""
BLOSC_HEADER: Final = 16


class Rows(Protocol):
    """What a dataset is to its readers. shape: (n, …); dtype: as stored."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        """In native byte order. Raises BadFile."""


def open_rows(file: Hdf5, dataset: h5py.Dataset, dtype: np.dtype[Any] | None = None) -> Rows:
    """dtype: how the stored bytes are to be read; None: as numbers of the type that the dataset has. Raises BadFile:
    a size that the file cannot hold, filters that are not read, no data."""
    name = dataset.name
    with told(name):
        stored = dtype or dataset.dtype
        shape = tuple(int(n) for n in dataset.shape or ())
        layout = dataset.id.get_create_plist().get_layout()
        _check_size(file, name, shape, stored)
        if layout == h5py.h5d.CHUNKED:
            return Chunked(file, dataset, shape, stored)
        if 0 in shape:
            return Held(np.empty(shape, stored))
        if layout == h5py.h5d.COMPACT and stored.kind != "V":
            return Held(_native(np.asarray(dataset[()])))
        offset = dataset.id.get_offset()
        if layout != h5py.h5d.CONTIGUOUS or offset is None:
            raise BadFile(f"{name} has no data in the file")
        if offset + math.prod(shape) * stored.itemsize > file.bytes.size:
            raise BadFile(f"{name} ends behind the end of the file: it is cut")
        return Contiguous(file.bytes, int(offset), shape, stored)


def _check_size(file: Hdf5, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if not shape:
        raise BadFile(f"{name} is a single value, not rows")
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes > RATIO_MAX * file.bytes.size:
        raise BadFile(f"{name} claims {nbytes:,} bytes ({shape} of {dtype}) in a file of {file.bytes.size:,}")


class Contiguous:
    """As it would lie in memory, read past HDF5."""

    def __init__(self, source: Source, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape = shape
        self.dtype = dtype
        self._source = source
        self._offset = offset
        self._row_bytes = math.prod(shape[1:]) * dtype.itemsize

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        out = np.empty((stop - start, *self.shape[1:]), self.dtype)
        if out.nbytes:
            self._source.read_into(out.reshape(-1).view(np.uint8).data, self._offset + start * self._row_bytes)
        return _native(out)


class Held:
    """A dataset so small that HDF5 keeps it among its headers."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.shape = array.shape
        self.dtype = array.dtype
        self._array = array

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        return self._array[start:stop]


class Chunked:
    """One band of chunks in memory at a time: the chunks that hold the same rows."""

    def __init__(self, file: Hdf5, dataset: h5py.Dataset, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape = shape
        self.dtype = dtype
        self._file = file
        self._dataset = dataset
        self._chunk = tuple(int(n) for n in dataset.chunks)
        self._filters = _filters(dataset)
        self._chunk_bytes = math.prod(self._chunk) * dtype.itemsize
        self._held: tuple[int, NDArray[Any]] | None = None
        band = self._chunk[0] * dtype.itemsize
        for extent, step in zip(shape[1:], self._chunk[1:], strict=True):
            band *= -(-extent // step) * step
        if band > BAND_BYTES_MAX:
            raise BadFile(
                f"{dataset.name} is in chunks of {self._chunk}: {band} bytes would be in memory at once, "
                f"at most {BAND_BYTES_MAX} may; h5repack makes smaller chunks"
            )
        kinds = {number for number, _ in self._filters}
        if len(kinds) < len(self._filters) or not kinds <= KNOWN or (kinds & BY_HDF5 and DEFLATE in kinds):
            raise BadFile(
                f"{dataset.name} is stored through filters {sorted(kinds)}: only gzip, lzf and blosc are read"
            )
        self._decode: Callable[[tuple[int, ...]], NDArray[Any]] = self._inflated
        if kinds & BY_HDF5:
            if dtype.kind == "V":
                raise BadFile(f"{dataset.name}: text of any length is read plain or under gzip, not under lzf or blosc")
            self._decode = self._by_hdf5

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        out = np.empty((stop - start, *self.shape[1:]), self.dtype.newbyteorder("="))
        at, step = start, self._chunk[0]
        while at < stop:
            band = at // step
            rows = self._band(band)
            end = min(stop, (band + 1) * step)
            out[at - start : end - start] = rows[at - band * step : end - band * step]
            at = end
        return out

    def _band(self, number: int) -> NDArray[Any]:
        if self._held is None or self._held[0] != number:
            self._held = None  # Before the next is made: one band is what may be in memory.
            self._held = number, self._read_band(number * self._chunk[0])
        return self._held[1]

    def _read_band(self, first: int) -> NDArray[Any]:
        out = np.empty((min(self._chunk[0], self.shape[0] - first), *self.shape[1:]), self.dtype)
        steps = [range(0, extent, step) for extent, step in zip(self.shape[1:], self._chunk[1:], strict=True)]
        for rest in product(*steps):
            with told(f"{self._dataset.name}, rows from {first}"):
                part = self._decode((first, *rest))
            within = tuple(slice(at, at + step) for at, step in zip((0, *rest), self._chunk, strict=True))
            place = out[within]
            place[...] = part[tuple(slice(0, n) for n in place.shape)]
        return out

    def _where(self, coords: tuple[int, ...]) -> tuple[int, int, int]:
        info = self._dataset.id.get_chunk_info_by_coord(coords)
        if info.byte_offset is None or info.size == 0:
            raise BadFile(f"{self._dataset.name}: rows from {coords[0]} were never written")
        # No filter here makes more of it than this; HDF5 would allocate whatever the file says.
        if info.size > self._chunk_bytes + self._chunk_bytes // 8 + 4096:
            raise BadFile(f"{self._dataset.name}: a chunk claims {info.size} bytes for {self._chunk_bytes}")
        if info.byte_offset + info.size > self._file.bytes.size:
            raise BadFile(f"{self._dataset.name}: a chunk lies beyond the end of the file")
        return int(info.byte_offset), int(info.size), int(info.filter_mask)

    def _inflated(self, coords: tuple[int, ...]) -> NDArray[Any]:
        offset, size, mask = self._where(coords)
        raw = read(self._file.bytes, offset, size)
        for i, (number, _) in reversed(list(enumerate(self._filters))):
            if not mask >> i & 1:
                raw = self._undo(number, raw)
        if len(raw) != self._chunk_bytes:
            raise BadFile(f"{self._dataset.name}: a chunk holds {len(raw)} bytes, should hold {self._chunk_bytes}")
        return np.frombuffer(raw, self.dtype).reshape(self._chunk)

    def _undo(self, number: int, raw: bytes) -> bytes:
        if number == FLETCHER32:
            return _summed(raw)
        if number == SHUFFLE:
            return _unshuffled(raw, self.dtype.itemsize)
        inflater = zlib.decompressobj()
        # Four bytes more for a checksum inside; one more still tells that there would be more.
        out = inflater.decompress(raw, self._chunk_bytes + 5)
        if not inflater.eof:
            raise BadFile(f"{self._dataset.name}: a chunk inflates to more than its size, or is cut off")
        return out

    def _by_hdf5(self, coords: tuple[int, ...]) -> NDArray[Any]:
        offset, size, mask = self._where(coords)
        for i, (number, values) in enumerate(self._filters):
            if number == LZF and (len(values) < 3 or values[2] != self._chunk_bytes):
                raise BadFile(f"{self._dataset.name}: lzf claims another size than the chunk has")
            if number == BLOSC and not mask >> i & 1:
                self._check_blosc(offset, size)
        selection = tuple(
            slice(at, min(at + step, extent)) for at, step, extent in zip(coords, self._chunk, self.shape, strict=True)
        )
        return np.asarray(self._dataset[selection])

    def _check_blosc(self, offset: int, size: int) -> None:
        # 4 bytes that say how, then these three numbers.
        head = read(self._file.bytes, offset, min(size, BLOSC_HEADER)).ljust(BLOSC_HEADER, b"\0")
        claims, block, packed = struct.unpack("<4xIII", head)
        if claims != self._chunk_bytes or block > max(claims, 1) or packed > size:
            raise BadFile(f"{self._dataset.name}: blosc claims another size than the chunk has")


def _native(array: NDArray[Any]) -> NDArray[Any]:
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _filters(dataset: h5py.Dataset) -> list[tuple[int, tuple[int, ...]]]:
    """(number, values) in the order of writing."""
    plist = dataset.id.get_create_plist()
    found = (plist.get_filter(i) for i in range(plist.get_nfilters()))
    return [(int(number), tuple(values)) for number, _, values, _ in found]


def _unshuffled(raw: bytes, width: int) -> bytes:
    """All first bytes, all second bytes, … back to numbers; what does not fill a number lies behind as it is."""
    whole = len(raw) // width * width
    numbers = np.frombuffer(raw, np.uint8, whole).reshape(width, -1)
    return np.ascontiguousarray(numbers.T).tobytes() + raw[whole:]


def _summed(raw: bytes) -> bytes:
    """Without the four bytes of checksum behind it: Fletcher's of big-endian 16-bit words, as HDF5 counts it."""
    body, said = raw[:-4], int.from_bytes(raw[-4:], "little")
    words = np.frombuffer(body + b"\0" * (len(body) % 2), ">u2").astype(np.uint64)
    weights = np.arange(len(words), 0, -1, dtype=np.uint64) % np.uint64(65535)
    sums = int(words.sum()), int((words * weights).sum())
    # Folded sums may be 0 or 65535 for the same remainder.
    if len(raw) < 4 or any((s - t) % 65535 for s, t in zip(sums, (said & 0xFFFF, said >> 16), strict=True)):
        raise BadFile("a checksum does not match")
    return body
