"""Reading the metadata of items: JSON documents by key, and the log of those that were changed in place."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage import errors
from storage.catalogue import NOT_CLAIMED, SegmentRow, read_state
from storage.database import Database

IN_ONE_QUERY = 100
"""Keys looked up by one statement; each number of keys is a statement that SQLite has to keep prepared."""
_ITEM = (
    f"SELECT key, (SELECT json FROM metadata WHERE metadata.key = items.key) FROM items WHERE id = ? AND {NOT_CLAIMED}"
)


def has_metadata(db: Database) -> bool:
    """False: no item has any."""
    return db.one("SELECT 1 FROM metadata LIMIT 1") is not None


def read_patches(db: Database, after_pos: int, limit: int = -1) -> NDArray[np.int64]:
    """Keys whose metadata was changed in place after that log position, in that order."""
    rows = db.execute("SELECT key FROM patches WHERE pos > ? ORDER BY pos LIMIT ?", (after_pos, limit))
    return np.fromiter((row[0] for row in rows), np.int64)


def read_patches_within(
    db: Database, segment: SegmentRow, after_pos: int, up_to_pos: int | None = None, limit: int = -1
) -> NDArray[np.int64]:
    """The same, ascending, in the key range of a segment (others may lie there too)."""
    last = (1 << 62) if up_to_pos is None else up_to_pos
    rows = db.execute(
        "SELECT key FROM patches WHERE key >= ? AND key < ? AND pos > ? AND pos <= ? ORDER BY key LIMIT ?",
        (segment.base_key, segment.base_key + segment.span, after_pos, last, limit),
    )
    return np.fromiter((row[0] for row in rows), np.int64)


def patches_kept_since(db: Database, seq: int) -> int:
    """All patches of a segment's rows after this log position are in `patches` still. Earlier ones may be forgotten."""
    query = "SELECT coalesce(c.log_pos, 0) FROM segments s LEFT JOIN columns c ON c.seq = s.seq WHERE s.seq = ?"
    row = db.one(query, (seq,))
    return read_state(db).trimmed_pos if row is None else int(row[0])


def read_documents(db: Database, keys: NDArray[np.int64]) -> list[bytes | None]:
    """The metadata of those keys (ascending) in their order; None where there is none."""
    if not len(keys):
        return []
    first, last = int(keys[0]), int(keys[-1])
    if last - first < 2 * len(keys):
        # Nearly all keys in between are asked for: one walk costs a fifth of as many look-ups.
        found = _whole(db, db.execute("SELECT key, json FROM metadata WHERE key BETWEEN ? AND ?", (first, last)))
    else:
        found = read_metadata(db, keys.tolist())
    return [found.get(key) for key in keys.tolist()]


def read_metadata(db: Database, keys: list[int]) -> dict[int, bytes]:
    """key → JSON object in UTF-8, for those that have any."""
    if len(keys) > IN_ONE_QUERY:
        rows = db.many("SELECT key, json FROM metadata WHERE key = ?", ((key,) for key in keys))
    else:
        # One statement for all: run key by key, ten cost four times as much.
        rows = db.execute(f"SELECT key, json FROM metadata WHERE key IN ({','.join('?' * len(keys))})", tuple(keys))
    return _whole(db, rows)


def find_item(db: Database, id_: Any) -> tuple[int, bytes | None] | None:
    """Key and metadata of an item; None: it is not there. In one reading of the catalogue, of which each takes and
    gives back a lock. The table must exist (the id type is fixed)."""
    row = db.one(_ITEM, (id_,))
    if row is None:
        return None
    key, json = row
    return (key, None) if json is None else (key, _whole(db, [(key, json)])[key])


def _whole(db: Database, rows: Any) -> dict[int, bytes]:
    """Zeros pass the checksum of a page: where they took the last page of a long value, it ends in zeros, and JSON
    never does. (In any other place SQLite notices a page of zeros itself.) Raises Damaged."""
    found: dict[int, bytes] = dict(rows)
    if any(not text[-1] for text in found.values()):
        raise errors.Damaged(f"{db.path}: metadata ends in zeros: a page of it is lost")
    return found
