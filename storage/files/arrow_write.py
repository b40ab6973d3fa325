"""Writes Parquet and Arrow files: `vector`, `id` and `metadata`, the last as JSON (a type of both formats)."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.files.arrow_columns import DIMENSION, INDICES, VALUES
from storage.files.contract import Batch, Outline, Sparse, WriteOptions, Writer
from storage.files.options import plain
from storage.files.output import Count, Output, dense

VECTOR: Final = "vector"
ID: Final = "id"
METADATA: Final = "metadata"
GROUP_BYTES: Final = 16 << 20
"""Of a row group, or a record batch: what is in memory at once."""
PARQUET_COMPRESSIONS: Final = ("zstd", "snappy", "gzip", "lz4", "brotli")
ARROW_COMPRESSIONS: Final = ("zstd", "lz4")


def write_parquet(path: Path, outline: Outline, options: WriteOptions) -> Writer:
    plain(options, *PARQUET_COMPRESSIONS, of="Parquet")
    schema = _schema(outline)

    def begin(sink: Any) -> Any:
        # Numbers of vectors are hardly ever the same twice: a dictionary of them would only cost time.
        return pq.ParquetWriter(
            sink, schema, compression=options.compression or "none", use_dictionary=False, write_statistics=[ID]
        )

    return ArrowWriter(path, outline, schema, begin)


def write_arrow(path: Path, outline: Outline, options: WriteOptions) -> Writer:
    """Arrow's file format, which is Feather's too."""
    plain(options, *ARROW_COMPRESSIONS, of="Arrow")
    schema = _schema(outline)
    how = pa.ipc.IpcWriteOptions(compression=options.compression)
    return ArrowWriter(path, outline, schema, lambda sink: pa.ipc.new_file(sink, schema, options=how))


class ArrowWriter:
    """Front to back: a pipe will do."""

    def __init__(self, path: Path, outline: Outline, schema: pa.Schema, begin: Any) -> None:
        self._outline = outline
        self._schema = schema
        self._count = Count(outline, sparse=True)
        self._output = Output(path)
        self._waiting: list[pa.RecordBatch] = []
        self._bytes = 0
        self._writer: Any = None
        try:
            self._writer = begin(pa.PythonFile(_Counting(self._output.file), "w"))
        except BaseException:
            self.abort()
            raise

    def write(self, batch: Batch) -> None:
        self._count.add(batch.rows)
        made = self._batch(batch)
        self._waiting.append(made)
        self._bytes += made.nbytes
        if self._bytes >= GROUP_BYTES:
            self._flush()

    def finish(self) -> None:
        self._count.finish()
        self._flush()
        self._writer.close()
        self._output.close()

    def abort(self) -> None:
        # Not closed: that would write an end to it. What it holds goes with it.
        self._writer = None
        self._output.abort()

    def _flush(self) -> None:
        if self._waiting:
            # Joined, so that a group is one however small the batches were.
            table = pa.Table.from_batches(self._waiting, self._schema).combine_chunks()
            self._waiting, self._bytes = [], 0
            self._writer.write_table(table)

    def _batch(self, batch: Batch) -> pa.RecordBatch:
        columns: list[pa.Array] = []
        if isinstance(batch.vectors, Sparse):
            columns.append(_sparse(batch.vectors, self._schema.field(VECTOR).type))
        else:
            flat = pa.array(dense(batch, self._outline).reshape(-1))
            columns.append(pa.FixedSizeListArray.from_arrays(flat, type=self._schema.field(VECTOR).type))
        if self._outline.ids is not None:
            columns.append(pa.array(batch.ids, self._schema.field(ID).type))
        if self._outline.metadata:
            texts = pa.array(batch.metadata or [], pa.binary()).cast(pa.utf8())
            columns.append(pa.ExtensionArray.from_storage(self._schema.field(METADATA).type, texts))
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)


class _Counting:
    """Where a file is that cannot say: a pipe knows no `tell`."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._at = 0
        self.closed = False

    def write(self, data: Any) -> int:
        self._file.write(data)
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        return self._at

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self.closed = True


def _schema(outline: Outline) -> pa.Schema:
    if outline.sparse:
        kind: pa.DataType = pa.struct([(INDICES, pa.list_(pa.int32())), (VALUES, pa.list_(pa.float32()))])
        vector = pa.field(VECTOR, kind, False, {DIMENSION: str(outline.dimension).encode()})
    else:
        number = pa.from_numpy_dtype(np.dtype(outline.dtype))
        vector = pa.field(VECTOR, pa.list_(pa.field("item", number, False), outline.dimension), False)
    columns = [vector]
    if outline.ids is not None:
        columns.append(pa.field(ID, pa.int64() if outline.ids == "int" else pa.utf8(), False))
    if outline.metadata:
        columns.append(pa.field(METADATA, pa.json_(pa.utf8())))
    return pa.schema(columns)


def _sparse(vectors: Sparse, kind: pa.DataType) -> pa.Array:
    ends = pa.array(vectors.indptr.astype(np.int32))
    indices = pa.ListArray.from_arrays(ends, pa.array(vectors.indices.astype(np.int32)))
    values = pa.ListArray.from_arrays(ends, pa.array(vectors.values))
    return pa.StructArray.from_arrays([indices, values], fields=list(kind))
