"""The metadata columns of a segment, made from the catalogue's JSON.

No snapshot is held while they are made. Whatever is patched after the log position read first stays in the log, and
is laid over the columns by whoever reads them; so columns of mixed moments are right, as long as none of their rows is
older than that position. A row that died meanwhile has no metadata any more: it is dead for every reader too.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.engine.background import Worked
from app.engine.segments import OpenSegment, open_one
from storage import atomic, catalogue, errors
from storage.catalogue import ColumnsRow, SegmentRow
from storage.columns import Columns, ColumnsBuilder
from storage.columns import write as write_file
from storage.database import Database
from storage.documents import has_metadata, read_documents, read_patches_within
from storage.failpoints import declare, hit
from storage.hashing import hex16
from storage.layout import SEGMENTS_NAME, columns_name
from storage.publish import Publisher

WRITE = declare("columns.write")
MAX_PATCHES = 20_000
"""Rows patched since its columns were made that a segment's readers carry in memory, at most about this many."""
MIN_PATCHES = 2_000
"""Fewer are not worth new columns, however small the segment."""
SLICE_ROWS = 10_000
"""Read and taken apart at once: about 50 ms."""


def patches_bound(rows: int) -> int:
    """So many patched rows of a segment make its columns due again."""
    return min(MAX_PATCHES, max(MIN_PATCHES, rows // 50))


class Deriving:
    """Work that can be left off between two slices."""

    def __init__(self, db: Database, keys: NDArray[np.int64]) -> None:
        """keys: of all rows, ascending."""
        self._db = db
        self._keys = keys
        self._builder = ColumnsBuilder(len(keys))
        self._done = 0
        self.log_pos = catalogue.read_state(db).log_pos
        """Patches up to there are in the columns."""

    def step(self) -> bool:
        """Takes the next slice. False: all rows are in."""
        part = self._keys[self._done : self._done + SLICE_ROWS]
        if len(part):
            self._builder.add(read_documents(self._db, part))
            self._done += len(part)
        return self._done < len(self._keys)

    def finish(self) -> Columns:
        return self._builder.finish()


def derive(db: Database, keys: NDArray[np.int64]) -> tuple[Columns, int]:
    """The columns of rows with those keys, and the log position that they are true for."""
    work = Deriving(db, keys)
    while work.step():
        pass
    return work.finish(), work.log_pos


def write_columns(folder: Path, segment: SegmentRow, columns: Columns, log_pos: int) -> ColumnsRow:
    """Written, synced and named; in no catalogue yet. folder: the collection's.

    Raises OSError; then no file is left."""
    final = folder / SEGMENTS_NAME / columns_name(segment.file, log_pos)
    tmp = atomic.temporary(final)
    try:
        hit(WRITE)
        size, digest = write_file(tmp, columns)
    except BaseException:
        atomic.remove(tmp)
        raise
    atomic.publish(tmp, final, "columns")
    return ColumnsRow(segment.seq, final.name, log_pos, size, hex16(digest))


def with_columns(db: Database, folder: Path, segment: SegmentRow, keys: NDArray[np.int64]) -> SegmentRow:
    """A new segment's row, with its columns written where the collection has any metadata."""
    if not has_metadata(db):
        return segment
    columns, log_pos = derive(db, keys)
    return replace(segment, columns=write_columns(folder, segment, columns, log_pos))


class ColumnsWork:
    """The sealer's: one segment's columns, a slice a step, published in the last."""

    def __init__(self, worked: Worked, row: SegmentRow) -> None:
        self._c = worked
        self._segment = open_one(worked.folder, row)
        self._work = Deriving(worked.reader, self._segment.keys())

    def step(self) -> bool:
        """False: done, or no longer wanted."""
        if self._work.step():
            return True
        c, row, log_pos = self._c, self._segment.row, self._work.log_pos
        columns = write_columns(c.folder, row, self._work.finish(), log_pos)
        try:
            old = c.publisher.add_columns(columns)
        except errors.Stale:
            atomic.remove(c.folder / SEGMENTS_NAME / columns.file)
            return False
        except BaseException as e:
            if not errors.is_undone(e):
                raise  # the catalogue may name them
            atomic.remove(c.folder / SEGMENTS_NAME / columns.file)
            raise
        if old is not None and old != columns.file:
            atomic.remove_all([c.folder / SEGMENTS_NAME / old])
        forget_patches(c.publisher, c.reader, self._segment, log_pos)
        return False


def forget_patches(publisher: Publisher, reader: Database, segment: OpenSegment, log_pos: int) -> None:
    """Once the segment's columns of that position are published: the log need not say any more what is in them."""
    patched = read_patches_within(reader, segment.row, 0, log_pos)
    mine = segment.keys()[segment.rows_of(patched)]
    publisher.forget_patches(mine, log_pos)
