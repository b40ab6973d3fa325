"""Reads registry.db and catalog.db with Python's own sqlite3, read-only, beside a running server or without one.

Nothing is ever written to a database (SQLite may leave an empty -wal and -shm beside it). Not for a process that has
them open through apsw too: POSIX locks are lost when either library closes a file that both have open. Pages are not
verified here as the server does, whose checksums Python's sqlite3 does not know: `seedvec check` looks at them.
"""

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from seedvec.errors import FolderError

REGISTRY: Final = "registry.db"
REGISTRY_ID: Final = 0x53656564
COLLECTIONS: Final = "c"
CATALOGUE: Final = "catalog.db"
CATALOGUE_ID: Final = 0x53656563
MAX_VERSION: Final = 4
"""Of a catalogue. What is read here is in every version from 1 on, but for `sparse`."""
SPARSE_VERSION: Final = 4
SEGMENTS: Final = "segments"
BUSY_TIMEOUT_S: Final = 10.0
METADATA_SLICE: Final = 20_000
"""Rows of metadata read in one transaction: some 20 ms, so that no checkpoint waits."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What of a collection's settings a reader needs. id_type: "int", "str", or "auto" where nothing was written."""

    dimension: int
    metric: str
    dtype: np.dtype[Any]
    id_type: str
    sparse: bool


@dataclass(frozen=True, slots=True)
class SegmentRow:
    file: str
    rows: int
    base_key: int
    span: int


@dataclass(frozen=True, slots=True)
class Pending:
    """Rows acknowledged and not sealed yet. keys: (n,) int64 ascending; vectors: n blobs."""

    keys: NDArray[np.int64]
    ids: list[Any]
    vectors: list[bytes]


@contextmanager
def connected(path: Path, application_id: int) -> Iterator[sqlite3.Connection]:
    """Raises FolderError where it is no database of ours or cannot be read."""
    if not path.is_file():
        raise FolderError(f"{path} is not there")
    try:
        with _opened(path) as db:
            if db.execute("PRAGMA application_id").fetchone()[0] != application_id:
                raise FolderError(f"{path} is not Seedvec's")
            yield db
    except sqlite3.Error as e:
        raise FolderError(f"{path}: {e}") from e


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(_connect(path, "mode=ro")) as db:
        try:
            db.execute("PRAGMA schema_version").fetchone()
        except sqlite3.OperationalError:
            db.close()
        else:
            yield db
            return
    # WAL mode wants to make its shared memory beside the file. Where it cannot, nobody can be writing either; and a
    # copy is read as it is, its log with it.
    with tempfile.TemporaryDirectory(prefix="seedvec-") as folder:
        for suffix in ("", "-wal"):
            if Path(f"{path}{suffix}").is_file():
                shutil.copyfile(f"{path}{suffix}", Path(folder) / f"{path.name}{suffix}")
        with closing(_connect(Path(folder) / path.name, "mode=rw")) as db:
            yield db


def _connect(path: Path, how: str) -> sqlite3.Connection:
    uri = f"file:{quote(str(path.absolute()))}?{how}"
    # No transactions of the module's own making; threads: as the caller keeps them apart.
    return sqlite3.connect(uri, BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, uri=True)


def collections(db: sqlite3.Connection) -> dict[str, tuple[str, str | None]]:
    """name or alias → (uuid, why it is closed), of the registry."""
    found = {name: (uuid, reason) for name, uuid, reason in db.execute("SELECT name, uuid, reason FROM collections")}
    if db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'aliases'").fetchone():
        leads = db.execute("SELECT name, collection FROM aliases").fetchall()
        found |= {name: found[collection] for name, collection in leads if collection in found}
    return found


def read_settings(db: sqlite3.Connection) -> Settings:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > MAX_VERSION:
        raise FolderError(f"the folder is of format {version}, of a later seedvec; this one reads up to {MAX_VERSION}")
    sparse = "sparse" if version >= SPARSE_VERSION else "0"
    dimension, metric, dtype, id_type, is_sparse = db.execute(
        f"SELECT dimension, metric, dtype, id_type, {sparse} FROM settings"
    ).fetchone()
    return Settings(dimension, metric, np.dtype("<f2" if dtype == "float16" else "<f4"), id_type, bool(is_sparse))


def is_dropped(db: sqlite3.Connection) -> bool:
    return bool(db.execute("SELECT dropped FROM state").fetchone()[0])


def settled_key(db: sqlite3.Connection) -> int:
    """Below this key no metadata is added any more: an import that is under way fills in keys it took long ago."""
    key = int(db.execute("SELECT next_key FROM state").fetchone()[0])
    if db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'staged'").fetchone() is None:
        return key
    staged = db.execute("SELECT min(first_key) FROM staged").fetchone()[0]
    return key if staged is None else min(key, int(staged))


def read_segments(db: sqlite3.Connection) -> list[SegmentRow]:
    return [SegmentRow(*row) for row in db.execute("SELECT file, rows, base_key, span FROM segments ORDER BY base_key")]


def read_dead(db: sqlite3.Connection) -> NDArray[np.int64]:
    """Keys that are not live any more and may still stand in a segment, ascending."""
    return np.fromiter((row[0] for row in db.execute("SELECT key FROM deaths ORDER BY key")), np.int64)


def read_pending(db: sqlite3.Connection) -> Pending:
    rows = db.execute("SELECT key, id, vector FROM pending ORDER BY key").fetchall()
    return Pending(np.array([row[0] for row in rows], np.int64), [row[1] for row in rows], [row[2] for row in rows])


def read_metadata(db: sqlite3.Connection, after_key: int, before_key: int) -> list[tuple[int, bytes]]:
    """The next rows between those keys: (key, JSON object in UTF-8); empty at the end."""
    query = "SELECT key, json FROM metadata WHERE key > ? AND key < ? ORDER BY key LIMIT ?"
    return db.execute(query, (after_key, before_key, METADATA_SLICE)).fetchall()
