"""One sealed segment, open: its mapped file and, where there is one, its index."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from app.engine.fields import Fields, Kept
from app.engine.first_ids import of_segment
from index.approximate import Approximate
from index.calibration import Calibration
from index.contract import Alive, Index, IndexFileError, Metric, Vectors
from index.load import load
from index.sparse import SparseVectors
from index.stored import ExactSearch, Stored, exact_search
from seedvec.filters.ast import Filter
from seedvec.segment import Segment, open_segment
from seedvec.sparse import SparseRows
from storage.catalogue import SegmentRow
from storage.layout import SEGMENTS_NAME

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OpenSegment:
    """Immutable; shared by all views that hold it. The mapping lives as long as this object."""

    row: SegmentRow
    file: Segment
    vectors: Stored
    exact: ExactSearch
    index: Index | None

    def find(self, key: int) -> int:
        """Row of a key, or -1."""
        relative = key - self.row.base_key
        if not 0 <= relative < self.row.span:
            return -1
        keys = self.file.keys_rel
        if relative < len(keys) and keys.item(relative) == relative:
            return relative  # as long as no merge has taken out a row before it
        row = int(keys.searchsorted(np.uint64(relative)))
        return row if row < len(keys) and keys.item(row) == relative else -1

    def rows_of(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of those keys that are here; others are passed over."""
        relative = keys - self.row.base_key
        relative = relative[(relative >= 0) & (relative < self.row.span)].astype(np.uint64)
        rows = np.searchsorted(self.file.keys_rel, relative)
        there = rows < self.row.rows
        rows, relative = rows[there], relative[there]
        hit: NDArray[np.int64] = rows[self.file.keys_rel[rows] == relative].astype(np.int64)
        return hit

    def keys(self) -> NDArray[np.int64]:
        """Of all rows, ascending."""
        return self.file.keys_rel.astype(np.int64) + self.row.base_key

    def keys_at(self, rows: NDArray[np.int64]) -> list[int]:
        base = self.row.base_key
        return [base + relative for relative in self.file.keys_rel[rows].tolist()]

    def ids_at(self, rows: NDArray[np.int64]) -> list[Any]:
        return self.file.ids_at(rows)

    def with_index(self, row: SegmentRow, index: Index | None) -> "OpenSegment":
        return replace(self, row=row, index=index)


def open_one(folder: Path, row: SegmentRow, *, scattered: bool = False) -> OpenSegment:
    """Maps the segment, without its index. scattered: it is more than the memory holds, and a few rows are read here
    and there. Raises FileNotFoundError where a merge has taken it away."""
    file = open_segment(folder / SEGMENTS_NAME / row.file)
    if scattered:
        file.advise(willneed=False)
    vectors = stored(file, scattered)
    return OpenSegment(row, file, vectors, exact_search(vectors), None)


def stored(file: Segment, scattered: bool = False) -> Stored:
    metric = cast(Metric, file.metric)
    if isinstance(file.vectors, SparseRows):
        return SparseVectors(file.vectors, metric, of_segment(file), file.postings)
    return Vectors(file.vectors, file.norms, metric, file.read_ahead if scattered else None)


def load_index(folder: Path, row: SegmentRow, vectors: Stored) -> Approximate | None:
    """The segment's index, or None where it cannot be had: then the search is exact until it is built anew."""
    if row.index is None or isinstance(vectors, SparseVectors):
        return None
    try:
        return load(folder / SEGMENTS_NAME / row.index.file, row.index.meta, vectors)
    except (IndexFileError, OSError) as e:
        log.warning("index %s cannot be opened, searching exactly: %s", row.index.file, e)
        return None


def calibrated(index: Approximate, meta: Mapping[str, Any]) -> Approximate:
    """The same open index with the calibration that its catalogue row tells of by now."""
    try:
        return index.with_calibration(Calibration.from_json(meta["calibration"]))
    except (KeyError, TypeError, ValueError) as e:
        log.warning("a calibration cannot be read, the one before serves: %s", e)
        return index


@dataclass(frozen=True, slots=True)
class Part:
    """A segment as one view sees it. alive: None while every row is; fields: None where they are not known here."""

    segment: OpenSegment
    alive: Alive | None
    fields: Fields | None = None
    kept: Kept[Alive] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kept", Kept[Alive](self.segment.row.rows))

    @property
    def live(self) -> int:
        return self.segment.row.rows if self.alive is None else self.alive.count

    def is_alive(self, row: int) -> bool:
        return self.alive is None or bool(self.alive.mask[row])

    def bury(self, keys: NDArray[np.int64]) -> "Part":
        """The same part with those keys dead (keys of other segments are passed over)."""
        rows = self.segment.rows_of(keys)
        if not len(rows):
            return self
        mask = np.ones(self.segment.row.rows, bool) if self.alive is None else self.alive.mask.copy()
        mask[rows] = False
        return Part(self.segment, Alive.of(mask), self.fields)

    def with_index(self, row: SegmentRow, index: Index | None) -> "Part":
        """The same rows: what was found out about them still holds."""
        part = Part(self.segment.with_index(row, index), self.alive, self.fields)
        object.__setattr__(part, "kept", self.kept)
        return part

    def matching(self, filter: Filter) -> Alive:
        """The live rows that match. `fields` must be known."""
        assert self.fields is not None
        found = self.kept.get(filter)
        if found is None:
            mask = self.fields.matching(filter)
            found = self.kept.put(filter, Alive.of(mask if self.alive is None else mask & self.alive.mask))
        return found
