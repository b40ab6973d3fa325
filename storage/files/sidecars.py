"""Ids and metadata in files of their own, beside vectors whose format holds neither.

`NAME.ids.npy`: int64, or strings of NumPy's (`U` as written here; `S` is read as UTF-8 too), one for each row.
`NAME.metadata.jsonl`: a line for each row, a JSON object or `null`. NAME is the vectors' file without its ending.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from seedvec import npy_header
from storage.files import npy_part
from storage.files.contract import BadFile, Batch, Outline, Reader, WriteOptions, Writer
from storage.files.formats import Format
from storage.files.ids import IdColumn
from storage.files.lines import Lines
from storage.files.output import Output
from storage.files.source import Part, open_file
from storage.files.spilled import Spilled

IDS_ENDING: Final = ".ids.npy"
METADATA_ENDING: Final = ".metadata.jsonl"


def beside(path: Path, fmt: Format) -> tuple[Path, Path]:
    """Where the ids and the metadata of that file stand, if they do."""
    name = path.name
    for suffix in fmt.suffixes:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            name = name[: -len(suffix)]
            break
    return path.with_name(name + IDS_ENDING), path.with_name(name + METADATA_ENDING)


def read_beside(reader: Reader, ids: Path | None, metadata: Path | None) -> Reader:
    """The same rows with ids and metadata from those files, in place of what the reader itself gives. Closes the
    reader with it, also where it raises BadFile: no such file as said above, or another number of rows."""
    with ExitStack() as files:
        files.callback(reader.close)
        column = None
        if ids is not None:
            column = npy_part.ids(Part(files.enter_context(open_file(ids))), ids.name)
        lines = None
        if metadata is not None:
            lines = Lines(Part(files.enter_context(open_file(metadata))), metadata.name)
        beside_it = _ReadBeside(reader, column, lines)
        beside_it.files = files.pop_all()
    return beside_it


def write_beside(fmt: Format, path: Path, outline: Outline, options: WriteOptions) -> Writer:
    """A writer of that format that puts what the format cannot hold into the files beside; `fmt.write` where it holds
    all that the outline has. Raises as `fmt.write` does."""
    apart = replace(
        outline,
        ids=None if fmt.holds_ids else outline.ids,
        metadata=outline.metadata and not fmt.holds_metadata,
    )
    held = replace(
        outline,
        ids=outline.ids if fmt.holds_ids else None,
        metadata=outline.metadata and fmt.holds_metadata,
    )
    writer = fmt.write(path, held, options)
    if apart.ids is None and not apart.metadata:
        return writer
    try:
        return _WriteBeside(writer, apart, *beside(path, fmt))
    except BaseException:
        writer.abort()
        raise


class _ReadBeside:
    def __init__(self, reader: Reader, ids: IdColumn | None, metadata: Lines | None) -> None:
        self.files = ExitStack()
        self._reader = reader
        self._ids = ids
        self._metadata = metadata
        rows = reader.outline.rows
        if ids is not None and rows is not None and ids.rows != rows:
            raise BadFile(f"there are {ids.rows} ids and {rows} vectors")
        self.outline = replace(
            reader.outline,
            ids=reader.outline.ids if ids is None else ids.kind,
            metadata=reader.outline.metadata or metadata is not None,
        )

    def batches(self, rows: int) -> Iterator[Batch]:
        start = 0
        for batch in self._reader.batches(rows):
            rest = batch
            while rest.rows:
                part = self._with(rest, start)
                yield part
                start += part.rows
                rest = rest.part(part.rows, rest.rows)
        self._end(start)

    def close(self) -> None:
        self.files.close()

    def _with(self, batch: Batch, start: int) -> Batch:
        """The first rows of the batch, as many as there is metadata at once; start: the row of its first."""
        if self._metadata is not None:
            metadata = self._metadata.take(start, start + batch.rows)
            batch = batch.part(0, len(metadata))._replace(metadata=metadata)
        if self._ids is not None:
            if self._ids.rows < start + batch.rows:
                raise BadFile(f"there are {self._ids.rows} ids, and more vectors", self._ids.rows)
            batch = batch._replace(ids=self._ids.take(start, start + batch.rows))
        return batch

    def _end(self, rows: int) -> None:
        if self._ids is not None and self._ids.rows != rows:
            raise BadFile(f"there are {self._ids.rows} ids and {rows} vectors", rows)
        if self._metadata is not None:
            if not rows:
                self._metadata.take(0, 0)
            self._metadata.finish(rows)


class _WriteBeside:
    """The vectors as they come; the files beside when all ids are known."""

    def __init__(self, writer: Writer, apart: Outline, ids: Path, metadata: Path) -> None:
        self._writer = writer
        self._rows = apart.rows or 0
        self._aside = Spilled(apart, ids.parent)
        self._ids = ids
        self._metadata = metadata
        self._made: list[Output] = []

    def write(self, batch: Batch) -> None:
        self._aside.add(batch)
        self._writer.write(Batch(batch.vectors))

    def finish(self) -> None:
        if self._aside.ids is not None:
            dtype = self._aside.ids.dtype
            output = self._new(self._ids)
            output.file.write(npy_header.build(dtype.str, (self._rows,)))
            for array in self._aside.ids.arrays(dtype):
                output.array(array)
            output.close()
        if self._aside.lines is not None:
            output = self._new(self._metadata)
            output.file.writelines(self._aside.lines.chunks())
            output.close()
        self._aside.close()
        self._writer.finish()

    def abort(self) -> None:
        self._aside.close()
        for output in self._made:
            output.abort()
        self._writer.abort()

    def _new(self, path: Path) -> Output:
        self._made.append(Output(path))
        return self._made[-1]
