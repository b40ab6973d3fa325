"""catalog.db of one collection: its schema, and reading it. Writing is in `storage/writes.py` and `publish.py`.

`docs/formats.md` says what each table means.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seedvec.pending_vectors import decode
from seedvec.sparse import SparseRows
from storage import errors
from storage.atomic import fsync_dir
from storage.database import Database
from storage.failpoints import declare, hit
from storage.layout import CATALOGUE_NAME, SEGMENTS_NAME, WRITE_LOCK_NAME

APPLICATION_ID = 0x53656563
VERSION = 4
"""1 had no `patches`, no `columns` and no owner in `state`, 2 no `calibration_queries` and no `rejections`, 3 no
`sparse` in `settings`, no `imports` and no `staged`; `upgrade` makes them."""
CREATE = declare("catalogue.create")
CREATE_DATABASE = declare("catalogue.create.database")
CREATE_FSYNC = declare("catalogue.create.fsync_dir")
PENDING_ROW_BYTES = 64
"""What a pending row is charged besides its vector."""

SCHEMA = """
CREATE TABLE settings(dimension INTEGER NOT NULL, metric TEXT NOT NULL, dtype TEXT NOT NULL, id_type TEXT NOT NULL,
    recall REAL NOT NULL, index_spec TEXT NOT NULL, created TEXT NOT NULL, sparse INTEGER NOT NULL);
CREATE TABLE state(next_key INTEGER NOT NULL, next_id INTEGER NOT NULL, log_pos INTEGER NOT NULL,
    generation INTEGER NOT NULL, trimmed_pos INTEGER NOT NULL, next_seq INTEGER NOT NULL, spec_seq INTEGER NOT NULL,
    cancelled_seq INTEGER NOT NULL, pending_rows INTEGER NOT NULL, pending_bytes INTEGER NOT NULL,
    live INTEGER NOT NULL, dropped INTEGER NOT NULL, uuid TEXT NOT NULL, name TEXT NOT NULL,
    queries_seq INTEGER NOT NULL);
CREATE TABLE owner(uuid TEXT NOT NULL);
CREATE TABLE pending(key INTEGER PRIMARY KEY, id NOT NULL, vector BLOB NOT NULL);
CREATE TABLE metadata(key INTEGER PRIMARY KEY, json BLOB NOT NULL);
CREATE TABLE deaths(key INTEGER PRIMARY KEY, pos INTEGER NOT NULL UNIQUE, pending INTEGER NOT NULL);
CREATE INDEX deaths_pending ON deaths(key) WHERE pending = 1;
CREATE TABLE segments(seq INTEGER PRIMARY KEY, file TEXT NOT NULL UNIQUE, rows INTEGER NOT NULL,
    base_key INTEGER NOT NULL, span INTEGER NOT NULL, bytes INTEGER NOT NULL, xxh3 TEXT NOT NULL);
CREATE TABLE indexes(seq INTEGER PRIMARY KEY, file TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
    spec_seq INTEGER NOT NULL, bytes INTEGER NOT NULL, xxh3 TEXT NOT NULL, meta TEXT NOT NULL);
CREATE TABLE idempotency(key TEXT PRIMARY KEY, request TEXT NOT NULL, answer TEXT NOT NULL, at INTEGER NOT NULL);
CREATE INDEX idempotency_at ON idempotency(at);
CREATE TABLE job(kind TEXT NOT NULL, seq INTEGER NOT NULL, started REAL NOT NULL, progress REAL NOT NULL,
    eta_s REAL, attempts INTEGER NOT NULL, reason TEXT);
"""
FILTERS_SCHEMA = """
CREATE TABLE patches(key INTEGER PRIMARY KEY, pos INTEGER NOT NULL UNIQUE);
CREATE TABLE columns(seq INTEGER PRIMARY KEY, file TEXT NOT NULL UNIQUE, log_pos INTEGER NOT NULL,
    bytes INTEGER NOT NULL, xxh3 TEXT NOT NULL);
"""
OWNER_SCHEMA = """
ALTER TABLE state ADD COLUMN uuid TEXT NOT NULL DEFAULT '';
ALTER TABLE state ADD COLUMN name TEXT NOT NULL DEFAULT '';
CREATE TABLE owner(uuid TEXT NOT NULL);
"""
QUERIES_TABLE = "CREATE TABLE calibration_queries(place INTEGER PRIMARY KEY, vector BLOB NOT NULL);\n"
REJECTIONS_TABLE = """
CREATE TABLE rejections(seq INTEGER PRIMARY KEY, spec_seq INTEGER NOT NULL, job TEXT NOT NULL, reason TEXT NOT NULL);
"""
QUERIES_SCHEMA = "ALTER TABLE state ADD COLUMN queries_seq INTEGER NOT NULL DEFAULT 0;\n" + QUERIES_TABLE
SPARSE_SCHEMA = "ALTER TABLE settings ADD COLUMN sparse INTEGER NOT NULL DEFAULT 0;\n"
IMPORTS_SCHEMA = """
CREATE TABLE imports(uuid TEXT PRIMARY KEY, mode TEXT NOT NULL, state TEXT NOT NULL, rows INTEGER,
    done INTEGER NOT NULL, started REAL NOT NULL, made INTEGER NOT NULL, fixed INTEGER NOT NULL, taken);
CREATE TABLE staged(seq INTEGER PRIMARY KEY, import TEXT NOT NULL, first_key INTEGER NOT NULL UNIQUE,
    end_key INTEGER NOT NULL, file TEXT, rows INTEGER, bytes INTEGER, xxh3 TEXT);
"""
NOT_CLAIMED = "NOT EXISTS (SELECT 1 FROM staged WHERE first_key <= key AND key < end_key)"
"""Of a row of `items` or `metadata`: no import that is under way has put it there (`storage/imports.py`)."""
ITEMS_SCHEMA = {
    "int": "CREATE TABLE items(id INTEGER PRIMARY KEY, key INTEGER NOT NULL)",
    "str": "CREATE TABLE items(id TEXT PRIMARY KEY, key INTEGER NOT NULL) WITHOUT ROWID",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """The one row of `settings`. index_spec is {"kind": …, "params": {…}}."""

    dimension: int
    metric: str
    dtype: str
    id_type: str
    recall: float
    index_spec: dict[str, Any]
    created: str
    sparse: bool = False

    @property
    def vector_dtype(self) -> np.dtype[Any]:
        return np.dtype("<f2" if self.dtype == "float16" else "<f4")


@dataclass(slots=True)
class State:
    """The one row of `state`: counters, read and advanced inside BEGIN IMMEDIATE only, and whose they are."""

    next_key: int = 1
    next_id: int = 0
    log_pos: int = 0
    generation: int = 0
    trimmed_pos: int = 0
    next_seq: int = 1
    spec_seq: int = 1
    cancelled_seq: int = 0
    pending_rows: int = 0
    pending_bytes: int = 0
    live: int = 0
    dropped: int = 0
    uuid: str = ""
    """Whose catalogue this is: the folder it was made in. Every transaction writes this row, and none ever writes the
    table `owner`: the one is in every write-ahead log, the other in the database behind it, so that neither file can
    be taken for another collection's."""
    name: str = ""
    """What the collection was made as, for where the registry is lost."""
    queries_seq: int = 0
    """Number of the set of queries in `calibration_queries`: an index whose meta names an earlier one is still to be
    calibrated on them. 0: none were ever given."""


STATE_COLUMNS = tuple(State.__slots__)
SELECT_STATE = f"SELECT {', '.join(STATE_COLUMNS)} FROM state"
UPDATE_STATE = f"UPDATE state SET {', '.join(c + '=?' for c in STATE_COLUMNS)}"


@dataclass(frozen=True, slots=True)
class IndexRow:
    seq: int
    file: str
    kind: str
    spec_seq: int
    bytes: int
    xxh3: str
    meta: dict[str, Any] = field(hash=False, compare=False)


@dataclass(frozen=True, slots=True)
class ColumnsRow:
    """The metadata columns of segment `seq`: the metadata as it stood at `log_pos` of the change log, or later."""

    seq: int
    file: str
    log_pos: int
    bytes: int
    xxh3: str


@dataclass(frozen=True, slots=True)
class Rejection:
    """What is not tried again on segment `seq` while the index specification is `spec_seq`, and why.

    job: "build": its own index found too little; "merge": the index of a merge that it was the largest part of did."""

    seq: int
    spec_seq: int
    job: str
    reason: str


@dataclass(frozen=True, slots=True)
class SegmentRow:
    seq: int
    file: str
    rows: int
    base_key: int
    span: int
    bytes: int
    xxh3: str
    index: IndexRow | None = None
    columns: ColumnsRow | None = None
    rejected: Rejection | None = None

    def values(self) -> tuple[Any, ...]:
        """What the table `segments` holds of it."""
        return (self.seq, self.file, self.rows, self.base_key, self.span, self.bytes, self.xxh3)

    @property
    def derived(self) -> tuple[IndexRow | ColumnsRow, ...]:
        """The files beside it that can be made anew."""
        return tuple(row for row in (self.index, self.columns) if row is not None)

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file, *(row.file for row in self.derived))

    @property
    def total_bytes(self) -> int:
        return self.bytes + sum(row.bytes for row in self.derived)


@dataclass(frozen=True, slots=True)
class JobRow:
    kind: str
    seq: int
    started: float
    progress: float
    eta_s: float | None
    attempts: int
    reason: str | None


@dataclass(frozen=True, slots=True)
class PendingRows:
    """keys: (n,) int64 ascending; ids: n; vectors: (n, d) in the collection's dtype, sparse where that is."""

    keys: NDArray[np.int64]
    ids: list[Any]
    vectors: NDArray[Any] | SparseRows


def create(folder: Path, settings: Settings, name: str, made_for: str = "") -> None:
    """Makes the folder and its empty catalogue, on disk when it returns. No registry names it yet.

    name: the collection's, for where the registry is lost; made_for: the import that it goes with, should that come to
    nothing."""
    hit(CREATE)
    (folder / SEGMENTS_NAME).mkdir(parents=True)
    hit(CREATE_DATABASE)
    (folder / WRITE_LOCK_NAME).touch()
    db = Database(folder / CATALOGUE_NAME, APPLICATION_ID, create=True)
    with db.writing():
        db.execute(SCHEMA + FILTERS_SCHEMA + QUERIES_TABLE + REJECTIONS_TABLE + IMPORTS_SCHEMA)
        db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("INSERT INTO settings VALUES (?,?,?,?,?,?,?,?)", _settings_row(settings))
        db.execute("INSERT INTO owner VALUES (?)", (folder.name,))
        fresh = State(uuid=folder.name, name=name)
        marks = ",".join("?" * len(STATE_COLUMNS))
        db.execute(
            f"INSERT INTO state({','.join(STATE_COLUMNS)}) VALUES ({marks})",
            tuple(getattr(fresh, c) for c in STATE_COLUMNS),
        )
        if settings.id_type != "auto":
            db.execute(ITEMS_SCHEMA[settings.id_type])
        if made_for:
            row = (made_for, time.time())
            db.execute("INSERT INTO imports VALUES (?,'add','reading',NULL,0,?,1,0,NULL)", row)
    db.close()
    for made in (folder / SEGMENTS_NAME, folder, folder.parent):
        hit(CREATE_FSYNC)
        fsync_dir(made)


def _settings_row(settings: Settings) -> tuple[Any, ...]:
    spec = json.dumps(settings.index_spec, sort_keys=True)
    s = settings
    return (s.dimension, s.metric, s.dtype, s.id_type, s.recall, spec, s.created, int(s.sparse))


def connect(folder: Path) -> Database:
    """Raises Damaged, and Dropped where the folder has gone (dropping takes it away at once, by a rename)."""
    try:
        return Database(folder / CATALOGUE_NAME, APPLICATION_ID)
    except errors.Damaged as e:
        if not folder.exists():
            raise errors.Dropped(str(folder)) from e
        raise


def upgrade(db: Database, name: str) -> None:
    """Brings a catalogue of an older version up to this one, in one transaction. At the start alone.

    name: the collection's."""
    found = (db.one("PRAGMA user_version") or (0,))[0]
    if found > VERSION:
        raise errors.Damaged(f"{db.path}: format version {found} of a later seedvec, this one reads up to {VERSION}")
    if found == VERSION:
        return
    with db.writing():
        if found < 2:
            db.execute(FILTERS_SCHEMA + OWNER_SCHEMA)
            db.execute("UPDATE state SET uuid = ?, name = ?", (db.path.parent.name, name))
            db.execute("INSERT INTO owner VALUES (?)", (db.path.parent.name,))
        if found < 3:
            db.execute(QUERIES_SCHEMA + REJECTIONS_TABLE)
        db.execute(SPARSE_SCHEMA + IMPORTS_SCHEMA)
        db.execute(f"PRAGMA user_version = {VERSION}")


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def read_settings(db: Database) -> Settings:
    row = db.one("SELECT dimension, metric, dtype, id_type, recall, index_spec, created, sparse FROM settings")
    if row is None:
        raise errors.Damaged(f"{db.path}: no settings")
    return Settings(row[0], row[1], row[2], row[3], row[4], json.loads(row[5]), row[6], bool(row[7]))


def read_state(db: Database) -> State:
    row = db.one(SELECT_STATE)
    if row is None:
        raise errors.Damaged(f"{db.path}: no state")
    return State(*row)


def is_owned(db: Database, state: State) -> bool:
    """The catalogue and its log are those of the folder they lie in."""
    row = db.one("SELECT uuid FROM owner")
    return state.uuid == db.path.parent.name and row is not None and row[0] == state.uuid


def read_segments(db: Database) -> list[SegmentRow]:
    """All segments with their indexes and columns and what was rejected of them, in order of their keys."""
    indexes = db.execute("SELECT seq, file, kind, spec_seq, bytes, xxh3, meta FROM indexes")
    found = {
        seq: IndexRow(seq, file, kind, spec, size, xxh3, json.loads(meta))
        for seq, file, kind, spec, size, xxh3, meta in indexes
    }
    columns = {row[0]: ColumnsRow(*row) for row in db.execute("SELECT seq, file, log_pos, bytes, xxh3 FROM columns")}
    rejected = {row[0]: Rejection(*row) for row in db.execute("SELECT seq, spec_seq, job, reason FROM rejections")}
    query = "SELECT seq, file, rows, base_key, span, bytes, xxh3 FROM segments ORDER BY base_key, seq"
    return [
        SegmentRow(seq, file, rows, base, span, size, xxh3, found.get(seq), columns.get(seq), rejected.get(seq))
        for seq, file, rows, base, span, size, xxh3 in db.execute(query)
    ]


def read_job(db: Database) -> JobRow | None:
    row = db.one("SELECT kind, seq, started, progress, eta_s, attempts, reason FROM job")
    return None if row is None else JobRow(*row)


def read_deaths(db: Database, after_pos: int) -> NDArray[np.int64]:
    """Keys that stopped being live after that log position, in that order."""
    rows = db.execute("SELECT key FROM deaths WHERE pos > ? ORDER BY pos", (after_pos,))
    return np.fromiter((row[0] for row in rows), np.int64)


def read_deaths_within(db: Database, segment: SegmentRow, up_to_pos: int | None = None) -> NDArray[np.int64]:
    """Dead keys, ascending, in the key range of a segment (others may lie there too)."""
    limit = (1 << 62) if up_to_pos is None else up_to_pos
    rows = db.execute(
        "SELECT key FROM deaths WHERE key >= ? AND key < ? AND pos <= ? ORDER BY key",
        (segment.base_key, segment.base_key + segment.span, limit),
    )
    return np.fromiter((row[0] for row in rows), np.int64)


def read_sealed_deaths(db: Database) -> NDArray[np.int64]:
    """All dead keys that some segment held when they died, ascending."""
    return np.fromiter(
        (row[0] for row in db.execute("SELECT key FROM deaths WHERE pending = 0 ORDER BY key")), np.int64
    )


def read_pending(db: Database, settings: Settings, from_key: int = 0, limit: int = -1) -> PendingRows:
    rows = db.execute("SELECT key, id, vector FROM pending WHERE key >= ? ORDER BY key LIMIT ?", (from_key, limit))
    keys: list[int] = []
    ids: list[Any] = []
    blobs: list[bytes] = []
    for key, id_, blob in rows:
        keys.append(key)
        ids.append(id_)
        blobs.append(blob)
    vectors = decode(blobs, settings.dimension, settings.vector_dtype, settings.sparse)
    return PendingRows(np.array(keys, np.int64), ids, vectors)


def find_keys(db: Database, ids: Sequence[Any]) -> dict[Any, int]:
    """id → key of those ids that are there. The table must exist (the id type is fixed)."""
    query = f"SELECT id, key FROM items WHERE id = ? AND {NOT_CLAIMED}"
    if len(ids) == 1:
        row = db.one(query, (ids[0],))
        return {} if row is None else {row[0]: row[1]}
    return {row[0]: row[1] for row in db.many(query, ((i,) for i in ids))}


def read_pending_ids(db: Database, from_key: int) -> dict[int, Any]:
    """key → id of the pending rows from that key on."""
    return dict(db.execute("SELECT key, id FROM pending WHERE key >= ?", (from_key,)))


def read_calibration_queries(db: Database) -> NDArray[np.float32]:
    """The queries a client gave to calibrate on, (q, d) float32 in the order given; (0, d) where there are none."""
    dimension = read_settings(db).dimension
    query = "SELECT vector FROM calibration_queries WHERE length(vector) = ? ORDER BY place"
    blobs = [row[0] for row in db.execute(query, (4 * dimension,))]
    return np.frombuffer(b"".join(blobs), "<f4").reshape(len(blobs), dimension)
