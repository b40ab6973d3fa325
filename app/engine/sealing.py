"""Turns pending rows into sealed segments, keeps their metadata columns, brings the log home, gives back what was
deleted.

Sealing never waits for a build: it has a process of its own, so pending stays small while an index takes minutes.
"""

import logging
import time
from dataclasses import replace

import numpy as np

from app.engine.background import Worked
from app.engine.deriving import ColumnsWork, patches_bound, write_columns
from app.engine.files import write_sealed
from app.metrics.ours import JOB_SECONDS
from storage import atomic, catalogue, errors
from storage.catalogue import SegmentRow
from storage.columns import columns_of
from storage.documents import has_metadata, read_documents, read_patches_within
from storage.failpoints import declare, hit
from storage.layout import CATALOGUE_NAME, SEGMENTS_NAME
from storage.segment import require_room

log = logging.getLogger(__name__)
SEAL_SHARE = 4
"""Sealed at a quarter of the bound on what may pend."""
CHECKPOINT_BYTES = 4 << 20
FORCED_CHECKPOINT_BYTES = 64 << 20
"""The WAL's bound: above it the checkpoint takes the write lock, so that no writer can outrun it."""
TIDY_QUIET_S = 5.0
VACUUM_PAGES = 200
_SEALED = JOB_SECONDS.at("seal", "done")
VACUUM = declare("catalogue.vacuum")


class Sealing:
    """One collection, as the sealer sees it."""

    def __init__(self, worked: Worked, pending_rows: int, pending_bytes: int, quiet_s: float) -> None:
        self._c = worked
        self._rows = max(1, pending_rows // SEAL_SHARE)
        self._bytes = max(1, pending_bytes // SEAL_SHARE)
        self._limit = pending_rows
        self._quiet_s = quiet_s
        self._version = -1
        self._state = catalogue.State()
        self._traces = False
        """Rows that died before they were sealed leave a line in the log."""
        self._last_write = time.monotonic()
        self._tidy = False
        self._derived = -1
        """The version of the catalogue at which no columns were due."""
        self._columns: ColumnsWork | None = None
        """Under way, a slice a step."""

    def step(self) -> bool:
        """Does what is due. True: something was sealed, and there may be more."""
        if not self._look() and self._tidy:
            return False  # nothing has changed since nothing was left to do: most collections, most of the time
        state = self._state
        if state.dropped:
            return False
        quiet_s = time.monotonic() - self._last_write
        enough = state.pending_rows >= self._rows or state.pending_bytes >= self._bytes
        if enough or (quiet_s >= self._quiet_s and (state.pending_rows or self._traces)):
            try:
                with _SEALED.timed():
                    self._seal()
            except errors.Stale as e:
                log.info("collection %s: %s", self._c.name, e)
            finally:
                # Here too: where rows pour in without pause, or nothing can be sealed, there is always something to.
                self._checkpoint()
            return True
        if self._derive():
            return True
        self._checkpoint()
        if not self._tidy and quiet_s >= TIDY_QUIET_S:
            self._tidy = self._give_back()
        return False

    def _look(self) -> bool:
        """True: something has been committed since the last look."""
        version = self._c.reader.data_version()
        if version == self._version:
            return False
        state = catalogue.read_state(self._c.reader)
        if (state.next_key, state.log_pos) != (self._state.next_key, self._state.log_pos):
            self._last_write = time.monotonic()
        self._version, self._state, self._tidy = version, state, False
        self._traces = self._c.reader.one("SELECT 1 FROM deaths WHERE pending = 1 LIMIT 1") is not None
        return True

    def _seal(self) -> None:
        c = self._c
        with c.reader.reading():
            settings = catalogue.read_settings(c.reader)
            state = catalogue.read_state(c.reader)
            rows = catalogue.read_pending(c.reader, settings, limit=self._limit)
            described = has_metadata(c.reader)
            documents = read_documents(c.reader, rows.keys) if described else []
        if state.dropped:
            raise errors.Dropped(str(c.folder))
        if not len(rows.keys):
            c.publisher.seal(None, state.next_key - 1, state.log_pos)
            return
        first, last = int(rows.keys[0]), int(rows.keys[-1])
        require_room(c.folder, rows.vectors.nbytes)  # before anything is written: on a full disk it is tried for hours
        seq = c.publisher.reserve_seq()
        keys_rel = (rows.keys - first).astype(np.uint64)
        written = write_sealed(
            c.folder,
            seq,
            keys_rel=keys_rel,
            ids=rows.ids,
            vectors=rows.vectors,
            metric=settings.metric,
            base_key=first,
        )
        segment = SegmentRow(seq, written.file, len(rows.keys), first, last - first + 1, written.bytes, written.xxh3)
        try:
            if described:
                columns = columns_of(documents)
                segment = replace(segment, columns=write_columns(c.folder, segment, columns, state.log_pos))
            c.publisher.seal(segment, last, state.log_pos)
        except BaseException as e:
            if errors.is_undone(e):  # else the catalogue may name it
                atomic.remove_all([c.folder / SEGMENTS_NAME / file for file in segment.files])
            raise

    # ---------------------------------------------------------------- metadata columns

    def _derive(self) -> bool:
        """A slice of the columns of a segment that has none, or of which much was patched since. False: none is due."""
        if self._columns is None:
            if self._derived == self._version:
                return False
            segment = self._underived()
            if segment is None:
                self._derived = self._version
                return False
            try:
                self._columns = ColumnsWork(self._c, segment)
            except FileNotFoundError:
                return False  # a merge took it: the next look sees what it made
        try:
            if not self._columns.step():
                self._columns = None
        except BaseException:
            self._columns = None
            raise
        return True

    def _underived(self) -> SegmentRow | None:
        reader = self._c.reader
        with reader.reading():
            if not has_metadata(reader):
                return None
            for row in catalogue.read_segments(reader):
                if row.columns is None:
                    return row
                bound = patches_bound(row.rows)
                if len(read_patches_within(reader, row, row.columns.log_pos, limit=bound)) == bound:
                    return row
        return None

    # ---------------------------------------------------------------- keeping the catalogue small

    def _wal_bytes(self) -> int:
        try:
            return (self._c.folder / (CATALOGUE_NAME + "-wal")).stat().st_size
        except FileNotFoundError:
            return 0

    def _checkpoint(self) -> None:
        size = self._wal_bytes()
        if size <= CHECKPOINT_BYTES:
            return
        if size <= FORCED_CHECKPOINT_BYTES:
            self._c.db.checkpoint()
            return
        with self._c.turns.background_turn():
            self._c.db.checkpoint()
            self._c.db.truncate_log()

    def _give_back(self) -> bool:
        """Free pages leave the file, and the log is emptied: what was deleted is on the disk no more."""
        c = self._c
        free = int((c.db.one("PRAGMA freelist_count") or (0,))[0])
        if free:
            with c.turns.background_turn(), c.db.writing():
                hit(VACUUM)
                for _ in c.db.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})"):
                    pass
            return False
        if self._wal_bytes() == 0:
            return True
        with c.turns.background_turn():
            return c.db.truncate_log()
