"""Parquet, and Arrow's own files and streams (Feather too): a column of vectors, one of ids, and the rest as metadata.

What Arrow reads is validated whole, offsets and UTF-8 included, before a number of it is used.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from storage.files import arrow_columns, foreign, numbers
from storage.files.arrow_columns import DIMENSION, item_shape, stored_type
from storage.files.arrow_write import ID, METADATA, VECTOR, write_arrow, write_parquet
from storage.files.contract import BadFile, Batch, IdKind, Outline, Reader, ReadOptions
from storage.files.lines import TAKEN_BYTES_MAX
from storage.files.naming import IDS, beside_them, the_vectors
from storage.files.options import only
from storage.files.source import open_file

__all__ = ["read_arrow", "read_parquet", "write_arrow", "write_parquet"]

told = partial(foreign.told, "Arrow")
_RAISED: Final = (pa.ArrowException, ValueError, OverflowError, OSError)
"""By Arrow, where calls of ours stand among its own."""
MAGIC: Final = b"ARROW1"
COLUMNS_MAX: Final = 10_000
BATCH_BYTES: Final = 64 << 20
"""Of the rows of a Parquet file that are decoded at once, by the sizes in its footer."""
BUFFER_BYTES: Final = 1 << 20
"""Of each column of a Parquet file at a time; without it a whole row group is read."""
THRIFT_BYTES_MAX: Final = 64 << 20
INDEX_OF_PANDAS: Final = "__index_level_"
Batches = Callable[[int, list[str]], Iterator[pa.RecordBatch]]
"""(rows, columns) → the file's batches, of at most so many rows where the format allows."""


class Chosen(NamedTuple):
    """Which columns are what."""

    vectors: str
    ids: str | None
    whole: str | None
    """Metadata as objects."""
    fields: list[str]

    @property
    def columns(self) -> list[str]:
        return [name for name in (self.vectors, self.ids, self.whole, *self.fields) if name is not None]


def read_parquet(path: Path, options: ReadOptions) -> Reader:
    """vectors: a column of lists of floats of one length, or of sparse ones; metadata: columns joined by commas, else
    all the others. Raises BadFile and OSError."""
    with ExitStack() as failed, told(path.name):
        file = failed.enter_context(open_file(path))
        parquet = pq.ParquetFile(
            pa.PythonFile(file, "r"),
            buffer_size=BUFFER_BYTES,
            pre_buffer=False,
            thrift_string_size_limit=THRIFT_BYTES_MAX,
            thrift_container_size_limit=1 << 24,
        )
        # No more is asked of the footer than this: of damaged columns pyarrow speaks by ending the process.
        groups = [parquet.metadata.row_group(i) for i in range(parquet.metadata.num_row_groups)]
        row_bytes = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=1)
        rows = parquet.metadata.num_rows

        def batches(most: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
            most = max(1, min(most, BATCH_BYTES // max(1, row_bytes)))
            yield from parquet.iter_batches(most, columns=columns, use_threads=False)

        return ArrowReader(parquet.schema_arrow, rows, batches, options, failed.pop_all())


def read_arrow(path: Path, options: ReadOptions) -> Reader:
    """A file or a stream, the same way."""
    with ExitStack() as failed, told(path.name):
        with open_file(path) as file:
            stream = file.read(len(MAGIC)) != MAGIC
        # Mapped: a batch may be as large as the file, and only what is looked at is then in memory.
        mapped = failed.enter_context(pa.memory_map(str(path)))
        if stream:
            schema, count = pa.ipc.open_stream(mapped).schema, None
        else:
            opened = pa.ipc.open_file(mapped)
            schema, count = opened.schema, opened.count_rows()

        def batches(_: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
            mapped.seek(0)
            if stream:
                yield from (batch.select(columns) for batch in pa.ipc.open_stream(mapped))
            else:
                file = pa.ipc.open_file(mapped)
                yield from (file.get_batch(i).select(columns) for i in range(file.num_record_batches))

        return ArrowReader(schema, count, batches, options, failed.pop_all())


class ArrowReader:
    """See `Reader`."""

    def __init__(
        self, schema: pa.Schema, count: int | None, batches: Batches, options: ReadOptions, files: ExitStack
    ) -> None:
        self._batches = batches
        self._files = files
        try:
            with told("the schema", _RAISED):
                only(options, "vectors", "ids", "metadata", "flatten", "shape", of="Arrow")
                self._chosen = _choose(schema, options)
                self.outline = self._outline(schema, count, options)
        except BaseException:
            files.close()
            raise

    def batches(self, rows: int) -> Iterator[Batch]:
        done = 0
        found = iter(self._batches(rows, self._chosen.columns))
        while True:
            with told("the rows"):
                batch = next(found, None)
                if batch is None:
                    break
                batch.validate(full=True)
            start = 0
            while start < batch.num_rows:
                with told("the rows", _RAISED):
                    part = self._part(batch.slice(start, rows), done)
                yield part
                start += part.rows
                done += part.rows
        if self.outline.rows is not None and done != self.outline.rows:
            raise BadFile(f"{done} rows, and its headers say {self.outline.rows}")

    def close(self) -> None:
        self._files.close()

    def _part(self, batch: pa.RecordBatch, first: int) -> Batch:
        """Of the first rows, as many as are not long together."""
        chosen, outline = self._chosen, self.outline
        metadata = None
        if outline.metadata:
            columns = [name for name in (chosen.whole, *chosen.fields) if name is not None]
            size = sum(batch.column(name).nbytes for name in columns)
            if size > TAKEN_BYTES_MAX:
                batch = batch.slice(0, max(1, batch.num_rows * TAKEN_BYTES_MAX // size))
            metadata = arrow_columns.metadata(batch, chosen.whole, chosen.fields, first)
            batch = batch.slice(0, len(metadata))
        column = batch.column(chosen.vectors)
        take: Any = arrow_columns.sparse if outline.sparse else arrow_columns.dense
        return Batch(
            take(column, outline.dimension, first),
            None if chosen.ids is None else arrow_columns.ids(batch.column(chosen.ids), chosen.ids, first),
            metadata,
        )

    def _outline(self, schema: pa.Schema, count: int | None, options: ReadOptions) -> Outline:
        chosen = self._chosen
        field = schema.field(chosen.vectors)
        sparse = arrow_columns.is_sparse(field.type)
        shape = (_columns_of(field, options),) if sparse else item_shape(field.type) or (self._first_length(),)
        _, item = numbers.item_shape((count or 0, *shape), options.flatten)
        ids: IdKind | None = None
        if chosen.ids is not None:
            kind = schema.field(chosen.ids).type
            text = arrow_columns.is_text(getattr(kind, "value_type", kind))
            ids = "str" if text else "int"
        return Outline(
            arrow_columns.width(item),
            "float32" if sparse else arrow_columns.dense_dtype(field.type),  # type: ignore[arg-type]
            count,
            sparse=sparse,
            ids=ids,
            metadata=chosen.whole is not None or bool(chosen.fields),
        )

    def _first_length(self) -> int:
        """Lists of any length: all must be as long as the first."""
        for batch in self._batches(1, [self._chosen.vectors]):
            if batch.num_rows:
                batch.validate(full=True)
                first = batch.column(0)[0]
                return len(first) if first.is_valid else 0
        raise BadFile("holds no row, so that nobody knows how long a vector is")


def _choose(schema: pa.Schema, options: ReadOptions) -> Chosen:
    names = list(schema.names)
    if len(set(names)) < len(names) or len(names) > COLUMNS_MAX:
        raise BadFile("has two columns of one name, or too many columns")
    able = {field.name: field.type for field in schema}
    dense = [name for name, kind in able.items() if arrow_columns.is_dense(kind)]
    structs = [name for name, kind in able.items() if arrow_columns.is_sparse(kind) and not hasattr(kind, "value_type")]
    if options.vectors is None:
        usual = VECTOR if VECTOR in dense or VECTOR in structs else None
        vectors = the_vectors(dense or structs, usual)
    else:
        vectors = the_vectors(names, options.vectors)
        if not arrow_columns.is_dense(able[vectors]) and not arrow_columns.is_sparse(able[vectors]):
            raise BadFile(f"{vectors!r} is of type {able[vectors]}: vectors are lists of floats of one length")
    ids = options.ids
    if ids is None:
        ids = next((name for name in (ID, IDS) if name in able and arrow_columns.is_ids(able[name])), None)
    ids = beside_them(names, ids, "") if ids is not None else None
    if ids is not None and not arrow_columns.is_ids(able[ids]):
        raise BadFile(f"{ids!r} is of type {able[ids]}: ids are whole numbers or text")
    if options.metadata is None:
        rest = [name for name in names if name not in (vectors, ids) and not name.startswith(INDEX_OF_PANDAS)]
    else:
        asked = [name.strip() for name in options.metadata.split(",") if name.strip()]
        rest = [found for name in asked if (found := beside_them(names, name, "")) is not None]
    whole = METADATA if METADATA in rest and _is_whole(able[METADATA]) else None
    return Chosen(vectors, ids, whole, [name for name in dict.fromkeys(rest) if name != whole])


def _is_whole(kind: pa.DataType) -> bool:
    kind = stored_type(kind)
    return arrow_columns.is_text(kind) or pa.types.is_struct(kind)


def _columns_of(field: pa.Field, options: ReadOptions) -> int:
    said = (field.metadata or {}).get(DIMENSION, b"")
    if said.isdigit() and len(said) < 10:
        return int(said)
    if not options.shape:
        raise BadFile(f"{field.name!r} does not say how many columns there are; say it: shape=-1,1000")
    return options.shape[-1]
