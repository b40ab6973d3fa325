"""Reads a sealed segment (`.h5`) without a copy: h5py says where the datasets lie, one mapping serves them all.

The constants are those of `docs/formats.md`, shared with the writer in the server's `storage/segment.py`.
"""

import errno
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from seedvec.sparse import INDEX_DTYPE, INDPTR_DTYPE, Postings, SparseRows

FORMAT: Final = "seedvec-segment"
VERSION: Final = 1
SPARSE_VERSION: Final = 2
"""Of a segment of sparse vectors: whoever knows only the other kind says so instead of missing /vectors."""
ALIGNMENT: Final = 4096
METRICS: Final = ("l2", "cosine", "dot")
VECTOR_DTYPES: Final = (np.dtype("<f4"), np.dtype("<f2"))
KEY_DTYPE: Final = np.dtype("<u8")
INT_ID_DTYPE: Final = np.dtype("<i8")
NORM_DTYPE: Final = np.dtype("<f4")
BYTE_DTYPE: Final = np.dtype("u1")
HASH_DTYPE: Final = np.dtype("<u8")

VECTORS: Final = "vectors"
KEYS: Final = "keys"
IDS: Final = "ids"
ID_BYTES: Final = "id_bytes"
ID_OFFSETS: Final = "id_offsets"
NORMS: Final = "norms"
BLOCK_XXH3: Final = "block_xxh3"
WORDS_AT_ONCE: Final = 1 << 16

SIZES: Final = "sizes"
INDPTR: Final = "indptr"
INDICES: Final = "indices"
VALUES: Final = "values"
TERMS: Final = "terms"
TERM_STARTS: Final = "term_starts"
TERM_ROWS: Final = "term_rows"
TERM_VALUES: Final = "term_values"
SPARSE: Final = (SIZES, INDPTR, INDICES, VALUES, TERMS, TERM_STARTS, TERM_ROWS, TERM_VALUES)
"""What a segment of sparse vectors has in the place of /vectors."""


class SegmentError(Exception):
    """The file is not a sound segment of a version this code reads; the text says what is wrong."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a dataset's bytes lie in the file."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    @property
    def end(self) -> int:
        return self.offset + self.nbytes


class StrIds:
    """String ids of a segment, decoded when asked for. Damaged bytes decode with U+FFFD rather than fail."""

    def __init__(self, id_bytes: NDArray[np.uint8], offsets: NDArray[np.uint64]) -> None:
        self._bytes = id_bytes.data
        self._offsets = offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def consistent(self) -> bool:
        """Offsets begin at 0, never fall, and end with the bytes. Reads all of them."""
        offsets = self._offsets
        return bool(offsets[0] == 0 and offsets[-1] == len(self._bytes) and (offsets[1:] >= offsets[:-1]).all())

    def id_at(self, row: int) -> str:
        start, end = self._offsets[row : row + 2].tolist()
        return str(self._bytes[start:end], "utf-8", "replace")

    def ids_at(self, rows: Sequence[int] | NDArray[np.int64]) -> list[str]:
        return [self.id_at(int(row)) for row in rows]

    def words_at(self, rows: NDArray[np.int64], start: int) -> NDArray[np.uint64]:
        """Of the UTF-8 of each id the 8 bytes from `start` on as one number, zeros past its end.

        They sort as the ids do, for no id holds a zero byte."""
        out = np.empty(len(rows), np.uint64)
        for begin in range(0, len(rows), WORDS_AT_ONCE):
            part = rows[begin : begin + WORDS_AT_ONCE]
            places = self._offsets[part].astype(np.int64)[:, None] + np.arange(start, start + 8)
            there = places < self._offsets[part + 1].astype(np.int64)[:, None]
            text = np.where(there, np.frombuffer(self._bytes, np.uint8)[np.where(there, places, 0)], 0)
            out[begin : begin + len(part)] = text.astype(np.uint8).view(">u8")[:, 0]
        return out

    def byte_lengths(self) -> NDArray[np.int64]:
        """Bytes of each id's UTF-8, in row order."""
        return np.diff(self._offsets).astype(np.int64)

    def all(self) -> list[str]:
        """Every id in row order; 1M of them take about 0.2 s where they are ASCII."""
        return self.between(0, len(self))

    def between(self, start: int, stop: int) -> list[str]:
        """The ids of the rows from start to stop."""
        offsets = self._offsets[start : stop + 1].tolist()
        raw = bytes(self._bytes[offsets[0] : offsets[-1]])
        bounds = pairwise([offset - offsets[0] for offset in offsets])
        if raw.isascii():
            # One decoding, then slices: characters are bytes here.
            text = raw.decode("ascii")
            return [text[begin:end] for begin, end in bounds]
        return [raw[begin:end].decode("utf-8", "replace") for begin, end in bounds]


class Segment:
    """An open segment; all arrays are read-only views of one private mapping, and stay valid while any is held.

    vectors: (n, d) float32 or float16, or sparse, with postings besides; keys_rel: (n,) uint64, strictly ascending,
    relative to the catalogue's base key; ids: (n,) int64, or StrIds; norms: (n,) float32; block_xxh3: (m,) uint64.
    extents: dataset → where it lies.
    """

    def __init__(
        self,
        path: Path,
        mapping: mmap.mmap,
        metric: str,
        extents: dict[str, Extent],
        base_key: int | None = None,
        dimension: int = 0,
    ) -> None:
        """dimension: of a sparse segment, whose datasets do not tell it."""
        self.path = path
        self.base_key = base_key
        """What the keys count from, as the file says: the catalogue's word counts, and the file may have none."""
        self.metric = metric
        self.extents = extents
        self.file_bytes = len(mapping)
        self._mapping = mapping
        self.vectors: NDArray[Any] | SparseRows
        self.postings: Postings | None = None
        if VECTORS in extents:
            self.vectors = self._view(VECTORS)
        else:
            self.vectors = SparseRows(self._view(INDPTR), self._view(INDICES), self._view(VALUES), dimension)
            self.postings = Postings(*(self._view(name) for name in (TERMS, TERM_STARTS, TERM_ROWS, TERM_VALUES)))
        self.keys_rel: NDArray[np.uint64] = self._view(KEYS)
        self.norms: NDArray[np.float32] = self._view(NORMS)
        self.block_xxh3: NDArray[np.uint64] = self._view(BLOCK_XXH3)
        self.ids: NDArray[np.int64] | StrIds = (
            self._view(IDS) if IDS in extents else StrIds(self._view(ID_BYTES), self._view(ID_OFFSETS))
        )

    @property
    def rows(self) -> int:
        return len(self.vectors)

    @property
    def dimension(self) -> int:
        return int(self.vectors.shape[1])

    @property
    def sparse(self) -> bool:
        return isinstance(self.vectors, SparseRows)

    @property
    def id_type(self) -> str:
        return "str" if isinstance(self.ids, StrIds) else "int"

    def ids_at(self, rows: Sequence[int] | NDArray[np.int64]) -> list[Any]:
        """Ids (int or str, Python's own) of these rows, in the order asked."""
        if isinstance(self.ids, StrIds):
            return self.ids.ids_at(rows)
        ids: list[Any] = self.ids[np.asarray(rows, np.int64)].tolist()
        return ids

    def advise(self, *, willneed: bool) -> None:
        """willneed: the kernel starts reading the whole file in; else: rows will be read here and there, so that a
        fault should not read ahead (cold random rows: 346 ms with read-ahead, 52 without)."""
        self._mapping.madvise(mmap.MADV_WILLNEED if willneed else mmap.MADV_RANDOM)

    def read_ahead(self, rows: NDArray[np.int64]) -> None:
        """The kernel starts reading the vectors of these rows (any shape, -1: none), all at once: a disk answers many
        such requests in the time of a few, where touching one row after the other waits for each. Dense rows alone."""
        extent = self.extents[VECTORS]
        width = extent.nbytes // extent.shape[0]
        begins = extent.offset + np.unique(rows[rows >= 0]) * width
        pages = np.unique(np.concatenate([begins, begins + width - 1]) // mmap.PAGESIZE)
        # Runs of neighbours are one request.
        firsts = np.flatnonzero(np.diff(pages, prepend=-2) > 1)
        for first, count in zip(pages[firsts], np.diff(firsts, append=len(pages)), strict=True):
            self._mapping.madvise(mmap.MADV_WILLNEED, int(first) * mmap.PAGESIZE, int(count) * mmap.PAGESIZE)

    def forget(self, start: int, stop: int) -> None:
        """The pages of these rows' vectors leave this process's memory; the page cache keeps them as it sees fit."""
        names: tuple[str, ...] = (VECTORS,)
        if isinstance(self.vectors, SparseRows):
            start, stop = self.vectors.indptr[[start, stop]].tolist()
            names = (INDICES, VALUES)
        for name in names:
            extent = self.extents[name]
            width = extent.nbytes // max(1, extent.shape[0])
            first = -(-(extent.offset + start * width) // mmap.PAGESIZE) * mmap.PAGESIZE
            last = (extent.offset + stop * width) // mmap.PAGESIZE * mmap.PAGESIZE
            if first < last:
                self._mapping.madvise(mmap.MADV_DONTNEED, first, last - first)

    def _view(self, name: str) -> NDArray[Any]:
        extent = self.extents[name]
        count = int(np.prod(extent.shape, dtype=np.int64))
        if count == 0:
            return np.empty(extent.shape, extent.dtype)
        return np.frombuffer(self._mapping, extent.dtype, count, extent.offset).reshape(extent.shape)


def open_segment(path: str | os.PathLike[str]) -> Segment:
    """Opens in 1 to 2 ms whatever the size; no number is read and no checksum verified (`seedvec check` does that).

    Raises SegmentError, and FileNotFoundError where a merge has taken the file away.
    """
    path = Path(path)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        header, extents = _parse(path, size)
    except FileNotFoundError as e:
        # HDF5 opens it by name again, and says not which it was: who reads on wants to know what has gone.
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path)) from e
    finally:
        os.close(fd)
    return map_segment(path, header.metric, extents, header.base_key, header.dimension)


def map_segment(
    path: Path, metric: str, extents: dict[str, Extent], base_key: int | None = None, dimension: int = 0
) -> Segment:
    """A segment whose layout is known. Raises SegmentError where the file is too short for it."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        if size < max(extent.end for extent in extents.values()):
            raise SegmentError(f"{path}: it is cut off at byte {size}")
        # Private and read-only: the pages are the page cache's own, shared by every process, and a stray write
        # through a raw pointer is a crash here instead of a silently changed vector.
        mapping = mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    finally:
        os.close(fd)
    return Segment(path, mapping, metric, extents, base_key, dimension)


class _Header(NamedTuple):
    metric: str
    dimension: int
    base_key: int | None


def _parse(path: Path, size: int) -> tuple[_Header, dict[str, Extent]]:
    try:
        # No HDF5 locking: the file never changes, and a read-only file system has no locks to give.
        with h5py.File(path, "r", locking=False) as file:
            return _parse_open(path, file, size)
    except (SegmentError, FileNotFoundError):
        raise
    except Exception as e:  # h5py raises OSError, KeyError, RuntimeError, ValueError, … on damaged headers
        if not path.exists():
            # HDF5 asks about the file by its name once more after it has opened it: that fails otherwise.
            raise FileNotFoundError from e
        raise SegmentError(f"{path}: HDF5 cannot read it: {e}") from e


def _parse_open(path: Path, file: h5py.File, size: int) -> tuple[_Header, dict[str, Extent]]:
    kind = _text(file, "format")
    if kind != FORMAT:
        raise SegmentError(f"{path}: not a seedvec segment (root attribute format is {kind!r})")
    version = _number(file, "version")
    if version not in (VERSION, SPARSE_VERSION):
        raise SegmentError(f"{path}: segment version {version}, this code reads {VERSION} and {SPARSE_VERSION}")
    metric = _text(file, "metric")
    if metric not in METRICS:
        raise SegmentError(f"{path}: unknown metric {metric!r}")
    str_ids = IDS not in file
    vectors = SPARSE if version == SPARSE_VERSION else (VECTORS,)
    names = [*vectors, KEYS, NORMS, BLOCK_XXH3, *((ID_BYTES, ID_OFFSETS) if str_ids else (IDS,))]
    extents = {name: _extent(path, file, name, size) for name in names}
    dimension = _number(file, "dimension")
    _check_extents(path, extents, _number(file, "rows"), dimension)
    return _Header(metric, dimension, _number(file, "base_key") if "base_key" in file.attrs else None), extents


def text_attribute(text: str) -> np.bytes_:
    """How text attributes are written: of fixed length, so that they lie in the root's own header, which HDF5 keeps
    a checksum of. Text of variable length goes to a heap without one: flipped bits there hung the reader for good."""
    return np.bytes_(text.encode("ascii"))


def _text(file: h5py.File, name: str) -> str:
    found = file.attrs.get_id(name) if name in file.attrs else None
    if found is None or found.dtype.kind != "S" or found.shape != ():
        return ""
    return bytes(file.attrs[name]).decode("ascii", "replace")


def _number(file: h5py.File, name: str) -> int:
    found = file.attrs.get_id(name) if name in file.attrs else None
    if found is None or found.dtype.kind not in "iu" or found.shape != ():
        return 0
    return int(file.attrs[name])


def _extent(path: Path, file: h5py.File, name: str, size: int) -> Extent:
    if name not in file:
        raise SegmentError(f"{path}: /{name} is missing")
    # A link could point into any file that this process may read; only hard links and plain bytes are ours.
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise SegmentError(f"{path}: /{name} is a link")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise SegmentError(f"{path}: /{name} is no dataset")
    plist = dataset.id.get_create_plist()
    if plist.get_layout() != h5py.h5d.CONTIGUOUS:
        raise SegmentError(f"{path}: /{name} is not contiguous")
    if plist.get_external_count() or plist.get_nfilters():
        raise SegmentError(f"{path}: /{name} has external storage or filters")
    offset = dataset.id.get_offset()
    if offset is None:
        if dataset.size:
            raise SegmentError(f"{path}: /{name} has no bytes in the file")
        offset = 0
    extent = Extent(int(offset), tuple(int(n) for n in dataset.shape), np.dtype(dataset.dtype))
    if extent.end > size:
        raise SegmentError(f"{path}: /{name} ends at byte {extent.end} of a file of {size}")
    if extent.offset % ALIGNMENT:
        raise SegmentError(f"{path}: /{name} begins at byte {extent.offset}, which is no multiple of {ALIGNMENT}")
    return extent


def _check_extents(path: Path, extents: dict[str, Extent], n: int, d: int) -> None:
    if n < 1 or d < 1:
        raise SegmentError(f"{path}: {n} rows of dimension {d}")
    numbers = VECTORS if VECTORS in extents else VALUES
    dtype = extents[numbers].dtype
    if dtype not in VECTOR_DTYPES:
        raise SegmentError(f"{path}: /{numbers} is of type {dtype}")
    wanted: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
        **({VECTORS: ((n, d), dtype)} if numbers == VECTORS else _sparse_shapes(extents, n)),
        KEYS: ((n,), KEY_DTYPE),
        IDS: ((n,), INT_ID_DTYPE),
        ID_BYTES: (extents[ID_BYTES].shape if ID_BYTES in extents else (), BYTE_DTYPE),
        ID_OFFSETS: ((n + 1,), KEY_DTYPE),
        NORMS: ((n,), NORM_DTYPE),
        BLOCK_XXH3: (extents[BLOCK_XXH3].shape, HASH_DTYPE),
    }
    for name, extent in extents.items():
        shape, dtype = wanted[name]
        if extent.shape != shape or extent.dtype != dtype or (name in (ID_BYTES, BLOCK_XXH3) and len(shape) != 1):
            raise SegmentError(f"{path}: /{name} is {extent.dtype} {extent.shape}, should be {dtype} {shape}")
    _check_order(path, extents)


def _sparse_shapes(extents: dict[str, Extent], n: int) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Of the datasets that stand for the vectors, taken at their word as to how many numbers and terms there are."""
    dtype = extents[VALUES].dtype
    stored, terms = ((int(np.prod(extents[name].shape, dtype=np.int64)),) for name in (VALUES, TERMS))
    return {
        SIZES: ((2,), HASH_DTYPE),
        INDPTR: ((n + 1,), INDPTR_DTYPE),
        INDICES: (stored, INDEX_DTYPE),
        VALUES: (stored, dtype),
        TERMS: (terms, INDEX_DTYPE),
        TERM_STARTS: ((terms[0] + 1,), INDPTR_DTYPE),
        TERM_ROWS: (stored, INDEX_DTYPE),
        TERM_VALUES: (stored, dtype),
    }


def _check_order(path: Path, extents: dict[str, Extent]) -> None:
    ends = sorted(extent.end for name, extent in extents.items() if name != BLOCK_XXH3)
    if extents[BLOCK_XXH3].offset < ends[-1]:
        raise SegmentError(f"{path}: /block_xxh3 does not lie behind what it covers")
