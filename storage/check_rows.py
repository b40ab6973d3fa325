"""Does every live id have its vector exactly once, and is everything else dead?

A row is live if and only if `items` gives its id that key. What serves searches is computed the other way round:
the rows of all segments that no death names, and the pending ones. The two must agree exactly, in both directions.
All comparisons are NumPy's over sorted keys.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from seedvec.pending_vectors import wrong
from seedvec.segment import Segment, StrIds
from storage.catalogue import PENDING_ROW_BYTES, SegmentRow, Settings, State
from storage.database import Database
from storage.errors import Damaged
from storage.report import Report, examples

FETCH_ROWS: Final = 100_000
REPORT: Final = "please report it, with what happened to the server before"
MAX_INT_ID: Final = 2**63 - 1

Keys = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Items:
    """id → key, sorted by key. ids: (n,) int64, or object (str)."""

    keys: Keys
    ids: NDArray[Any]


@dataclass(frozen=True, slots=True)
class CatalogueRows:
    """Everything in the catalogue that has a key, as of one moment; all key arrays ascend.

    pending_bad: how many pending vectors have a wrong length. max_death_pos: 0 where nobody died.
    """

    items: Items
    pending: Items
    pending_bytes: int
    pending_bad: int
    deaths: Keys
    deaths_pending: NDArray[np.bool_]
    max_death_pos: int
    metadata: Keys


@dataclass(frozen=True, slots=True)
class Sealed:
    """A segment whose keys and ids can be believed."""

    row: SegmentRow
    file: Segment
    where: str

    def keys(self) -> Keys:
        return self.file.keys_rel.astype(np.int64) + self.row.base_key

    def ids(self) -> NDArray[Any]:
        if isinstance(self.file.ids, StrIds):
            return np.array(self.file.ids.all(), object)
        return self.file.ids


def read_rows(db: Database, settings: Settings) -> CatalogueRows:
    """Inside one read transaction."""
    ids_are_int = settings.id_type == "int"
    items = Items(np.empty(0, np.int64), np.empty(0, np.int64 if ids_are_int else object))
    if ids_are_int:
        items = _by_key(*_integers(db, "items", ("key", "id"), by="id"))
    elif settings.id_type == "str":
        items = _by_key(*_with_texts(db.execute("SELECT key, id FROM items")))
    if ids_are_int:
        pending = _by_key(*_integers(db, "pending", ("key", "id"), by="key"))
    else:
        pending = _by_key(*_with_texts(db.execute("SELECT key, id FROM pending")))
    bad = wrong(settings.dimension, settings.vector_dtype, settings.sparse)
    sizes = db.one(
        f"SELECT coalesce(sum(length(vector) + ?), 0), count(*) FILTER (WHERE {bad}) FROM pending", (PENDING_ROW_BYTES,)
    )
    assert sizes is not None
    deaths, positions, in_pending = _integers(db, "deaths", ("key", "pos", "pending"), by="key")
    (metadata,) = _integers(db, "metadata", ("key",), by="key")
    staged = list(db.execute("SELECT first_key, end_key FROM staged"))
    items = Items(*(part[_unclaimed(items.keys, staged)] for part in (items.keys, items.ids)))
    metadata = metadata[_unclaimed(metadata, staged)]
    last = int(positions.max()) if len(positions) else 0
    return CatalogueRows(items, pending, sizes[0], sizes[1], deaths, in_pending.astype(bool), last, metadata)


def _unclaimed(keys: Keys, staged: list[tuple[int, int]]) -> NDArray[np.bool_]:
    """All but what an import that is under way has put there: it counts for nothing yet."""
    mask = np.ones(len(keys), bool)
    for first, end in staged:
        mask[np.searchsorted(keys, first) : np.searchsorted(keys, end)] = False
    return mask


def _integers(db: Database, table: str, columns: tuple[str, ...], by: str) -> list[Keys]:
    """Integer columns in the order of `by`, the table's primary key. Raises Damaged where a value is none.

    SQLite writes them as one text that NumPy reads: 1M keys take 0.06 s, and 0.25 s row by row.
    """
    texts = ", ".join(f"group_concat({c})" for c in columns)
    others = " + ".join(f"sum(typeof({c}) <> 'integer')" for c in columns)
    wanted = ", ".join(dict.fromkeys((*columns, by)))
    part = f"SELECT {wanted} FROM {table} WHERE {by} > ? ORDER BY {by} LIMIT {FETCH_ROWS}"
    query = f"SELECT max({by}), {others}, {texts} FROM ({part})"
    found: list[list[Keys]] = [[np.empty(0, np.int64)] for _ in columns]
    last = -(2**63)
    while (row := db.one(query, (last,))) is not None and row[0] is not None:
        last = row[0]
        if row[1]:
            raise Damaged(f"{table} holds values of another type than integer")
        for into, text in zip(found, row[2:], strict=True):
            into.append(np.fromstring(text, np.int64, sep=","))
    return [np.concatenate(parts) for parts in found]


def _with_texts(cursor: Iterator[tuple[Any, Any]]) -> tuple[Keys, NDArray[Any]]:
    """Keys and ids, row by row: ids may hold any character, so no text of them all can be taken apart."""
    keys: list[Keys] = [np.empty(0, np.int64)]
    ids: list[NDArray[Any]] = [np.empty(0, object)]
    while rows := list(islice(cursor, FETCH_ROWS)):
        some_keys, some_ids = zip(*rows, strict=True)
        try:
            keys.append(np.fromiter(some_keys, np.int64, len(rows)))
        except (TypeError, ValueError, OverflowError) as e:
            raise Damaged(f"a key is of another type than integer: {e}") from e
        ids.append(np.fromiter(some_ids, object, len(rows)))
    return np.concatenate(keys), np.concatenate(ids)


def _by_key(keys: NDArray[Any], ids: NDArray[Any]) -> Items:
    order = np.argsort(keys, kind="stable")
    return Items(keys[order], ids[order])


def find(sorted_keys: Keys, keys: Keys) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where each of `keys` stands in `sorted_keys` (0 where it does not), and whether it does."""
    if not len(sorted_keys):
        return np.zeros(len(keys), np.int64), np.zeros(len(keys), bool)
    at = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    there = sorted_keys[at] == keys
    return np.where(there, at, 0), there


def check_liveness(
    rows: CatalogueRows, sealed: list[Sealed], unreadable: list[SegmentRow], where: str, report: Report
) -> None:
    """unreadable: segments whose keys are unknown: live rows in their range of keys are counted as theirs."""
    items = rows.items
    if len(items.keys) > 1 and not bool((items.keys[1:] > items.keys[:-1]).all()):
        twice = items.keys[1:][items.keys[1:] == items.keys[:-1]]
        report.add("error", where, f"several ids share the keys {examples(twice.tolist())}", REPORT)
    times_stored = np.zeros(len(items.keys), np.int64)
    segment_keys = [np.empty(0, np.int64)]
    for segment in sealed:
        keys = segment.keys()
        segment_keys.append(keys)
        _, dead = find(rows.deaths, keys)
        alive = Items(keys[~dead], segment.ids()[~dead])
        _compare(items, alive, times_stored, "is neither live nor recorded as dead", segment.where, report)
    _compare(items, rows.pending, times_stored, "is pending, but not live", where, report)
    _dead_but(rows.pending.keys, rows, "pending", where, report)
    _dead_but(items.keys, rows, "live", where, report)
    _count_stored(items, times_stored, unreadable, where, report)
    if not unreadable:
        _leftovers(rows, np.concatenate(segment_keys), where, report)


def _compare(
    items: Items, stored: Items, times_stored: NDArray[np.int64], unknown: str, where: str, report: Report
) -> None:
    """Rows that serve searches against `items`."""
    at, there = find(items.keys, stored.keys)
    if not there.all():
        lost = stored.keys[~there]
        report.add("error", where, f"key {examples(lost.tolist())} {unknown}: it may be answered with", REPORT)
    np.add.at(times_stored, at[there], 1)
    differs = items.ids[at[there]] != stored.ids[there]
    if np.any(differs):
        keys = stored.keys[there][differs]
        report.add("error", where, f"the ids of keys {examples(keys.tolist())} differ from the catalogue's", REPORT)


def _dead_but(keys: Keys, rows: CatalogueRows, what: str, where: str, report: Report) -> None:
    _, dead = find(rows.deaths, keys)
    if dead.any():
        report.add("error", where, f"keys {examples(keys[dead].tolist())} are {what} and recorded as dead", REPORT)


def _count_stored(
    items: Items, times_stored: NDArray[np.int64], unreadable: list[SegmentRow], where: str, report: Report
) -> None:
    twice = times_stored > 1
    if twice.any():
        report.add("error", where, f"the vectors of ids {examples(items.ids[twice].tolist())} are stored twice", REPORT)
    lost = times_stored == 0
    for row in unreadable:
        theirs = lost & (items.keys >= row.base_key) & (items.keys < row.base_key + row.span)
        lost &= ~theirs
        if theirs.any():
            ids = examples(items.ids[theirs].tolist())
            report.add("error", f"{where}/{row.file}", f"it held the vectors of {theirs.sum():,} live ids: {ids}")
    if lost.any():
        ids = examples(items.ids[lost].tolist())
        what = f"{lost.sum():,} live ids have no vector, neither in a segment nor pending: {ids}"
        report.add("error", where, what, "restore the collection from a copy, or delete these ids")


def _leftovers(rows: CatalogueRows, segment_keys: Keys, where: str, report: Report) -> None:
    sealed_deaths = rows.deaths[~rows.deaths_pending]
    _, there = find(np.sort(segment_keys), sealed_deaths)
    if not there.all():
        report.add("note", where, f"{(~there).sum():,} recorded deaths are of keys that no segment holds any more")


def check_metadata(rows: CatalogueRows, where: str, report: Report) -> None:
    _, there = find(rows.items.keys, rows.metadata)
    if not there.all():
        keys = examples(rows.metadata[~there].tolist())
        report.add("error", where, f"there is metadata for keys that are not live: {keys}", REPORT)


def check_counters(
    rows: CatalogueRows, state: State, settings: Settings, segments: list[SegmentRow], where: str, report: Report
) -> None:
    tops = [int(k[-1]) for k in (rows.items.keys, rows.pending.keys, rows.deaths, rows.metadata) if len(k)]
    tops += [s.base_key + s.span - 1 for s in segments]
    faults = []
    if tops and state.next_key <= max(tops):
        faults.append(f"next_key is {state.next_key}, but key {max(tops)} was given")
    if settings.id_type == "int" and len(rows.items.ids):
        top = int(rows.items.ids.max())
        if top < MAX_INT_ID and state.next_id <= top:
            faults.append(f"next_id is {state.next_id}, but id {top} was given")
    if state.log_pos < rows.max_death_pos:
        faults.append(f"log_pos is {state.log_pos}, but position {rows.max_death_pos} was given")
    if state.trimmed_pos > state.log_pos:
        faults.append(f"trimmed_pos is {state.trimmed_pos}, beyond log_pos {state.log_pos}")
    if segments and state.next_seq <= max(s.seq for s in segments):
        faults.append(f"next_seq is {state.next_seq}, but there is a segment {max(s.seq for s in segments)}")
    counts = {
        "live": (state.live, len(rows.items.keys)),
        "pending_rows": (state.pending_rows, len(rows.pending.keys)),
        "pending_bytes": (state.pending_bytes, rows.pending_bytes),
    }
    faults += [f"{name} is {said:,}, but there are {seen:,}" for name, (said, seen) in counts.items() if said != seen]
    if rows.pending_bad:
        faults.append(f"{rows.pending_bad:,} pending vectors have the wrong length")
    for fault in faults:
        report.add("error", where, fault, REPORT)
