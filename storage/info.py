"""`seedvec info`: what a data folder, or one file of it, holds, by headers and catalogues alone."""

import os
import struct
import time
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Final

import apsw

from seedvec.segment import SegmentError, open_segment
from storage import catalogue, errors, registry
from storage.catalogue import ColumnsRow, IndexRow, SegmentRow
from storage.columns import open_columns
from storage.layout import QUERIES_NAME, CollectionFolder, DataFolder
from storage.lock import holder
from storage.queries import Unreadable, read_file, read_sample
from storage.readonly import ReadOnlyDatabase

FAISS_METRICS: Final = {0: "inner product", 1: "l2"}
# fourcc, dimension, rows, two unused, trained, metric: how every file of faiss.write_index begins.
FAISS_HEADER: Final = struct.Struct("<4siqqqBi")

MAX_PATHS: Final = 50
"""Fields of a columns file that are named."""


def info(path: str | os.PathLike[str]) -> str:
    """Says so in its text where something cannot be read. Raises OSError where the path itself cannot be."""
    path = Path(path)
    if path.is_dir():
        return _folder(DataFolder(path))
    if path.suffix == ".faiss":
        return _index_file(path)
    if path.suffix == ".npz":
        return _sample_file(path) if path.resolve().parent.name == QUERIES_NAME else _columns_file(path)
    return _segment_file(path)


def _folder(data: DataFolder) -> str:
    try:
        with closing(ReadOnlyDatabase(data.registry, registry.APPLICATION_ID, registry.VERSION)) as db:
            named = [
                registry.Registered(*row)
                for row in db.execute("SELECT name, uuid, reason FROM collections ORDER BY name")
            ]
            aliases = list(db.execute("SELECT name, collection FROM aliases ORDER BY name"))
            snapshots = list(db.execute("SELECT name, folder, created FROM snapshots ORDER BY name"))
    except (errors.StorageError, apsw.Error) as e:
        return f"{data.root}: no data folder that can be read: {e}"
    owner = holder(data.root)
    lines = [f"{data.root}: {len(named)} collections, {'in use by ' + str(owner) if owner else 'no server'}"]
    for one in named:
        lines += ["", f"{one.name} (c/{one.uuid})"]
        if one.reason is not None:
            lines.append(f"  closed: {one.reason}")
        try:
            lines += _collection(data.collection(one.uuid))
        except (errors.StorageError, apsw.Error, OSError) as e:
            lines.append(f"  the catalogue cannot be read: {e}")
    lines += [""] * bool(aliases) + [f"alias {name} → {collection}" for name, collection in aliases]
    lines += [""] * bool(snapshots)
    lines += [f"snapshot {name} (snapshots/{folder}), taken {created}" for name, folder, created in snapshots]
    return "\n".join(lines)


def _collection(folder: CollectionFolder) -> list[str]:
    with closing(ReadOnlyDatabase(folder.catalogue, catalogue.APPLICATION_ID, catalogue.VERSION)) as db, db.reading():
        settings, state = catalogue.read_settings(db), catalogue.read_state(db)
        segments, job = catalogue.read_segments(db), catalogue.read_job(db)
        given = db.one("SELECT count(*) FROM calibration_queries") or (0,)
    s = settings
    spec = s.index_spec
    total = sum(r.total_bytes for r in segments)
    lines = [
        f"  {s.dimension} × {'sparse ' * s.sparse}{s.dtype}, {s.metric}, {s.id_type} ids, created {s.created}",
        f"  index {spec.get('kind')} {spec.get('params') or ''}".rstrip() + f", recall {s.recall}",
        (
            f"  {state.live:,} live vectors; {state.pending_rows:,} pending ({state.pending_bytes:,} bytes); "
            f"{len(segments)} segments, {total:,} bytes with what is beside them; "
            f"catalogue {_size(folder.catalogue):,} bytes"
        ),
    ]
    sampled = len(read_sample(folder.root))
    if given[0] or sampled:
        lines.append(f"  queries: {given[0]:,} given to calibrate on, {sampled:,} kept of those asked of late")
    if state.dropped:
        lines.append("  being dropped")
    if job is not None:
        outcome = f"failed: {job.reason}" if job.reason else f"{job.progress:.0%} done"
        lines.append(f"  job: {job.kind} of segment {job.seq}, attempt {job.attempts}, {outcome}")
    return lines + [line for row in segments for line in _segment_lines(row)]


def _segment_lines(row: SegmentRow) -> list[str]:
    keys = f"keys {row.base_key} to {row.base_key + row.span - 1}"
    lines = [f"  segments/{row.file}: {row.rows:,} rows, {keys}, {row.bytes:,} bytes, xxh3 {row.xxh3}"]
    return lines + [_derived_line(derived) for derived in row.derived]


def _derived_line(row: IndexRow | ColumnsRow) -> str:
    what = row.kind if isinstance(row, IndexRow) else f"metadata columns as of log position {row.log_pos}"
    return f"    {row.file}: {what}, {row.bytes:,} bytes, xxh3 {row.xxh3}"


def _size(path: Path) -> int:
    """With its write-ahead log."""
    return sum(p.stat().st_size for p in (path, Path(f"{path}-wal")) if p.exists())


def _segment_file(path: Path) -> str:
    try:
        segment = open_segment(path)
    except SegmentError as e:
        return str(e)
    lines = [
        (
            f"{path}: a segment of {segment.rows:,} × {segment.dimension} {'sparse ' * segment.sparse}"
            f"{segment.vectors.dtype}, {segment.metric}, "
            f"{segment.id_type} ids, {segment.file_bytes:,} bytes"
        ),
        f"  keys {int(segment.keys_rel[0])} to {int(segment.keys_rel[-1])} from the base key in the catalogue",
    ]
    for name, extent in sorted(segment.extents.items(), key=lambda e: e[1].offset):
        lines.append(f"  /{name}: {extent.dtype.str} {extent.shape} at byte {extent.offset:,}, {extent.nbytes:,} bytes")
    first = segment.ids_at(range(min(segment.rows, 3)))
    return "\n".join([*lines, f"  first ids: {', '.join(map(repr, first))}"])


def _index_file(path: Path) -> str:
    head = _head(path)
    if len(head) < FAISS_HEADER.size:
        return f"{path}: too short for a Faiss index ({len(head)} bytes)"
    fourcc, dimension, rows, _, _, trained, metric = FAISS_HEADER.unpack(head)
    kind = fourcc.decode("ascii", "replace")
    told = FAISS_METRICS.get(metric, f"metric {metric}")
    lines = [
        (
            f"{path}: a Faiss index ({kind}) over {rows:,} × {dimension}, {told}, "
            f"{'trained' if trained else 'not trained'}, {path.stat().st_size:,} bytes"
        )
    ]
    named = _catalogue_row(path)
    return "\n".join([*lines, f"  in the catalogue:{_derived_line(named)}" if named else "  no catalogue names it"])


def _columns_file(path: Path) -> str:
    try:
        columns = open_columns(path)
    except errors.Damaged as e:
        return str(e)
    named = [".".join(keys) for keys in islice(columns.paths(), MAX_PATHS)]
    more = f" and {columns.path_count - len(named):,} more" if columns.path_count > len(named) else ""
    return (
        f"{path}: metadata columns of {columns.rows:,} rows, {path.stat().st_size:,} bytes\n"
        f"  {columns.path_count:,} fields: {', '.join(named)}{more}"
    )


def _sample_file(path: Path) -> str:
    try:
        sample = read_file(path)
    except Unreadable as e:
        return str(e)
    q, d = sample.vectors.shape
    when = "" if not q else f", asked from {_moment(sample.times[0])} to {_moment(sample.times[-1])}"
    return f"{path}: a sample of {q:,} queries × {d}{when}"


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(FAISS_HEADER.size)


def _catalogue_row(path: Path) -> IndexRow | None:
    """What the catalogue two folders up says of the file, where there is one."""
    folder = CollectionFolder(path.resolve().parent.parent)
    if not folder.catalogue.exists():
        return None
    try:
        with closing(ReadOnlyDatabase(folder.catalogue, catalogue.APPLICATION_ID, catalogue.VERSION)) as db:
            rows = catalogue.read_segments(db)
    except (errors.StorageError, apsw.Error):
        return None
    return next((r.index for r in rows if r.index and r.index.file == path.name), None)
