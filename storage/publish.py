"""Background work made real: each function is the one transaction that seals, merges, adds an index or columns.

The files are already written, synced and renamed; here the catalogue begins to name them. Deaths are kept by key
and rows keep their keys, so whatever died while a file was being written is dead in it from the first moment:
nothing has to be copied over, and nothing deleted can rise again.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage import catalogue, errors
from storage.catalogue import PENDING_ROW_BYTES, ColumnsRow, IndexRow, Rejection, SegmentRow
from storage.database import Database
from storage.failpoints import declare, hit
from storage.turns import Turns

SEAL_COMMIT = declare("seal.commit")
MERGE_COMMIT = declare("merge.commit")
INDEX_COMMIT = declare("index.commit")
COLUMNS_COMMIT = declare("columns.commit")
TRIM_KEYS = 2_000
"""Leftover deaths removed in one turn: about 5 ms."""


class Publisher:
    """The background's hand on one catalogue. Belongs to one thread."""

    def __init__(self, db: Database, turns: Turns) -> None:
        self.db = db
        self.turns = turns

    @contextmanager
    def _turn(self) -> Iterator[catalogue.State]:
        with self.turns.background_turn():
            with self.db.writing():
                state = catalogue.read_state(self.db)
                if state.dropped:
                    raise errors.Dropped(str(self.db.path))
                yield state
                self.db.execute(catalogue.UPDATE_STATE, tuple(getattr(state, c) for c in catalogue.STATE_COLUMNS))
            self.turns.remember(state)

    def reserve_seq(self) -> int:
        with self._turn() as state:
            state.next_seq += 1
            return state.next_seq - 1

    def seal(self, segment: SegmentRow | None, last_key: int, snapshot_pos: int) -> None:
        """`segment` holds every row that was pending with a key up to last_key when the log stood at snapshot_pos,
        and its columns, if it comes with any, their metadata as it was then.

        None: all of them had died; only their traces are cleared.
        """
        with self._turn() as state:
            if segment is not None and state.trimmed_pos > snapshot_pos:
                self._stale_if_emptied(segment)
            # Died before the snapshot, never sealed: no segment knows them.
            self.db.execute("DELETE FROM deaths WHERE pending = 1 AND key <= ? AND pos <= ?", (last_key, snapshot_pos))
            # Died since: they are in the segment, and dead there.
            self.db.execute("UPDATE deaths SET pending = 0 WHERE pending = 1 AND key <= ?", (last_key,))
            out = self.db.one(
                f"SELECT count(*), coalesce(sum(length(vector) + {PENDING_ROW_BYTES}), 0) FROM pending WHERE key <= ?",
                (last_key,),
            )
            assert out is not None
            if segment is not None and segment.columns is not None:
                self.db.execute(
                    "DELETE FROM patches WHERE pos <= ? AND key IN (SELECT key FROM pending WHERE key <= ?)",
                    (snapshot_pos, last_key),
                )
            self.db.execute("DELETE FROM pending WHERE key <= ?", (last_key,))
            state.pending_rows -= out[0]
            state.pending_bytes -= out[1]
            state.trimmed_pos = max(state.trimmed_pos, snapshot_pos)
            if segment is not None:
                self._insert_segment(segment)
                state.generation += 1
            hit(SEAL_COMMIT)

    def _stale_if_emptied(self, segment: SegmentRow) -> None:
        """delete-all forgets deaths at once: rows of a snapshot from before it must not come back."""
        key = "SELECT 1 FROM pending WHERE key BETWEEN ? AND ? UNION ALL SELECT 1 FROM deaths WHERE key BETWEEN ? AND ?"
        low, high = segment.base_key, segment.base_key + segment.span - 1
        if self.db.one(key + " LIMIT 1", (low, high, low, high)) is None:
            raise errors.Stale("emptied meanwhile")

    def merge(self, inputs: list[SegmentRow], output: SegmentRow | None, snapshot_pos: int) -> list[str]:
        """Swaps the inputs for the output, which lacks what was dead at snapshot_pos. Raises Stale.

        The output's index and columns, if it has any, come with it. Returns the files that nothing names any more:
        an input's columns may be newer than its row given here, and then the output's are given up if they are older:
        patches that they lack may be in no log any more."""
        with self._turn() as state:
            self._still_there([s.seq for s in inputs])
            gone: list[str] = []
            columns = output and output.columns
            if output and columns and self._columns_pos(inputs) > columns.log_pos:
                gone.append(columns.file)
                output = replace(output, columns=None)
            elif columns:
                # As in `add_columns`.
                state.trimmed_pos = max(state.trimmed_pos, columns.log_pos)
            self.db.many("DELETE FROM rejections WHERE seq = ?", ((s.seq,) for s in inputs))
            for table in ("segments", "indexes", "columns"):
                out = self.db.many(f"DELETE FROM {table} WHERE seq = ? RETURNING file", ((s.seq,) for s in inputs))
                gone += [row[0] for row in out]
            if output is not None:
                self._insert_segment(output)
            state.generation += 1
            # A reader that has not followed the log so far must not keep serving the inputs: their deaths go now.
            state.trimmed_pos = max(state.trimmed_pos, snapshot_pos)
            hit(MERGE_COMMIT)
        return gone

    def _columns_pos(self, segments: list[SegmentRow]) -> int:
        """Up to there their patches may have been forgotten."""
        query = "SELECT log_pos FROM columns WHERE seq = ?"
        return max((row[0] for row in self.db.many(query, ((s.seq,) for s in segments))), default=0)

    def add_index(self, index: IndexRow) -> str | None:
        """Names a new index of a segment. Returns the file that it takes the place of. Raises Stale."""
        with self._turn() as state:
            self._still_there([index.seq])
            old = self.db.one("SELECT file FROM indexes WHERE seq = ?", (index.seq,))
            self.db.execute("DELETE FROM indexes WHERE seq = ?", (index.seq,))
            self.db.execute("DELETE FROM rejections WHERE seq = ?", (index.seq,))
            self._insert_index(index)
            state.generation += 1
            hit(INDEX_COMMIT)
            return None if old is None else str(old[0])

    def recalibrate(self, seq: int, file: str, meta: dict[str, Any]) -> None:
        """The index of a segment is described by `meta` from now on; its file stays. Raises Stale where it has another
        by now."""
        with self._turn() as state:
            there = "UPDATE indexes SET meta = ? WHERE seq = ? AND file = ? RETURNING 1"
            if self.db.one(there, (json.dumps(meta), seq, file)) is None:
                raise errors.Stale(f"index {file} is gone")
            state.generation += 1
            hit(INDEX_COMMIT)

    def reject(self, rejection: Rejection) -> None:
        """Writes down what is not to be tried again while the segment and the specification are there. Raises Stale."""
        with self._turn():
            self._still_there([rejection.seq])
            values = (rejection.seq, rejection.spec_seq, rejection.job, rejection.reason)
            self.db.execute("INSERT OR REPLACE INTO rejections VALUES (?,?,?,?)", values)

    def drop_index(self, seq: int) -> str | None:
        """Forgets a segment's index (damaged, or no longer wanted). Returns its file."""
        return self._drop_derived("indexes", seq)

    def add_columns(self, columns: ColumnsRow) -> str | None:
        """Names new metadata columns of a segment. Returns the file that they take the place of. Raises Stale."""
        with self._turn() as state:
            self._still_there([columns.seq])
            old = self.db.one("DELETE FROM columns WHERE seq = ? RETURNING file", (columns.seq,))
            self._insert_columns(columns)
            state.generation += 1
            # Patches up to there are in them and may be forgotten: who has not followed the log so far takes these.
            state.trimmed_pos = max(state.trimmed_pos, columns.log_pos)
            hit(COLUMNS_COMMIT)
            return None if old is None else str(old[0])

    def drop_columns(self, seq: int) -> str | None:
        """Forgets a segment's columns (damaged). Returns their file."""
        return self._drop_derived("columns", seq)

    def _drop_derived(self, table: str, seq: int) -> str | None:
        with self._turn() as state:
            old = self.db.one(f"DELETE FROM {table} WHERE seq = ? RETURNING file", (seq,))
            state.generation += 1
            return None if old is None else str(old[0])

    def _still_there(self, seqs: list[int]) -> None:
        for seq in seqs:
            if self.db.one("SELECT 1 FROM segments WHERE seq = ?", (seq,)) is None:
                raise errors.Stale(f"segment {seq} is gone")

    def _insert_segment(self, segment: SegmentRow) -> None:
        self.db.execute("INSERT INTO segments VALUES (?,?,?,?,?,?,?)", segment.values())
        if segment.index is not None:
            self._insert_index(segment.index)
        if segment.columns is not None:
            self._insert_columns(segment.columns)

    def _insert_columns(self, c: ColumnsRow) -> None:
        self.db.execute("INSERT INTO columns VALUES (?,?,?,?,?)", (c.seq, c.file, c.log_pos, c.bytes, c.xxh3))

    def _insert_index(self, i: IndexRow) -> None:
        row = (i.seq, i.file, i.kind, i.spec_seq, i.bytes, i.xxh3, json.dumps(i.meta))
        self.db.execute("INSERT INTO indexes VALUES (?,?,?,?,?,?,?)", row)

    def forget_deaths(self, keys: NDArray[np.int64]) -> None:
        """Removes deaths of keys that no segment holds any more, a short turn at a time."""
        for begin in range(0, len(keys), TRIM_KEYS):
            with self._turn():
                part = keys[begin : begin + TRIM_KEYS].tolist()
                self.db.many("DELETE FROM deaths WHERE key = ? AND pending = 0", ((k,) for k in part))

    def forget_patches(self, keys: NDArray[np.int64], up_to_pos: int) -> None:
        """Removes patches that the columns of these keys' segment have in them, a short turn at a time."""
        for begin in range(0, len(keys), TRIM_KEYS):
            with self._turn():
                part = keys[begin : begin + TRIM_KEYS].tolist()
                self.db.many("DELETE FROM patches WHERE key = ? AND pos <= ?", ((k, up_to_pos) for k in part))

    # ---------------------------------------------------------------- the job row

    def start_job(self, kind: str, seq: int) -> int:
        """Writes the job down before it begins, so that one that kills its process counts. Returns the attempt."""
        with self._turn():
            job = catalogue.read_job(self.db)
            attempts = job.attempts + 1 if job is not None and (job.kind, job.seq) == (kind, seq) else 1
            self.db.execute("DELETE FROM job")
            self.db.execute("INSERT INTO job VALUES (?,?,?,0,NULL,?,NULL)", (kind, seq, time.time(), attempts))
            return attempts

    def progress(self, done: float, eta_s: float | None) -> catalogue.State:
        with self._turn() as state:
            self.db.execute("UPDATE job SET progress = ?, eta_s = ?", (done, eta_s))
            return state

    def fail_job(self, reason: str) -> None:
        with self._turn():
            self.db.execute("UPDATE job SET reason = ?, progress = 0, eta_s = NULL", (reason,))

    def end_job(self) -> None:
        with self._turn():
            self.db.execute("DELETE FROM job")
