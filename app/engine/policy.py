"""What background work a collection is due: pure functions of its list of segments.

The builder acts on it and every worker's `describe` says "building" by it, so that the two never disagree.

Merging is geometric: a segment at most as large as all smaller ones together is merged with them, which keeps the
number of segments logarithmic and each row is copied a logarithmic number of times. Once writing pauses, what is
left is brought together, where that saves more than it costs: one index answers faster than three.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from app.engine.types import IndexKind, Metric
from index.build import resolve
from storage.catalogue import SegmentRow, Settings, State

MAX_SEGMENT_BYTES = 16 << 30
"""Segments are not merged beyond this."""
OPTIMISE_SHARE = 0.10
"""All is brought into one segment when the others hold more than this share of the largest."""
MAX_DROPPED_SHARE = 0.20
"""A segment with more dead rows than this is written anew without them, and its index built anew."""
MAX_ATTEMPTS = 3
IMPATIENT_S = 30.0
"""A segment of a collection that is written to without pause gets its index after this long all the same."""

JobKind = Literal["merge", "rewrite", "build", "drop"]
Name = tuple[str, int]
"""Kind and segment number of a job: how the catalogue's job row names it."""


@dataclass(frozen=True, slots=True)
class Job:
    """merge: all `segments` into one; rewrite: one without its dead rows; build: its index; drop: forget its index."""

    kind: JobKind
    segments: tuple[SegmentRow, ...]

    @property
    def seq(self) -> int:
        return max(s.seq for s in self.segments)

    @property
    def name(self) -> Name:
        return self.kind, self.seq


def wanted(settings: Settings, rows: int, index_min_rows: int) -> tuple[str, dict[str, int]] | None:
    """Kind and parameters of the index a segment of so many rows should have; None: searched exactly."""
    spec_kind: IndexKind = settings.index_spec["kind"]
    params: dict[str, int] = settings.index_spec["params"]
    if spec_kind == "flat" or (spec_kind != "auto" and rows < index_min_rows):
        return None
    metric: Metric = settings.metric  # type: ignore[assignment]
    kind, resolved = resolve(spec_kind, params, rows, settings.dimension, metric, settings.recall)
    return None if kind == "flat" else (kind, resolved)


def jobs(
    settings: Settings, state: State, segments: Sequence[SegmentRow], index_min_rows: int, *, quiet: bool
) -> list[Job]:
    """What is due, the most pressing first. quiet: no write came lately, so that what is large may be touched."""
    merge = geometric_merge(segments) or (optimising_merge(segments) if quiet else ())
    merges = [Job("merge", merge)] if merge else []
    return merges + due_builds(settings, state, segments, index_min_rows)


def due_builds(settings: Settings, state: State, segments: Sequence[SegmentRow], index_min_rows: int) -> list[Job]:
    """Indexes to build (largest segment first) or to forget."""
    if state.cancelled_seq == state.spec_seq:
        return []
    jobs = []
    for segment in sorted(segments, key=lambda s: -s.rows):
        want = wanted(settings, segment.rows, index_min_rows)
        have = segment.index
        if want is None and have is not None:
            jobs.append(Job("drop", (segment,)))
        elif want is not None and (have is None or have.spec_seq != state.spec_seq):
            jobs.append(Job("build", (segment,)))
    return jobs


def geometric_merge(segments: Sequence[SegmentRow]) -> tuple[SegmentRow, ...]:
    by_size = sorted(segments, key=lambda s: (-s.rows, s.seq))
    smaller = sum(s.rows for s in by_size)
    room = sum(s.bytes for s in by_size)
    for i, segment in enumerate(by_size):
        smaller -= segment.rows
        if segment.rows <= smaller and room <= MAX_SEGMENT_BYTES:
            return tuple(by_size[i:])
        room -= segment.bytes
    return ()


def optimising_merge(segments: Sequence[SegmentRow]) -> tuple[SegmentRow, ...]:
    if len(segments) < 2 or sum(s.bytes for s in segments) > MAX_SEGMENT_BYTES:
        return ()
    largest = max(segments, key=lambda s: s.rows)
    others = sum(s.rows for s in segments) - largest.rows
    if largest.index is None or others > OPTIMISE_SHARE * largest.rows:
        return tuple(segments)
    return ()


def is_settled(settings: Settings, state: State, segments: Sequence[SegmentRow], index_min_rows: int) -> bool:
    """Nothing pends and nothing is due."""
    return not state.pending_rows and not jobs(settings, state, segments, index_min_rows, quiet=True)
