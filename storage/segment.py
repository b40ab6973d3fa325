"""Writes a sealed segment: HDF5 lays the file out, then the numbers go to the datasets' offsets with pwrite.

So the file is plain HDF5 for everyone, and its bytes are written at disk speed, in chunks, without h5py's lock. HDF5
itself touches the file only while it is a few empty kilobytes: on a full disk it crashed the interpreter, so room is
asked for before it begins, and reserved (posix_fallocate) before the first number is written.

The file is neither synced nor renamed here: `storage.atomic.publish` does that.
"""

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray

from seedvec import segment as fmt
from seedvec.sparse import SparseRows
from seedvec.writeback import start_writing
from storage.failpoints import declare, hit
from storage.hashing import BLOCK_BYTES, block_count, hash_blocks, hash_rest
from storage.segment_vectors import DenseVectors, Nonzeros, Shapes, SparseVectors, VectorsPart

IdType = Literal["int", "str"]
Ids = NDArray[np.int64] | Sequence[int] | Sequence[str]

LAYOUT: Final = declare("segment.layout")
RESERVE: Final = declare("segment.reserve")
WRITE: Final = declare("segment.write")
HASHES: Final = declare("segment.hashes")

META_BYTES: Final = 8192
"""One block takes all of HDF5's own headers (about 2 KB), so that none lies behind the numbers."""
MAX_STR_ID_BYTES: Final = 512
SPARE_BYTES: Final = 16 << 20
"""Room that must be left on the disk besides: SQLite needs some to commit, and even to delete."""


@dataclass(frozen=True, slots=True)
class SegmentFile:
    """What the catalogue keeps of a finished file. xxh3: of the whole file, as a number (`hashing.hex16` for SQL)."""

    bytes: int
    xxh3: int
    rows: int


def write_segment(
    path_tmp: Path,
    *,
    vectors: NDArray[Any] | SparseRows,
    keys_rel: NDArray[np.uint64],
    ids: Ids,
    norms: NDArray[np.float32],
    metric: str,
    base_key: int | None = None,
) -> SegmentFile:
    """Writes n ≥ 1 rows in one go; see SegmentWriter for shapes and errors."""
    n, d = vectors.shape
    encoded = encode_ids(ids)
    total = None if isinstance(encoded, np.ndarray) else sum(map(len, encoded))
    nonzeros = Nonzeros.of(vectors) if isinstance(vectors, SparseRows) else None
    with SegmentWriter(path_tmp, n, d, vectors.dtype, metric, total, base_key, nonzeros) as writer:
        writer.append(vectors, keys_rel, encoded, norms)
        return writer.finish()


def encode_ids(ids: Ids | Sequence[bytes]) -> NDArray[np.int64] | list[bytes]:
    """int ids as an array, str ids as UTF-8. Raises ValueError on an int outside 0 … 2^63-1 or a str of 0 or > 512
    bytes: the engine has refused those long before."""
    if isinstance(ids, np.ndarray) or (len(ids) and isinstance(ids[0], int)):
        numbers = np.ascontiguousarray(ids, np.int64)
        if len(numbers) and numbers.min() < 0:
            raise ValueError("a negative id")
        return numbers
    encoded = [i if isinstance(i, bytes) else str(i).encode() for i in ids]
    if any(not 1 <= len(i) <= MAX_STR_ID_BYTES for i in encoded):
        raise ValueError(f"an id of 0 or of more than {MAX_STR_ID_BYTES} bytes")
    return encoded


class SegmentWriter:
    """A segment of known size, filled by `append` in row order, made whole by `finish`.

    As a context manager it unlinks the file where the block ends in an exception or without `finish`.

    dtype: float32 or float16; id_bytes_total: None for int ids, else the sum of the ids' UTF-8 lengths; base_key: what
    the keys count from, where it is known already (a write too large to pend gets its keys later); nonzeros: of a
    segment of sparse vectors, None where they are dense.
    Raises OSError(ENOSPC) where there is no room, ValueError where rows, dimension or what is appended do not fit
    (zero rows, keys that do not ascend, more rows or numbers than announced); the file is then unlinked.
    """

    def __init__(
        self,
        path: Path,
        rows: int,
        dimension: int,
        dtype: Any,
        metric: str,
        id_bytes_total: int | None,
        base_key: int | None = None,
        nonzeros: Nonzeros | None = None,
    ) -> None:
        self.path = path
        self.rows = rows
        self.done = 0
        self._id_total = id_bytes_total
        self._id_done = 0
        self._last_key = -1
        self._vectors = _part(rows, dimension, np.dtype(dtype), nonzeros)
        shapes = _shapes(self._vectors, rows, dimension, np.dtype(dtype), metric, id_bytes_total)
        self._finished = False
        self._fd = -1
        try:
            require_room(path.parent, _upper_bytes(shapes))
            hit(LAYOUT)
            self._extents = _lay_out(path, metric, rows, dimension, shapes, base_key)
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            hit(RESERVE)
            # Every block of the file exists from here on: no later write can meet a full disk.
            os.posix_fallocate(self._fd, 0, os.fstat(self._fd).st_size)
        except BaseException:
            self.abandon()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._finished:
            self.abandon()

    def append(
        self,
        vectors: NDArray[Any] | SparseRows,
        keys_rel: NDArray[np.uint64],
        ids: Ids | Sequence[bytes],
        norms: NDArray[np.float32],
    ) -> None:
        """The next rows. vectors: (m, d) in the segment's dtype (never converted here); keys_rel: (m,), ascending
        beyond the last; ids: m; norms: (m,) float32."""
        m = len(vectors)
        self._check(m, vectors, keys_rel, ids, norms)
        if m == 0:
            return
        self._vectors.append(self.done, vectors, self._put)
        self._put(fmt.KEYS, self.done, keys_rel)
        self._put(fmt.NORMS, self.done, norms)
        encoded = encode_ids(ids)
        if isinstance(encoded, np.ndarray):
            self._put(fmt.IDS, self.done, encoded)
        else:
            self._put_str_ids(encoded)
        self.done += m
        self._last_key = int(keys_rel[-1])

    def finish(self) -> SegmentFile:
        """Hashes what was written (read back from the page cache) and closes the file."""
        if self.done != self.rows:
            raise ValueError(f"{self.done} of {self.rows} rows were appended")
        if self._id_total is not None and self._id_done != self._id_total:
            raise ValueError(f"{self._id_done} of {self._id_total} bytes of ids were appended")
        self._vectors.finish(self._put, self._get)
        table = self._extents[fmt.BLOCK_XXH3]
        whole = xxhash.xxh3_64()
        blocks = hash_blocks(self._fd, table.offset, whole)
        padded = np.zeros(table.shape, fmt.HASH_DTYPE)
        padded[: len(blocks)] = blocks
        hit(HASHES)
        self._put(fmt.BLOCK_XXH3, 0, padded)
        size = hash_rest(self._fd, table.offset, whole)
        os.close(self._fd)
        self._fd = -1
        self._finished = True
        return SegmentFile(size, whole.intdigest(), self.rows)

    def abandon(self) -> None:
        """Closes and unlinks."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self.path.unlink(missing_ok=True)

    def _check(
        self,
        m: int,
        vectors: NDArray[Any] | SparseRows,
        keys_rel: NDArray[np.uint64],
        ids: Ids | Sequence[bytes],
        norms: NDArray[np.float32],
    ) -> None:
        self._vectors.check(vectors)
        if not m == len(keys_rel) == len(ids) == len(norms):
            raise ValueError(f"{m} vectors, {len(keys_rel)} keys, {len(ids)} ids, {len(norms)} norms")
        if self.done + m > self.rows:
            raise ValueError(f"{self.done + m} rows for a segment of {self.rows}")
        if m and (int(keys_rel[0]) <= self._last_key or not (keys_rel[1:] > keys_rel[:-1]).all()):
            raise ValueError("keys do not ascend")

    def _put(self, name: str, at: int, numbers: NDArray[Any]) -> None:
        extent = self._extents[name]
        row_bytes = extent.dtype.itemsize * int(np.prod(extent.shape[1:], dtype=np.int64))
        data = np.ascontiguousarray(numbers, extent.dtype).reshape(-1).view(np.uint8).data
        _write(self._fd, data, extent.offset + at * row_bytes)

    def _get(self, name: str, start: int, end: int) -> NDArray[Any]:
        """What was put there, from the page cache. Of a dataset of one dimension."""
        extent = self._extents[name]
        width = extent.dtype.itemsize
        raw = os.pread(self._fd, (end - start) * width, extent.offset + start * width)
        return np.frombuffer(raw, extent.dtype, end - start)

    def _put_str_ids(self, encoded: list[bytes]) -> None:
        joined = b"".join(encoded)
        if self._id_total is None or self._id_done + len(joined) > self._id_total:
            raise ValueError("more bytes of ids than announced")
        lengths = np.fromiter(map(len, encoded), np.uint64, len(encoded))
        # Entry done is the end of what was there before (0 at the start); each id adds its own end.
        offsets = np.concatenate([np.zeros(1, np.uint64), np.cumsum(lengths)]) + np.uint64(self._id_done)
        self._put(fmt.ID_OFFSETS, self.done, offsets)
        self._put(fmt.ID_BYTES, self._id_done, np.frombuffer(joined, np.uint8))
        self._id_done += len(joined)


def _part(rows: int, dimension: int, dtype: np.dtype[Any], nonzeros: Nonzeros | None) -> VectorsPart:
    return DenseVectors(rows, dimension, dtype) if nonzeros is None else SparseVectors(rows, dimension, dtype, nonzeros)


def _shapes(
    vectors: VectorsPart, rows: int, dimension: int, dtype: np.dtype[Any], metric: str, id_bytes_total: int | None
) -> Shapes:
    """The datasets in the order they lie in the file."""
    if rows < 1 or dimension < 1:
        raise ValueError(f"a segment of {rows} rows of dimension {dimension}")
    if dtype not in fmt.VECTOR_DTYPES or metric not in fmt.METRICS:
        raise ValueError(f"a segment of {dtype} under {metric}")
    shapes: Shapes = {
        **vectors.shapes(),
        fmt.KEYS: ((rows,), fmt.KEY_DTYPE),
        fmt.NORMS: ((rows,), fmt.NORM_DTYPE),
    }
    if id_bytes_total is None:
        shapes[fmt.IDS] = ((rows,), fmt.INT_ID_DTYPE)
    else:
        shapes[fmt.ID_OFFSETS] = ((rows + 1,), fmt.KEY_DTYPE)
        shapes[fmt.ID_BYTES] = ((id_bytes_total,), fmt.BYTE_DTYPE)
    # Sized before HDF5 has said where it will lie: what lies before it is at most this.
    shapes[fmt.BLOCK_XXH3] = ((block_count(_upper_bytes(shapes)),), fmt.HASH_DTYPE)
    return shapes


def _upper_bytes(shapes: Shapes) -> int:
    """No smaller than the file will be: each dataset may skip to the next page, and the headers take some."""
    numbers = sum(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize for shape, dtype in shapes.values())
    return numbers + (len(shapes) + 1) * fmt.ALIGNMENT + 4 * META_BYTES


def require_room(folder: Path, needed: int) -> None:
    """Raises OSError (ENOSPC) where a segment of so many bytes would take what others need to go on."""
    room = os.statvfs(folder)
    if room.f_bavail * room.f_frsize < needed + SPARE_BYTES:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: a segment needs {needed} bytes", os.fspath(folder))


def layout_of(
    path: Path,
    rows: int,
    dimension: int,
    dtype: Any,
    metric: str,
    id_bytes_total: int | None,
    nonzeros: Nonzeros | None = None,
) -> dict[str, fmt.Extent]:
    """Where the datasets of such a segment lie: always the same. path: of the skeleton that is made to find out."""
    vectors = _part(rows, dimension, np.dtype(dtype), nonzeros)
    shapes = _shapes(vectors, rows, dimension, np.dtype(dtype), metric, id_bytes_total)
    return _lay_out(path, metric, rows, dimension, shapes, None)


def _lay_out(
    path: Path, metric: str, rows: int, dimension: int, shapes: Shapes, base_key: int | None
) -> dict[str, fmt.Extent]:
    """The HDF5 skeleton: every dataset has its place, none its numbers (the file is sparse)."""
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_alignment(1, fmt.ALIGNMENT)
    access.set_meta_block_size(META_BYTES)
    # From 1.10 on HDF5 puts checksums on its own headers.
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    # No times inside the file: the same rows always make the same bytes.
    root = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    root.set_obj_track_times(False)
    how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    how.set_layout(h5py.h5d.CONTIGUOUS)
    how.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    how.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    how.set_obj_track_times(False)
    extents = {}
    with h5py.File(h5py.h5f.create(os.fsencode(path), h5py.h5f.ACC_TRUNC, fcpl=root, fapl=access)) as file:
        texts = {"format": fmt.text_attribute(fmt.FORMAT), "metric": fmt.text_attribute(metric)}
        version = fmt.VERSION if fmt.VECTORS in shapes else fmt.SPARSE_VERSION
        file.attrs.update(texts, version=version, rows=rows, dimension=dimension)
        if base_key is not None:
            file.attrs["base_key"] = base_key
        for name, (shape, dtype) in shapes.items():
            space = h5py.h5s.create_simple(shape)
            dataset = h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(dtype), space, how)
            extents[name] = fmt.Extent(dataset.get_offset() or 0, shape, dtype)
    return extents


def _write(fd: int, data: memoryview, at: int) -> None:
    for start in range(0, len(data), BLOCK_BYTES):
        part = data[start : start + BLOCK_BYTES]
        _write_part(fd, part, at + start)
    start_writing(fd, len(data))


def _write_part(fd: int, part: memoryview, at: int) -> None:
    hit(WRITE, lambda: os.pwrite(fd, part[: len(part) // 2], at))
    while part:
        n = os.pwrite(fd, part, at)
        part, at = part[n:], at + n
