"""Keeps the metadata side of a worker's view, from the first filter on: until somebody filters, it costs nothing.

A segment's columns are mapped from the file beside it. Where there is none yet, or so much was patched since that
carrying it would cost more, they are derived here, in a thread and in memory, until the sealer has written them.
"""

import logging
from collections.abc import Collection, Sequence
from concurrent.futures import Executor, Future
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.engine.deriving import MAX_PATCHES, SLICE_ROWS, derive
from app.engine.fields import Fields
from app.engine.segments import OpenSegment, Part
from storage import catalogue
from storage.catalogue import SegmentRow
from storage.columns import ColumnsFileError, open_columns
from storage.database import Database
from storage.documents import patches_kept_since, read_documents, read_patches, read_patches_within
from storage.layout import SEGMENTS_NAME

log = logging.getLogger(__name__)
CAUGHT_UP_SHARE = 2
"""Where less than half of a segment was patched, that alone is read. A worker does it twice as fast, or better."""
Documents = dict[int, bytes | None]
"""By key."""


class Described:
    """Belongs to the event loop's thread, and its methods inside a read transaction of `db`."""

    def __init__(self, folder: Path, db: Database, pool: Executor) -> None:
        self.wanted = False
        self._followed_before = False
        self._folder = folder
        self._db = db
        self._pool = pool
        self._derived: dict[int, Fields] = {}
        """By segment: made here. A view that holds them keeps them."""
        self._deriving: dict[int, Future[Fields]] = {}
        self._damaged: set[str] = set()
        """Columns files that did not hold what they should. The next start finds them too, and has them made anew."""

    def loaded(self) -> bool:
        return any(future.done() for future in self._deriving.values())

    def distrust(self, segment: SegmentRow, why: str) -> None:
        if segment.columns is not None and segment.columns.file not in self._damaged:
            log.error("columns %s are damaged, they are derived in memory: %s", segment.columns.file, why)
            self._damaged.add(segment.columns.file)
        self._followed_before = False  # so that all are opened again

    def patched_since(self, log_pos: int | None, present: int) -> Documents | None:
        """What was patched after that position of the log; None: not followed so far, or too much to be carried."""
        if log_pos is None or not self._followed_before:
            return None
        if log_pos == present:
            return {}
        keys = read_patches(self._db, log_pos, MAX_PATCHES + 1)
        return None if len(keys) > MAX_PATCHES else self._documents(keys)

    def _documents(self, keys: NDArray[np.int64]) -> Documents:
        keys = np.sort(keys)
        return dict(zip(keys.tolist(), read_documents(self._db, keys), strict=True))

    def follow(self, parts: Sequence[Part], patched: Documents | None) -> tuple[Part, ...]:
        """The parts with what was patched. patched: since the last time; None: not known."""
        self._take()
        self._followed_before = True
        keys = np.array(sorted(patched or ()), np.int64)
        return tuple(self._followed(part, patched, keys) for part in parts)

    def _take(self) -> None:
        for seq, future in list(self._deriving.items()):
            if not future.done():
                continue
            del self._deriving[seq]
            if future.exception() is None:  # who waits for it is told; nobody else need suffer
                self._derived[seq] = future.result()

    def _followed(self, part: Part, patched: Documents | None, keys: NDArray[np.int64]) -> Part:
        row, fields = part.segment.row, part.fields
        newer = fields is not None and row.columns is not None and row.columns.log_pos > fields.log_pos
        if fields is None or patched is None or newer:
            return self._opened(part)
        rows = part.segment.rows_of(keys)
        if not len(rows):
            return part
        if len(fields.patches) - fields.caught_up + len(rows) > 2 * MAX_PATCHES:
            return self._opened(part)
        return Part(part.segment, part.alive, _laid_over(fields, part, rows, patched))

    def _opened(self, part: Part) -> Part:
        """With fields from the file or made here, and all patches since; without, where neither will do."""
        row = part.segment.row
        fields = self._from_file(row)
        made = self._derived.pop(row.seq, None)
        if made is not None and (fields is None or made.log_pos > fields.log_pos):
            fields = made
        if fields is not None and fields.log_pos < patches_kept_since(self._db, row.seq):
            fields = None  # what it lacks, no log has any more
        if fields is not None:
            keys = read_patches_within(self._db, row, fields.log_pos, limit=MAX_PATCHES + 1)
            rows = part.segment.rows_of(keys)
            if len(keys) > MAX_PATCHES:
                fields = None
            elif len(rows):
                fields = _laid_over(fields, part, rows, self._documents(keys))
        return Part(part.segment, part.alive, fields)

    def _from_file(self, row: SegmentRow) -> Fields | None:
        if row.columns is None or row.columns.file in self._damaged:
            return None
        return _from_file(self._folder, row)

    def missing(self, parts: Collection[Part]) -> list[Future[Fields]]:
        """Starts deriving what `parts` lack; empty: they lack nothing."""
        lacking = [part.segment for part in parts if part.fields is None]
        for segment in lacking:
            if segment.row.seq not in self._deriving:
                self._deriving[segment.row.seq] = self._pool.submit(self._derive, segment)
        return [self._deriving[segment.row.seq] for segment in lacking]

    def _derive(self, segment: OpenSegment) -> Fields:
        """In a thread, with a connection of its own."""
        with closing(catalogue.connect(self._folder)) as db:
            fields = self._from_file(segment.row)
            made = None if fields is None else _caught_up(db, segment, fields)
            if made is None:
                log.info("columns of %s (%d rows) are derived in memory", segment.row.file, segment.row.rows)
                made = Fields.of(*derive(db, segment.keys()))
            return made

    def close(self) -> None:
        for future in self._deriving.values():
            future.cancel()


def _laid_over(fields: Fields, part: Part, rows: NDArray[np.int64], documents: Documents) -> Fields:
    return fields.patched(rows.tolist(), (documents[key] for key in part.segment.keys_at(rows)))


def _from_file(folder: Path, row: SegmentRow) -> Fields | None:
    if row.columns is None:
        return None
    try:
        return Fields.of(open_columns(folder / SEGMENTS_NAME / row.columns.file), row.columns.log_pos)
    except FileNotFoundError:
        return None
    except (ColumnsFileError, OSError) as e:
        log.warning("columns %s cannot be opened, they are derived in memory: %s", row.columns.file, e)
        return None


def _caught_up(db: Database, segment: OpenSegment, fields: Fields) -> Fields | None:
    """With what was patched since; None where making all columns anew costs less, or the log does not say any more."""
    with db.reading():
        if fields.log_pos < patches_kept_since(db, segment.row.seq):
            return None
        log_pos = catalogue.read_state(db).log_pos
        patched = segment.rows_of(read_patches_within(db, segment.row, fields.log_pos))
    if len(patched) > segment.row.rows // CAUGHT_UP_SHARE:
        return None
    documents: list[bytes | None] = []
    keys = np.array(segment.keys_at(patched), np.int64)
    for begin in range(0, len(keys), SLICE_ROWS):
        documents += read_documents(db, keys[begin : begin + SLICE_ROWS])
    made = fields.patched(patched.tolist(), documents)
    return replace(made, log_pos=log_pos, caught_up=len(patched))
