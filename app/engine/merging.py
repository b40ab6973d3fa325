"""Writes one segment from several, without what is dead in them. Rows keep their keys, and stay in key order."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.engine.gathering import Lot, gathered
from app.engine.segments import OpenSegment
from app.engine.types import Vectors
from seedvec.segment import StrIds
from seedvec.sparse import INDEX_DTYPE, SparseRows
from storage import atomic
from storage.catalogue import SegmentRow, Settings
from storage.hashing import hex16
from storage.layout import SEGMENTS_NAME, segment_name
from storage.segment import SegmentWriter
from storage.segment_vectors import Nonzeros

CHUNK_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Rows:
    """The live rows of several segments in key order. source: number of the segment; row: in it; key: absolute."""

    keys: NDArray[np.int64]
    sources: NDArray[np.int32]
    rows: NDArray[np.int64]
    dropped: NDArray[np.int64]
    """Keys of the dead rows that are left out."""


def live_rows(inputs: list[OpenSegment], dead: list[NDArray[np.int64]]) -> Rows:
    """dead: for each input, keys of which those that it holds are dead."""
    keys, sources, rows, dropped = [], [], [], []
    for number, (segment, dead_keys) in enumerate(zip(inputs, dead, strict=True)):
        mask = np.ones(segment.row.rows, bool)
        mask[segment.rows_of(dead_keys)] = False
        absolute = segment.keys()
        keys.append(absolute[mask])
        rows.append(np.flatnonzero(mask))
        sources.append(np.full(len(rows[-1]), number, np.int32))
        dropped.append(absolute[~mask])
    all_keys = np.concatenate(keys)
    order = np.argsort(all_keys, kind="stable")
    return Rows(all_keys[order], np.concatenate(sources)[order], np.concatenate(rows)[order], np.concatenate(dropped))


def write_merged(
    folder: Path,
    seq: int,
    settings: Settings,
    inputs: list[OpenSegment],
    rows: Rows,
    progress: Callable[[float], None],
) -> SegmentRow:
    """Written, synced and named; in no catalogue yet. At least one row. Raises OSError; then no file is left."""
    final = folder / SEGMENTS_NAME / segment_name(seq)
    tmp = atomic.temporary(final)
    n, base = len(rows.keys), int(rows.keys[0])
    nonzeros = _nonzeros(inputs, rows) if settings.sparse else None
    chunk = _chunk_rows(settings, n, nonzeros)
    id_bytes = _id_bytes(inputs, rows) if settings.id_type == "str" else None
    s = settings
    with SegmentWriter(tmp, n, s.dimension, s.vector_dtype, s.metric, id_bytes, base, nonzeros) as writer:
        for begin in range(0, n, chunk):
            part = slice(begin, min(begin + chunk, n))
            vectors, ids, norms = _gather(inputs, rows.sources[part], rows.rows[part], settings)
            writer.append(vectors, (rows.keys[part] - base).astype(np.uint64), ids, norms)
            progress(part.stop / n)
        written = writer.finish()
    atomic.publish(tmp, final, "segment")
    span = int(rows.keys[-1]) - base + 1
    return SegmentRow(seq, final.name, n, base, span, written.bytes, hex16(written.xxh3))


def _chunk_rows(settings: Settings, rows: int, nonzeros: Nonzeros | None) -> int:
    """Rows of about CHUNK_BYTES."""
    row_bytes = settings.dimension * settings.vector_dtype.itemsize
    if nonzeros is not None:
        row_bytes = nonzeros.stored * (INDEX_DTYPE.itemsize + settings.vector_dtype.itemsize) // rows
    return max(1, CHUNK_BYTES // max(1, row_bytes))


def _nonzeros(inputs: list[OpenSegment], rows: Rows) -> Nonzeros:
    """Of the rows that are kept: how many numbers they have; terms that were those of dead rows alone go along."""
    total, terms = 0, np.empty(0, np.int32)
    for number, segment in enumerate(inputs):
        vectors, postings = segment.file.vectors, segment.file.postings
        assert isinstance(vectors, SparseRows) and postings is not None
        total += int(vectors.lengths[rows.rows[rows.sources == number]].sum())
        terms = np.union1d(terms, postings.terms)
    return Nonzeros(total, terms)


def _gather(
    inputs: list[OpenSegment], sources: NDArray[np.int32], rows: NDArray[np.int64], settings: Settings
) -> tuple[Vectors, Any, NDArray[np.float32]]:
    lots: list[Lot] = []
    norms = np.empty(len(rows), np.float32)
    ids: Any = np.empty(len(rows), np.int64 if settings.id_type == "int" else object)
    for number in np.unique(sources).tolist():
        here = np.flatnonzero(sources == number)
        segment = inputs[number]
        lots.append((segment.file.vectors, rows[here], here))
        norms[here] = segment.file.norms[rows[here]]
        ids[here] = segment.file.ids_at(rows[here])
    return gathered(settings, len(rows), lots), ids if settings.id_type == "int" else ids.tolist(), norms


def _id_bytes(inputs: list[OpenSegment], rows: Rows) -> int:
    total = 0
    for number, segment in enumerate(inputs):
        ids = segment.file.ids
        assert isinstance(ids, StrIds)
        total += int(ids.byte_lengths()[rows.rows[rows.sources == number]].sum())
    return total
