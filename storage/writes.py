"""What a client's write does to the catalogue, inside one BEGIN IMMEDIATE.

A `Turn` is one transaction shared by many waiting requests (group commit). Each request is a savepoint: one that is
refused leaves the others alone. Everything that decides is read here, under the lock, never from a view.
"""

import json
import time
import uuid as uuids
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from typing import Any, TypeVar

import apsw
import numpy as np
from numpy.typing import NDArray

from seedvec.pending_vectors import encode, stored_bytes
from seedvec.sparse import SparseRows
from storage import catalogue, errors
from storage.catalogue import NOT_CLAIMED
from storage.database import Database
from storage.documents import read_metadata
from storage.queries import MAX_GIVEN, most_of, spread

MAX_INT_ID = 2**63 - 1
IDEMPOTENCY_S = 24 * 3600
PATCHED_AT_ONCE = 10_000
"""Items whose metadata is held in memory while it is changed."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows checked and converted: vectors (n, d) in the collection's dtype, C order or sparse; ids n or None.

    ids: None: assigned; else distinct. metadata: n JSON objects in UTF-8 (None: no metadata), or None.
    """

    vectors: NDArray[Any] | SparseRows
    ids: list[Any] | None
    metadata: list[bytes | None] | None

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True, slots=True)
class SealedRows:
    """A batch that was too large to pend: its segment is already written and synced, only its row is missing."""

    seq: int
    file: str
    bytes: int
    xxh3: str


class Turn:
    """Use `turn.request()` around each request; `finish()` once before the commit."""

    def __init__(self, db: Database, max_rows: int, max_bytes: int) -> None:
        self.db = db
        self.max_rows = max_rows
        self.max_bytes = max_bytes
        self.settings = catalogue.read_settings(db)
        self.state = catalogue.read_state(db)
        if self.state.dropped:
            raise errors.Dropped(str(db.path))

    @contextmanager
    def request(self) -> Iterator[None]:
        before = [getattr(self.state, c) for c in catalogue.STATE_COLUMNS]
        settings = self.settings
        self.db.execute("SAVEPOINT request")
        try:
            yield
        except BaseException:
            # SQLite itself rolls the whole transaction back on a full disk or a failed read.
            if self.db.connection.in_transaction:
                self.db.execute("ROLLBACK TO request")
                self.db.execute("RELEASE request")
            self.state, self.settings = catalogue.State(*before), settings
            raise
        self.db.execute("RELEASE request")

    def finish(self) -> None:
        self.db.execute(catalogue.UPDATE_STATE, tuple(getattr(self.state, c) for c in catalogue.STATE_COLUMNS))

    # ---------------------------------------------------------------- idempotency

    def once(self, key: str, request: str, act: Callable[[], Any]) -> Any:
        """The answer (JSON-able) of `act`, or the stored one where this key was seen with the same request."""
        answer = self.answered(key, request)
        if answer is None:
            answer = act()
            row = (key, request, json.dumps(answer), int(time.time()))
            self.db.execute("INSERT INTO idempotency VALUES (?,?,?,?)", row)
        return answer

    def answered(self, key: str, request: str) -> Any:
        """What that key was answered; None: it is new. Raises KeyReused."""
        self.db.execute("DELETE FROM idempotency WHERE at < ?", (int(time.time()) - IDEMPOTENCY_S,))
        row = self.db.one("SELECT request, answer FROM idempotency WHERE key = ?", (key,))
        if row is None:
            return None
        if row[0] != request:
            raise errors.KeyReused(key)
        return json.loads(row[1])

    # ---------------------------------------------------------------- add and upsert

    def add(self, batch: Batch, sealed: SealedRows | None = None) -> tuple[int, Any]:
        """Returns (rows, first assigned id or None). Raises IdsTaken, WrongIdType, IdsExhausted, PendingFull."""
        self._room(batch, sealed)
        ids, first = self._ids(batch, sealed)
        self._take_claimed(batch.ids)
        base = self.state.next_key
        try:
            self.db.many(
                "INSERT INTO items(id, key) VALUES (?,?)", zip(ids, range(base, base + len(batch)), strict=True)
            )
        except apsw.ConstraintError as e:
            raise errors.IdsTaken(self._taken(ids, base)) from e
        self._store(batch, ids, sealed)
        self.state.live += len(batch)
        return len(batch), first

    def upsert(self, batch: Batch, sealed: SealedRows | None = None) -> tuple[int, Any]:
        """As add, but an id that exists gets a new key and its old one dies. Ids must be given or are assigned."""
        self._room(batch, sealed)
        ids, first = self._ids(batch, sealed)
        self._take_claimed(batch.ids)
        old = catalogue.find_keys(self.db, ids) if batch.ids is not None else {}
        self._bury(list(old.values()))
        base = self.state.next_key
        rows = zip(ids, range(base, base + len(batch)), strict=True)
        self.db.many("INSERT OR REPLACE INTO items(id, key) VALUES (?,?)", rows)
        self._store(batch, ids, sealed)
        self.state.live += len(batch) - len(old)
        return len(batch), first

    def _take_claimed(self, ids: Sequence[Any] | None) -> None:
        """Ids that an import has only claimed are free: whoever is first has them, and that import comes to nothing."""
        if not ids or self.db.one("SELECT 1 FROM staged LIMIT 1") is None:
            return
        out = f"DELETE FROM items WHERE id = ? AND NOT {NOT_CLAIMED} RETURNING id, key"
        whose = "(SELECT import FROM staged WHERE first_key <= ? AND ? < end_key)"
        for id_, key in list(self.db.many(out, ((i,) for i in ids))):
            self.db.execute(f"UPDATE imports SET taken = ? WHERE uuid = {whose}", (id_, key, key))

    def replace(self, ids: list[Any], keys: list[int]) -> None:
        """Rows of a segment, with keys of their own already, take the place of those that bear their ids."""
        self._take_claimed(ids)
        old = catalogue.find_keys(self.db, ids)
        self._bury(list(old.values()))
        rows = zip(ids, keys, strict=True)
        self.db.many("INSERT OR REPLACE INTO items(id, key) VALUES (?,?)", rows)
        if self.settings.id_type == "int":
            self.gave(max(ids))
        self.state.live += len(ids) - len(old)

    def _room(self, batch: Batch, sealed: SealedRows | None) -> None:
        if sealed is not None:
            return
        state = self.state
        fits = state.pending_rows + len(batch) <= self.max_rows
        if not (fits and state.pending_bytes + _pending_bytes(batch) <= self.max_bytes):
            raise errors.PendingFull

    def _ids(self, batch: Batch, sealed: SealedRows | None) -> tuple[Sequence[Any], Any]:
        """Fixes the collection's id type by the first write; assigns where the client gave none."""
        n = len(batch)
        if batch.ids is not None:
            kind = "str" if isinstance(batch.ids[0], str) else "int"
        else:
            kind = "int" if self.settings.id_type == "auto" else self.settings.id_type
        self.fix_id_type(kind)
        if batch.ids is not None:
            if kind == "int":
                self.gave(max(batch.ids))
            return batch.ids, None
        assigned = reserve_ids(self, n)
        return assigned, assigned[0]

    def reserve_int_ids(self, n: int) -> int:
        """The first of a run of n. Raises IdsExhausted."""
        if self.state.next_id > MAX_INT_ID - n:
            raise errors.IdsExhausted
        self.state.next_id += n
        return self.state.next_id - n

    def gave(self, largest: int) -> None:
        """A client has given int ids: assigned ones go on behind the largest."""
        self.state.next_id = max(self.state.next_id, min(largest + 1, MAX_INT_ID))

    def fix_id_type(self, kind: str) -> None:
        """By the first write. Raises WrongIdType where it is fixed to another."""
        if self.settings.id_type == kind:
            return
        if self.settings.id_type != "auto":
            raise errors.WrongIdType(self.settings.id_type)
        # One of the other type may be left, empty, by an import that came to nothing.
        self.db.execute("DROP TABLE IF EXISTS items")
        self.db.execute(catalogue.ITEMS_SCHEMA[kind])
        self.db.execute("UPDATE settings SET id_type = ?", (kind,))
        self.settings = catalogue.read_settings(self.db)

    def _taken(self, ids: Sequence[Any], base: int) -> list[tuple[int, Any]]:
        there = catalogue.find_keys(self.db, list(ids))
        # The statement stopped at the first clash: rows before it have keys from `base` on.
        return [(row, id_) for row, id_ in enumerate(ids) if there.get(id_, base) < base]

    def _store(self, batch: Batch, ids: Sequence[Any], sealed: SealedRows | None) -> None:
        """Vectors (pending, or the segment that has them) and metadata of rows whose items are in."""
        base, n = self.state.next_key, len(batch)
        if sealed is not None:
            self.db.execute(
                "INSERT INTO segments VALUES (?,?,?,?,?,?,?)",
                (sealed.seq, sealed.file, n, base, n, sealed.bytes, sealed.xxh3),
            )
            self.state.generation += 1
        else:
            keys = range(base, base + n)
            self.db.many("INSERT INTO pending VALUES (?,?,?)", zip(keys, ids, encode(batch.vectors), strict=True))
            self.state.pending_rows += n
            self.state.pending_bytes += _pending_bytes(batch)
        if batch.metadata is not None:
            some = ((base + i, json_) for i, json_ in enumerate(batch.metadata) if json_ is not None)
            self.db.many("INSERT INTO metadata VALUES (?,?)", some)
        self.state.next_key += n

    # ---------------------------------------------------------------- delete and patch

    def delete(self, ids: list[Any]) -> int:
        """Ids that are not there are passed over. Returns how many were."""
        if self.settings.id_type == "auto":
            return 0
        found = catalogue.find_keys(self.db, ids)
        return self.delete_rows(list(found), list(found.values()))

    def delete_rows(self, ids: Sequence[Any], keys: Sequence[int]) -> int:
        """Live rows: their ids, and the key that each has in this transaction. Returns how many."""
        if not ids:
            return 0
        before = self.db.connection.total_changes()
        # Each id with its key: should they not belong together, nothing is deleted.
        if self.settings.id_type == "int":
            # One statement for all: row by row, half a million cost four times as much.
            query = "DELETE FROM items WHERE id IN carray(?) AND key IN carray(?)"
            self.db.execute(query, (_array(ids), _array(keys)))
        else:
            self.db.many("DELETE FROM items WHERE id = ? AND key = ?", zip(ids, keys, strict=True))
        gone = self.db.connection.total_changes() - before
        if gone != len(ids):
            raise RuntimeError(f"{len(ids) - gone} of {len(ids)} rows that should be live are not")
        self._bury(keys)
        self.state.live -= len(ids)
        return len(ids)

    def delete_all(self) -> tuple[int, list[str]]:
        """Empties the collection at once. Returns the number of rows and the files that nothing names any more."""
        named = " UNION ALL ".join(f"SELECT file FROM {table}" for table in ("segments", "indexes", "columns"))
        files = [row[0] for row in self.db.execute(named)]
        live = self.state.live
        # Without a condition, where it can be: then SQLite drops the pages unread.
        some = f" WHERE {NOT_CLAIMED}" if self.db.one("SELECT 1 FROM staged LIMIT 1") is not None else ""
        if self.settings.id_type != "auto":
            self.db.execute("DELETE FROM items" + some)
        self.db.execute("DELETE FROM metadata" + some)
        for table in ("pending", "deaths", "patches", "segments", "indexes", "columns", "rejections"):
            self.db.execute(f"DELETE FROM {table}")
        self.state.log_pos += 1
        self.state.trimmed_pos = self.state.log_pos
        self.state.generation += 1
        self.state.live = self.state.pending_rows = self.state.pending_bytes = 0
        return live, files

    def patch(
        self,
        id_: Any,
        merge: Callable[[bytes | None], bytes | None] | None,
        vector: NDArray[Any] | SparseRows | None,
    ) -> bool:
        """merge: old metadata → new; vector: (1, d), replaces the stored one. False: no such id."""
        found = {} if self.settings.id_type == "auto" else catalogue.find_keys(self.db, [id_])
        if not found:
            return False
        key = found[id_]
        if vector is None:
            self.patch_metadata([key], merge or _unchanged)
            return True
        old = read_metadata(self.db, [key]).get(key)
        new = old if merge is None else merge(old)
        self.upsert(Batch(vector, [id_], [new]))
        return True

    def patch_metadata(self, keys: list[int], merge: Callable[[bytes | None], bytes | None]) -> None:
        """merge: old metadata → new, of live keys. Rows keep their keys, so the change log says whose changed."""
        for begin in range(0, len(keys), PATCHED_AT_ONCE):
            part = keys[begin : begin + PATCHED_AT_ONCE]
            old = read_metadata(self.db, part)
            new = {key: merge(old.get(key)) for key in part}
            changed = [key for key in part if new[key] != old.get(key)]
            self.db.many("DELETE FROM metadata WHERE key = ?", ((key,) for key in changed if new[key] is None))
            some = ((key, new[key]) for key in changed if new[key] is not None)
            self.db.many("INSERT OR REPLACE INTO metadata VALUES (?,?)", some)
            pos = self.state.log_pos
            log = ((key, pos + 1 + i) for i, key in enumerate(changed))
            self.db.many("INSERT OR REPLACE INTO patches VALUES (?,?)", log)
            self.state.log_pos += len(changed)

    def _bury(self, keys: Sequence[int]) -> None:
        """These keys stop being live: out of `pending` and `metadata`, into the change log."""
        if not keys:
            return
        gone = self._take_pending(keys)
        self.db.many("DELETE FROM metadata WHERE key = ?", _each(keys))
        if self.db.one("SELECT 1 FROM patches LIMIT 1") is not None:
            self.db.many("DELETE FROM patches WHERE key = ?", _each(keys))
        first = self.state.log_pos + 1
        pending = (int(key in gone) for key in keys) if gone else repeat(0)
        log = zip(keys, range(first, first + len(keys)), pending, strict=False)
        self.db.many("INSERT INTO deaths VALUES (?,?,?)", log)
        self.state.log_pos += len(keys)

    def _take_pending(self, keys: Sequence[int]) -> set[int]:
        """Takes those that pend out of `pending`, and says which they were."""
        first = self.db.one("SELECT min(key) FROM pending")
        if first is None or first[0] is None:
            return set()
        out = "DELETE FROM pending WHERE key = ? RETURNING key, length(vector)"
        some = (key for key in keys if key >= first[0])
        gone = {key: size + catalogue.PENDING_ROW_BYTES for key, size in self.db.many(out, _each(some))}
        self.state.pending_rows -= len(gone)
        self.state.pending_bytes -= sum(gone.values())
        return set(gone)

    # ---------------------------------------------------------------- settings

    def set_recall(self, recall: float) -> None:
        self.db.execute("UPDATE settings SET recall = ?", (recall,))

    def set_index_spec(self, spec: dict[str, Any]) -> None:
        """A new specification number makes every index due for building anew; the old ones serve meanwhile."""
        self.db.execute("UPDATE settings SET index_spec = ?", (json.dumps(spec, sort_keys=True),))
        self.state.spec_seq += 1
        self.db.execute("DELETE FROM job")

    def set_calibration_queries(self, queries: NDArray[np.float32]) -> int:
        """queries: (q, d), q ≥ 1, checked as those of a search are; they replace the ones given before. Returns how
        many were kept: of too many an even spread (`storage/queries.py` says how many are too many)."""
        kept = spread(queries, most_of(queries.shape[1], MAX_GIVEN))
        self.db.execute("DELETE FROM calibration_queries")
        rows = ((place, memoryview(query).cast("B")) for place, query in enumerate(np.ascontiguousarray(kept, "<f4")))
        self.db.many("INSERT INTO calibration_queries VALUES (?,?)", rows)
        self.state.queries_seq += 1
        # What `write.lock` remembers: a catalogue that has lost this must not pass for whole.
        self.state.generation += 1
        return len(kept)

    def cancel_build(self) -> None:
        self.state.cancelled_seq = self.state.spec_seq


def reserve_seq(turn: Turn) -> int:
    """The next segment number. Names only: a number never used does no harm."""
    turn.state.next_seq += 1
    return turn.state.next_seq - 1


def reserve_ids(turn: Turn, n: int) -> list[Any]:
    """Ids for rows whose segment is written before their transaction. A run never used leaves a gap, no more."""
    if turn.settings.id_type == "str":
        return assigned_str_ids(n)
    first = turn.reserve_int_ids(n)
    return list(range(first, first + n))


def assigned_str_ids(n: int) -> list[str]:
    """Ids as the server gives them where ids are str: 36 characters, and no two ever the same."""
    return [_uuid7() for _ in range(n)]


def _unchanged(old: bytes | None) -> bytes | None:
    return old


def _each(keys: Iterable[int]) -> Iterator[tuple[int]]:
    return zip(keys)


def _array(values: Sequence[int]) -> Any:
    return apsw.carray(np.array(values, np.int64))


def _pending_bytes(batch: Batch) -> int:
    return stored_bytes(batch.vectors) + catalogue.PENDING_ROW_BYTES * len(batch)


def _uuid7() -> str:
    """RFC 9562 version 7: sorts by time of assignment."""
    raw = bytearray((time.time_ns() // 1_000_000).to_bytes(6, "big") + uuids.uuid4().bytes[6:])
    raw[6] = raw[6] & 0x0F | 0x70
    return str(uuids.UUID(bytes=bytes(raw)))
