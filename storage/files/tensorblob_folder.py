"""A folder of the tensorblob package, read and written without it: whatever its version 0.3.0 opens, and what it can
open. Its blobs hold vectors alone; in its databases (TensorDB) one field may be the ids, and other numbers metadata."""

import uuid
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storage.files import tensorblob_layout as layout
from storage.files.columns import opened, reader_of
from storage.files.contract import BadFile, Batch, Outline, Reader, ReadOptions, WriteOptions, Writer
from storage.files.folder import NewFolder
from storage.files.ids import IdColumn
from storage.files.naming import IDS, METADATA, beside_them, the_vectors
from storage.files.numbers import BFLOAT16, FLOATS, Matrix, item_shape
from storage.files.options import only, plain
from storage.files.output import Count, Output, dense, little_endian
from storage.files.parts import Parts
from storage.files.scalars import Scalars

BLOCK_ROWS = 8192
"""Of blocks written here; the package's own default."""
_UNCOMMITTED = "rows that were never committed to every field of the database are left out"


def read_tensorblob(path: Path, options: ReadOptions) -> Reader:
    """A blob; or of a database the field asked for, `vectors`, or the only one of more than one float a row."""
    if layout.kind(path) == layout.DATABASE:
        return _read_database(path, options)
    only(options, "flatten", of="a tensorblob")
    blob = layout.read_blob(path)
    return opened(lambda files: reader_of(_vectors(files, blob, blob.rows, options.flatten)))


def write_tensorblob(path: Path, outline: Outline, options: WriteOptions) -> Writer:
    """A blob of blocks of BLOCK_ROWS."""
    plain(options, of="a tensorblob")
    return _Tensorblob(path, outline)


def _read_database(path: Path, options: ReadOptions) -> Reader:
    only(options, "vectors", "ids", "metadata", "flatten", of="a tensorblob database")
    fields, rows = layout.read_database(path)
    vectors = the_vectors({name for name, blob in fields.items() if _can_be_vectors(blob)}, options.vectors)
    ids = beside_them(fields, options.ids, IDS)
    chosen = beside_them(fields, options.metadata, METADATA)
    scalars = [name for name, blob in fields.items() if blob.shape in ((), (1,)) and name not in (ids, vectors)]
    notes = (_UNCOMMITTED,) if any(blob.rows != rows for blob in fields.values()) else ()

    def made(files: ExitStack) -> Parts:
        def column(name: str) -> Matrix:
            return fields[name].matrix(files, rows, fields[name].shape)

        texts = {name: column(name) for name in (scalars if chosen is None else [chosen])}
        return reader_of(
            _vectors(files, fields[vectors], rows, options.flatten),
            None if ids is None else IdColumn(column(ids), ids),
            Scalars(texts) if texts else None,
            notes,
        )

    return opened(made)


def _can_be_vectors(blob: layout.Blob) -> bool:
    return blob.dtype in (*FLOATS, BFLOAT16) and blob.shape not in ((), (1,))


def _vectors(files: ExitStack, blob: layout.Blob, rows: int, flatten: bool) -> Matrix:
    if not _can_be_vectors(blob) and blob.shape != (1,):
        raise BadFile(f"{blob.folder.name}: vectors must be float16, float32, float64 or bfloat16, one or more a row")
    return blob.matrix(files, rows, item_shape((rows, *blob.shape), flatten)[1])


class _Tensorblob:
    """Blocks as the rows come; `.stat`, which alone says that they count, at the end."""

    def __init__(self, path: Path, outline: Outline) -> None:
        self._outline = outline
        self._count = Count(outline)
        self._row_bytes = outline.dimension * little_endian(outline).itemsize
        self._blocks: list[str] = []
        self._open: Output | None = None
        self._folder = NewFolder(path)

    def write(self, batch: Batch) -> None:
        vectors = dense(batch, self._outline)
        while len(vectors):
            taken = self._fill(vectors)
            self._count.add(taken)
            vectors = vectors[taken:]

    def finish(self) -> None:
        self._count.finish()
        self._end_block()
        conf = {
            "__notes__": {"args": [], "class_name": layout.BLOB, "kwargs": {}, "using_default_values": []},
            "block_size": BLOCK_ROWS,
            "dtype": self._outline.dtype,
            "shape": [self._outline.dimension],
        }
        stat = {"len": self._count.rows, "bds": self._blocks}
        for name, value in ((layout.CONF, conf), (layout.STAT, stat)):
            output = self._folder.new_file(name)
            output.file.write(layout.dump(value))
            output.close()

    def abort(self) -> None:
        if self._open is not None:
            self._open.abort()
        self._folder.abort()

    def _fill(self, vectors: NDArray[np.floating]) -> int:
        """How many of them went into the block that is open now."""
        in_block = self._count.done % BLOCK_ROWS
        if self._open is None or not in_block:
            self._end_block()
            self._blocks.append(str(uuid.uuid4()))
            self._open = self._folder.new_file(self._blocks[-1])
        part = vectors[: BLOCK_ROWS - in_block]
        self._open.array(part)
        return len(part)

    def _end_block(self) -> None:
        if self._open is not None:
            # The package maps whole blocks: what is missing of the last one is a hole of zeros.
            self._open.file.truncate(BLOCK_ROWS * self._row_bytes)
            self._open.close()
