"""Numbers and nothing else, as a memory map leaves them: one file, or a folder of shards that are joined.

dtype and shape are told, not read: a dtype by name is little-endian, as NumPy spells it (`>f4`) it may be either.
"""

import math
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import numpy as np

from storage.files.columns import opened, reader_of
from storage.files.contract import BadFile, Batch, Outline, Reader, ReadOptions, WriteOptions, Writer
from storage.files.flat import FlatWriter
from storage.files.folder import NewFolder
from storage.files.joined import join
from storage.files.numbers import BFLOAT16, FLOATS, Matrix, float_dtype, item_shape
from storage.files.options import only, plain
from storage.files.order import UNORDERED, files_of, uuid_of
from storage.files.output import Count, Output, dense, little_endian
from storage.files.parts import Parts
from storage.files.source import Part, open_file

SHARD_BYTES: Final = 256 << 20
"""How long a shard becomes; at least one row."""


def read_raw(path: Path, options: ReadOptions) -> Reader:
    """One file, which must be as long as dtype and shape say."""
    only(options, "dtype", "shape", "flatten", of="raw numbers")
    dtype, (rows, *item) = _dtype(options.dtype), _shape(options.shape)

    def made(files: ExitStack) -> Parts:
        source = Part(files.enter_context(open_file(path)))
        n, shape = _rows(source.size, rows, tuple(item), dtype, options.flatten)
        return reader_of(Matrix(source, 0, n, shape, dtype))

    return opened(made)


def read_shards(path: Path, options: ReadOptions) -> Reader:
    """A folder of such files as one, in the order of `order.files_of`; a number of rows in shape is that of all."""
    rows, *item = _shape(options.shape)
    shards = files_of(path)
    names = [uuid for shard in shards if (uuid := uuid_of(shard)) is not None]
    unordered = len(names) == len(shards) > 1 and any(uuid.version != 7 for uuid in names)
    each = replace(options, shape=(-1, *item))
    joined = join(shards, lambda shard: read_raw(shard, each), (UNORDERED,) if unordered else ())
    if rows not in (-1, joined.outline.rows):
        joined.close()
        raise BadFile(f"the shards hold {joined.outline.rows} rows, and shape says {rows}")
    return joined


def write_raw(path: Path, outline: Outline, options: WriteOptions) -> Writer:
    """(n, d) in C order, little-endian."""
    plain(options, of="raw numbers")
    return FlatWriter(path, outline)


def write_shards(path: Path, outline: Outline, options: WriteOptions) -> Writer:
    """A folder of raw files of SHARD_BYTES at most, named by UUIDs that ascend."""
    plain(options, of="raw numbers")
    return _Shards(path, outline)


class _Shards:
    def __init__(self, path: Path, outline: Outline) -> None:
        self._outline = outline
        self._count = Count(outline)
        self._shard_rows = max(1, SHARD_BYTES // (outline.dimension * little_endian(outline).itemsize))
        self._began_ms = time.time_ns() // 1_000_000
        self._shards = 0
        self._open: Output | None = None
        self._folder = NewFolder(path)

    def write(self, batch: Batch) -> None:
        vectors = dense(batch, self._outline)
        while len(vectors):
            room = self._shard_rows - self._count.done % self._shard_rows
            if self._open is None or room == self._shard_rows:
                self._open = self._next_shard()
            self._count.add(len(vectors[:room]))
            self._open.array(vectors[:room])
            vectors = vectors[room:]

    def finish(self) -> None:
        self._count.finish()
        if self._open is None:  # A folder of no file would be no shards.
            self._open = self._next_shard()
        self._open.close()

    def abort(self) -> None:
        if self._open is not None:
            self._open.abort()
        self._folder.abort()

    def _next_shard(self) -> Output:
        if self._open is not None:
            self._open.close()
        # Two within a millisecond would stand in any order: each is dated one later than the one before it.
        self._shards += 1
        return self._folder.new_file(f"{_uuid7(self._began_ms + self._shards)}.raw")


def _uuid7(at_ms: int) -> UUID:
    random = uuid4().int & (1 << 80) - 1
    return UUID(int=at_ms << 80 | random & ~(0xF << 76) | 0x7 << 76)


def _dtype(name: str | None) -> np.dtype[Any] | str:
    if name is None:
        raise BadFile("raw numbers say not what they are: give dtype= (float32, …) and shape= (-1,768)")
    if name == BFLOAT16:
        return BFLOAT16
    return np.dtype(name).newbyteorder("<") if name in FLOATS else float_dtype(name)


def _shape(shape: tuple[int, ...] | None) -> tuple[int, ...]:
    if not shape:
        raise BadFile("raw numbers say not how long a row is: give shape= (-1,768: as many rows as there are)")
    if len(shape) == 1:
        shape = (-1, *shape)
    if shape[0] < -1 or any(extent < 1 for extent in shape[1:]):
        raise BadFile(f"shape {shape} is none: (rows or -1, d), d from 1")
    return shape


def _rows(
    size: int, rows: int, item: tuple[int, ...], dtype: np.dtype[Any] | str, flatten: bool
) -> tuple[int, tuple[int, ...]]:
    """How many rows lie in `size` bytes, and the shape of one. Raises BadFile where that is no whole number, or
    another than was told."""
    _, item = item_shape((0, *item), flatten)
    row_bytes = math.prod(item) * (2 if isinstance(dtype, str) else dtype.itemsize)
    found, rest = divmod(size, row_bytes)
    if rest or rows not in (-1, found):
        wanted = "a whole number" if rows == -1 else str(rows)
        raise BadFile(f"{size:,} bytes are not {wanted} of rows of {row_bytes:,} bytes: dtype or shape is another")
    return found, item
