"""Imports under way: what one has staged, and how it becomes real or leaves no trace.

While a file is read, its rows go to segments that no catalogue names, into ranges of keys that are reserved for them
(`staged`). An add claims its ids in `items` with those keys, a turn at a time: a row of `items` whose key lies in a
staged range is no item yet, and every reader passes it over. Taking the ranges out of `staged` and naming their
segments is one short transaction, whatever the number of rows: before it nothing of the import is there, after it all.
An id that exists refuses the import where it is claimed. One that is written by others after that is theirs: they take
the claim away and mark the import, whose last transaction then refuses it.

An upsert cannot conflict, and its rows cannot replace others all at once in a short transaction. It stages its metadata
alone; once all is checked, one transaction decides (`replacing`): from there it only goes forward, segment by segment,
and where it is cut off the next start goes on.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import apsw
import numpy as np
from numpy.typing import NDArray

from seedvec.segment import StrIds, open_segment
from storage import atomic, errors
from storage.database import Database
from storage.failpoints import declare, hit
from storage.layout import SEGMENTS_NAME
from storage.turns import Turns
from storage.writes import Turn, reserve_seq

BEGIN = declare("import.begin")
RESERVE = declare("import.reserve")
CLAIM = declare("import.claim")
COMMIT = declare("import.commit")
COMMITTED = declare("import.committed")
DECIDE = declare("import.decide")
REPLACE = declare("import.replace")
REPLACED = declare("import.replaced")
UNDO = declare("import.undo")
UNDONE = declare("import.undone")
TURN_ROWS = 50_000
"""Claimed or taken back in one turn: about 50 ms."""

Mode = Literal["add", "upsert"]
Key = tuple[str, str]
"""An idempotency key, and the hash of the request that it came with."""
Answer = dict[str, Any]
"""What the client is told, JSON-able."""


@dataclass(frozen=True, slots=True)
class ImportRow:
    """One row of `imports`. rows: of the file, where it says; done: read so far; taken: an id that another has written
    since it was claimed; made (0/1): the collection was made for it; fixed: next_key as it was when it
    fixed the collection's id type, 0 where it did not."""

    uuid: str
    mode: Mode
    state: Literal["reading", "replacing"]
    rows: int | None
    done: int
    started: float
    made: int
    fixed: int
    taken: Any


@dataclass(frozen=True, slots=True)
class Reserved:
    """What one segment is to be called: its number, the key of its first row, and, where the server gives int ids, the
    first of a run for its rows."""

    seq: int
    first_key: int
    first_id: int | None


@dataclass(frozen=True, slots=True)
class Finished:
    """A staged segment: written, synced and under its final name."""

    seq: int
    file: str
    rows: int
    bytes: int
    xxh3: str


def read_imports(db: Database) -> list[ImportRow]:
    query = "SELECT uuid, mode, state, rows, done, started, made, fixed, taken FROM imports ORDER BY started"
    return [ImportRow(*row) for row in db.execute(query)]


class Import:
    """One import's hand on the catalogue. Belongs to one thread. Each step is a turn like any other write's."""

    def __init__(self, db: Database, turns: Turns, folder: Path, uuid: str) -> None:
        """folder: of the collection; uuid: of the import."""
        self.db = db
        self._turns = turns
        self._folder = folder
        self.uuid = uuid

    @contextmanager
    def _turn(self) -> Iterator[Turn]:
        with self._turns.turn():
            with self.db.writing():
                turn = Turn(self.db, 0, 0)
                yield turn
                turn.finish()
            self._turns.remember(turn.state)

    # ---------------------------------------------------------------- staging

    def begin(self, mode: Mode, rows: int | None, made: bool, key: Key | None = None) -> Answer | None:
        """The stored answer where the key was seen with the same request; None: the import is under way from now on.
        One that is sent again while the first is still under way waits for what becomes of that.

        Raises KeyReused."""
        if key is not None:
            self._turns.hold(key[0])
        with self._turn() as turn:
            answered = turn.answered(*key) if key is not None else None
            if answered is not None:
                return dict(answered)
            row = (self.uuid, mode, "reading", rows, 0, time.time(), int(made), 0, None)
            turn.db.execute("INSERT OR REPLACE INTO imports VALUES (?,?,?,?,?,?,?,?,?)", row)
            hit(BEGIN)
        return None

    def reserve(self, rows: int, id_type: str, *, assign: bool) -> Reserved:
        """Keys for so many rows of one segment; assign: ids too (str ones are made where they are used).

        Raises IdsExhausted, WrongIdType."""
        with self._turn() as turn:
            if turn.settings.id_type == "auto":
                turn.db.execute("UPDATE imports SET fixed = ? WHERE uuid = ?", (turn.state.next_key, self.uuid))
            turn.fix_id_type(id_type)
            seq, first = reserve_seq(turn), turn.state.next_key
            turn.state.next_key += rows
            first_id = turn.reserve_int_ids(rows) if assign and id_type == "int" else None
            staged = (seq, self.uuid, first, first + rows)
            turn.db.execute("INSERT INTO staged(seq, import, first_key, end_key) VALUES (?,?,?,?)", staged)
            hit(RESERVE)
        return Reserved(seq, first, first_id)

    def claim(
        self, first_key: int, ids: NDArray[np.int64] | list[Any], metadata: list[bytes | None] | None
    ) -> NDArray[np.int64]:
        """Row i of these claims its id with key first_key + i, and its metadata is kept for it.

        Returns the rows, ascending, whose ids were there or claimed before: nothing of these is kept."""
        taken = [np.empty(0, np.int64)]
        for begin in range(0, len(ids), TURN_ROWS):
            part = slice(begin, begin + TURN_ROWS)
            with self._turn() as turn:
                gone = _claim(turn, first_key + begin, ids[part])
                taken.append(gone + begin)
                if metadata is not None:
                    _describe(turn.db, first_key + begin, metadata[part], set(gone.tolist()))
                hit(CLAIM)
        return np.concatenate(taken)

    def describe(self, first_key: int, metadata: list[bytes | None]) -> None:
        """Metadata of an upsert's rows, kept under keys that nobody knows yet."""
        for begin in range(0, len(metadata), TURN_ROWS):
            with self._turn() as turn:
                _describe(turn.db, first_key + begin, metadata[begin : begin + TURN_ROWS], set())
                hit(CLAIM)

    def is_own_claim(self, id_: Any) -> bool:
        """Whether the id stands in the import itself already."""
        whose = "SELECT import FROM staged WHERE first_key <= key AND key < end_key"
        row = self.db.one(f"SELECT ({whose}) FROM items WHERE id = ?", (id_,))
        return row is not None and row[0] == self.uuid

    def progress(self, done: int) -> None:
        with self._turn() as turn:
            turn.db.execute("UPDATE imports SET done = ? WHERE uuid = ?", (done, self.uuid))

    # ---------------------------------------------------------------- making it real

    def commit(
        self, segments: Sequence[Finished], answer: Answer, key: Key | None = None, *, only_if_empty: bool = False
    ) -> None:
        """An add's one moment: from here on all its rows are there. Raises IdsTaken (row -1) where others have written
        one of its ids meanwhile, NotEmpty where they have written anything and nothing may be there, and Stale where it
        was undone."""
        with self._turn() as turn:
            mine = self._mine(turn)
            if only_if_empty and turn.state.live:
                raise errors.NotEmpty(self._folder.name)
            if mine.taken is not None:
                raise errors.IdsTaken([(-1, mine.taken)])
            for segment in segments:
                _name(turn, segment)
                turn.state.live += segment.rows
            self._forget(turn, answer, key)
            hit(COMMIT)
        hit(COMMITTED)

    def decide(self, segments: Sequence[Finished]) -> None:
        """An upsert's: from here on it goes forward alone. Call `replace` until it is through. Raises Stale."""
        with self._turn() as turn:
            self._mine(turn)
            rows = ((s.file, s.rows, s.bytes, s.xxh3, s.seq) for s in segments)
            turn.db.many("UPDATE staged SET file = ?, rows = ?, bytes = ?, xxh3 = ? WHERE seq = ?", rows)
            turn.db.execute("DELETE FROM staged WHERE import = ? AND file IS NULL", (self.uuid,))
            turn.db.execute("UPDATE imports SET state = 'replacing' WHERE uuid = ?", (self.uuid,))
            hit(DECIDE)

    def replace(self, answer: Answer | None = None, key: Key | None = None) -> bool:
        """Makes the next segment of a decided upsert real. False: that was all, and the import is over."""
        query = "SELECT seq, file, rows, bytes, xxh3 FROM staged WHERE import = ? ORDER BY seq LIMIT 1"
        row = self.db.one(query, (self.uuid,))
        if row is not None:
            segment = Finished(*row)
            ids, keys = self._rows_of(segment)
            with self._turn() as turn:
                turn.replace(ids, keys)
                _name(turn, segment)
                hit(REPLACE)
            hit(REPLACED)
            return True
        with self._turn() as turn:
            self._forget(turn, answer, key)
        return False

    def _rows_of(self, segment: Finished) -> tuple[list[Any], list[int]]:
        row = self.db.one("SELECT first_key FROM staged WHERE seq = ?", (segment.seq,))
        assert row is not None
        held = open_segment(self._folder / SEGMENTS_NAME / segment.file)
        ids = held.ids.all() if isinstance(held.ids, StrIds) else held.ids.tolist()
        return ids, (held.keys_rel.astype(np.int64) + row[0]).tolist()

    def _mine(self, turn: Turn) -> ImportRow:
        found = [row for row in read_imports(turn.db) if row.uuid == self.uuid]
        if not found:
            raise errors.Stale(f"import {self.uuid} was undone")
        return found[0]

    def _forget(self, turn: Turn, answer: Answer | None = None, key: Key | None = None) -> None:
        if answer is not None and key is not None:
            turn.once(*key, lambda: answer)
        turn.db.execute("DELETE FROM staged WHERE import = ?", (self.uuid,))
        turn.db.execute("DELETE FROM imports WHERE uuid = ?", (self.uuid,))

    # ---------------------------------------------------------------- taking it back

    def undo(self) -> bool:
        """Nothing of the import stays. May be repeated from wherever it was cut off, and does nothing to one that is
        real. True: the collection was made for it, nobody else has written to it, and it is marked as dropped."""
        if not any(row.uuid == self.uuid for row in read_imports(self.db)):
            return False
        ranges = list(
            self.db.execute("SELECT seq, first_key, end_key FROM staged WHERE import = ? ORDER BY seq", (self.uuid,))
        )
        for _, first, end in ranges:
            self._take_back(first, end)
        with self._turn() as turn:
            dropped = self._as_before(turn, self._mine(turn), sum(end - first for _, first, end in ranges))
            self._forget(turn)
            hit(UNDO)
        hit(UNDONE)
        for seq, _, _ in ranges:
            atomic.remove_all(list((self._folder / SEGMENTS_NAME).glob(f"{seq:06d}-*")))
        return dropped

    def _take_back(self, first: int, end: int) -> None:
        """Claims and metadata of a range of keys. Who reads `items` for them holds no lock."""
        has_items = self.db.one("SELECT 1 FROM sqlite_master WHERE name = 'items'") is not None
        some = f"SELECT id FROM items WHERE key >= ? AND key < ? LIMIT {TURN_ROWS}"
        while has_items and (ids := self.db.execute(some, (first, end)).fetchall()):
            with self._turn() as turn:
                mine = ((id_, first, end) for (id_,) in ids)
                turn.db.many("DELETE FROM items WHERE id = ? AND key >= ? AND key < ?", mine)
                hit(UNDO)
        for begin in range(first, end, TURN_ROWS):
            last = min(begin + TURN_ROWS, end)
            if self.db.one("SELECT 1 FROM metadata WHERE key >= ? AND key < ? LIMIT 1", (begin, last)) is not None:
                with self._turn() as turn:
                    turn.db.execute("DELETE FROM metadata WHERE key >= ? AND key < ?", (begin, last))
                    hit(UNDO)

    def _as_before(self, turn: Turn, mine: ImportRow, keys: int) -> bool:
        """Where nobody else was given a key meanwhile, the id type that it fixed and the collection made for it go too.

        Counters never go back: a catalogue that is behind them would pass for one that has lost writes."""
        if mine.fixed and turn.state.next_key == mine.fixed + keys:
            turn.db.execute("UPDATE settings SET id_type = 'auto'")
        turn.state.dropped = int(mine.made and turn.state.next_key == 1 + keys)
        return bool(turn.state.dropped)


def _claim(turn: Turn, first_key: int, ids: NDArray[np.int64] | list[Any]) -> NDArray[np.int64]:
    """Rows whose id was not free."""
    db = turn.db
    before = db.connection.total_changes()
    if isinstance(ids, np.ndarray):
        # One statement for all: row by row they cost three times as much. The array's own rowid counts from 1.
        array = apsw.carray(ids)
        put = "INSERT OR IGNORE INTO items(id, key) SELECT value, ? + rowid FROM carray(?)"
        db.execute(put, (first_key - 1, array))
    else:
        put = "INSERT OR IGNORE INTO items(id, key) VALUES (?,?)"
        db.many(put, zip(ids, range(first_key, first_key + len(ids)), strict=True))
    if db.connection.total_changes() - before == len(ids):
        taken: list[int] = []
    elif isinstance(ids, np.ndarray):
        differ = "SELECT a.rowid - 1 FROM carray(?) a JOIN items i ON i.id = a.value WHERE i.key <> ? + a.rowid"
        taken = [row[0] for row in db.execute(differ, (array, first_key - 1))]
    else:
        there = {row[0]: row[1] for row in db.many("SELECT id, key FROM items WHERE id = ?", ((i,) for i in ids))}
        taken = [row for row, id_ in enumerate(ids) if there[id_] != first_key + row]
    if isinstance(ids, np.ndarray) and len(ids):
        turn.gave(int(ids.max()))
    return np.sort(np.array(taken, np.int64))


def _describe(db: Database, first_key: int, metadata: list[bytes | None], left_out: set[int]) -> None:
    some = ((first_key + i, text) for i, text in enumerate(metadata) if text is not None and i not in left_out)
    db.many("INSERT INTO metadata VALUES (?,?)", some)


def _name(turn: Turn, segment: Finished) -> None:
    """The staged range becomes the segment's."""
    out = turn.db.one("DELETE FROM staged WHERE seq = ? RETURNING first_key, end_key", (segment.seq,))
    assert out is not None
    first, end = out
    values = (segment.seq, segment.file, segment.rows, first, end - first, segment.bytes, segment.xxh3)
    turn.db.execute("INSERT INTO segments VALUES (?,?,?,?,?,?,?)", values)
    turn.state.generation += 1
    # Keys that were given long ago become rows now: who goes by the keys it knows must not think that it knows these.
    turn.state.log_pos += 1
    turn.state.trimmed_pos = turn.state.log_pos


def settle(folder: Path, db: Database, turns: Turns, row: ImportRow) -> bool:
    """Sees an import to its end whose process is gone: forward where it had been decided, else back.

    Returns what `undo` returns. May be repeated; raises StorageError and OSError where the disk fails."""
    one = Import(db, turns, folder, row.uuid)
    if row.state == "replacing":
        while one.replace():
            pass
        return False
    return one.undo()
