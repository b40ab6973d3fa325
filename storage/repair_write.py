"""Writes what of a collection could be saved, as a whole new folder; the damaged one is only read.

Sound segments are linked, not copied: they never change. Rows keep their keys.
"""

import json
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from seedvec.sparse import SparseRows
from storage import atomic, catalogue
from storage.atomic import fsync_dir
from storage.catalogue import PENDING_ROW_BYTES, IndexRow, SegmentRow
from storage.database import Database
from storage.hashing import file_xxh3, hex16
from storage.layout import SEGMENTS_NAME, segment_name
from storage.repair_plan import Found, Plan, Source
from storage.segment import SegmentWriter
from storage.segment_vectors import Nonzeros

CHUNK_ROWS: Final = 10_000
Norms = Callable[[NDArray[Any] | SparseRows], NDArray[np.float32]]
"""Euclidean norms of rows, as they were computed when the rows were first written."""


def write(plan: Plan, folder: Path, norms: Norms) -> None:
    """Makes `folder`, whose name is the collection's new one, on disk when it returns. Raises OSError, StorageError."""
    assert plan.settings is not None
    settings = plan.settings
    catalogue.create(folder, settings, plan.report.name)
    kept = _by_source(plan)
    with closing(catalogue.connect(folder)) as db, db.writing():
        for number, source in enumerate(plan.sources):
            rows = kept.get(number, np.empty(0, np.int64))
            if len(rows):
                _write_source(plan, source, rows, folder, db, norms)
        _write_rows(plan, db)
        _write_state(plan, folder, db)
    fsync_dir(folder / SEGMENTS_NAME)


def _by_source(plan: Plan) -> dict[int, NDArray[np.int64]]:
    rows: dict[int, list[int]] = {}
    for found in plan.kept.values():
        if found.source is not None:
            rows.setdefault(found.source, []).append(found.row)
    return {number: np.sort(np.array(some, np.int64)) for number, some in rows.items()}


def _write_source(
    plan: Plan, source: Source, rows: NDArray[np.int64], folder: Path, db: Database, norms: Norms
) -> None:
    if source.sound:
        assert source.row is not None
        _link(plan, source.row, folder, db)
        dead = np.ones(source.rows.file.rows, bool)
        dead[rows] = False
        keys = source.rows.keys[dead].tolist()
        top = db.one("SELECT coalesce(max(pos), 0) FROM deaths")
        assert top is not None
        db.many("INSERT INTO deaths VALUES (?,?,0)", zip(keys, range(top[0] + 1, top[0] + 1 + len(keys)), strict=True))
        return
    segment = _write_segment(plan, source, rows, folder, norms)
    db.execute("INSERT INTO segments VALUES (?,?,?,?,?,?,?)", segment.values())


def _link(plan: Plan, row: SegmentRow, folder: Path, db: Database) -> None:
    os.link(plan.folder / SEGMENTS_NAME / row.file, folder / SEGMENTS_NAME / row.file)
    db.execute("INSERT INTO segments VALUES (?,?,?,?,?,?,?)", row.values())
    index = row.index
    if index is not None and _is_sound(plan.folder / SEGMENTS_NAME / index.file, index):
        # It costs the most to make anew. Metadata columns are derived again: their metadata may not have come along.
        os.link(plan.folder / SEGMENTS_NAME / index.file, folder / SEGMENTS_NAME / index.file)
        i = index
        values = (i.seq, i.file, i.kind, i.spec_seq, i.bytes, i.xxh3, json.dumps(i.meta))
        db.execute("INSERT INTO indexes VALUES (?,?,?,?,?,?,?)", values)


def _is_sound(path: Path, index: IndexRow) -> bool:
    try:
        size, digest = file_xxh3(path)
    except OSError:
        return False
    return size == index.bytes and hex16(digest) == index.xxh3


def _write_segment(plan: Plan, source: Source, rows: NDArray[np.int64], folder: Path, norms: Norms) -> SegmentRow:
    file, keys = source.rows.file, source.rows.keys
    base = int(keys[rows[0]])
    final = folder / SEGMENTS_NAME / segment_name(source.rows.seq)
    tmp = atomic.temporary(final)
    ids = source.rows.ids()
    total = None if file.id_type == "int" else sum(len(ids[row].encode()) for row in rows.tolist())
    dtype, nonzeros = file.vectors.dtype, _nonzeros(file.vectors, rows)
    with SegmentWriter(tmp, len(rows), file.dimension, dtype, file.metric, total, base, nonzeros) as writer:
        for begin in range(0, len(rows), CHUNK_ROWS):
            part = rows[begin : begin + CHUNK_ROWS]
            vectors: NDArray[Any] | SparseRows = file.vectors[part]
            relative = (keys[part] - base).astype(np.uint64)
            # The stored norms may lie in a damaged block: they are made of the vectors alone.
            writer.append(vectors, relative, [ids[row] for row in part.tolist()], norms(vectors))
        written = writer.finish()
    atomic.publish(tmp, final, "segment")
    span = int(keys[rows[-1]]) - base + 1
    return SegmentRow(source.rows.seq, final.name, written.rows, base, span, written.bytes, hex16(written.xxh3))


def _nonzeros(vectors: NDArray[Any] | SparseRows, rows: NDArray[np.int64]) -> Nonzeros | None:
    """Of the rows that are kept, by themselves: the postings may be what is damaged."""
    if not isinstance(vectors, SparseRows):
        return None
    stored, terms = 0, np.empty(0, np.int32)
    for begin in range(0, len(rows), CHUNK_ROWS):
        part = Nonzeros.of(vectors[rows[begin : begin + CHUNK_ROWS]])
        stored, terms = stored + part.stored, np.union1d(terms, part.terms)
    return Nonzeros(stored, terms)


def _write_rows(plan: Plan, db: Database) -> None:
    assert plan.settings is not None
    pending = [plan.pending[found.row] for found in plan.kept.values() if found.source is None]
    db.many("INSERT INTO pending VALUES (?,?,?)", sorted(pending))
    db.many("INSERT INTO metadata VALUES (?,?)", sorted(plan.metadata.items()))
    if plan.given is not None:
        db.many("INSERT INTO calibration_queries VALUES (?,?)", enumerate(query.tobytes() for query in plan.given))
    if plan.settings.id_type == "auto":
        return
    db.many("INSERT INTO items(id, key) VALUES (?,?)", ((id_, found.key) for id_, found in sorted(plan.kept.items())))


def _write_state(plan: Plan, folder: Path, db: Database) -> None:
    pending = [len(plan.pending[f.row][2]) for f in plan.kept.values() if f.source is None]
    deaths = db.one("SELECT coalesce(max(pos), 0) FROM deaths")
    assert deaths is not None
    numbers = [id_ for id_ in plan.kept if isinstance(id_, int)]
    state = replace(
        plan.state,
        next_key=max([plan.state.next_key, *(f.key + 1 for f in _some(plan))]),
        next_id=max([plan.state.next_id, *(min(id_ + 1, 2**63 - 1) for id_ in numbers)]),
        log_pos=max(plan.state.log_pos, deaths[0]) + 1,
        generation=plan.state.generation + 1,
        trimmed_pos=0,
        pending_rows=len(pending),
        pending_bytes=sum(pending) + PENDING_ROW_BYTES * len(pending),
        live=len(plan.kept),
        dropped=0,
        uuid=folder.name,
        name=plan.report.name,
    )
    db.execute(catalogue.UPDATE_STATE, tuple(getattr(state, name) for name in catalogue.STATE_COLUMNS))


def _some(plan: Plan) -> list[Found]:
    return [found for found in plan.kept.values() if found.source is None]
