"""What background work a collection is due: pure functions of its list of segments.

The builder acts on it and every worker's `describe` says "building" by it, so that the two never disagree.

Merging is geometric: a segment at most as large as all smaller ones together is merged with them, which keeps the
number of segments logarithmic and each row is copied a logarithmic number of times. Once writing pauses, what is
left is brought together, where that saves more than it costs: one index answers faster than three.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from app.engine.types import IndexKind, Metric
from index.build import resolve
from index.calibration import Calibration
from index.load import META_VERSION
from index.memory import Budget, TooLittleMemory
from index.planning import MEAN_MARGIN
from storage.catalogue import IndexRow, SegmentRow, Settings, State

MAX_SEGMENT_BYTES = 16 << 30
"""Segments are not merged beyond this."""
OPTIMISE_SHARE = 0.10
"""All is brought into one segment when the others hold more than this share of the largest."""
OPTIMISE_BYTES = 16 << 20
"""And always where none of it is indexed and all of it is no more than this: copied in some milliseconds."""
MAX_DROPPED_SHARE = 0.20
"""A segment with more dead rows than this is written anew without them, and its index built anew."""
MAX_ATTEMPTS = 3
IMPATIENT_S = 30.0
"""A segment of a collection that is written to without pause gets its index after this long all the same."""
CERTAIN_K = 10
"""Whether an index reaches a recall is asked at this k."""

JobKind = Literal["merge", "rewrite", "build", "drop"]
Name = tuple[str, int]
"""Kind and segment number of a job: how the catalogue's job row names it."""
Spec = tuple[str, dict[str, int]]
"""Kind of an index and all its parameters."""


@dataclass(frozen=True, slots=True)
class Grounds:
    """What of the server's settings decides about indexes: the same in its every process.

    memory_bytes: what all of them may use; workers: so many open each index."""

    index_min_rows: int
    memory_bytes: int
    workers: int


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

    @property
    def makes_an_index(self) -> bool:
        """What was fast must not turn slow: where an input has an index, so has what comes of it."""
        return self.kind == "build" or (self.kind != "drop" and any(s.index is not None for s in self.segments))


# -------------------------------------------------------------------- which index


def wanted(settings: Settings, rows: int, grounds: Grounds, kind: str | None = None) -> Spec | None:
    """Kind and parameters of the index a segment of so many rows should have; None: searched exactly.

    kind: instead of what `auto` would choose. Raises TooLittleMemory where it would not fit."""
    spec_kind: IndexKind = settings.index_spec["kind"]
    params: dict[str, int] = settings.index_spec["params"]
    # No index is built for sparse vectors: their postings stand in the segment itself.
    if settings.sparse or spec_kind == "flat" or (spec_kind != "auto" and rows < grounds.index_min_rows):
        return None
    metric: Metric = settings.metric  # type: ignore[assignment]
    budget = Budget(grounds.memory_bytes, grounds.workers)
    s = settings
    kind, resolved = resolve(kind or spec_kind, params, rows, s.dimension, metric, s.recall, budget, s.dtype)
    return None if kind == "flat" else (kind, resolved)


def wanted_to_grow(settings: Settings, state: State, rows: int, grounds: Grounds, have: IndexRow) -> Spec | None:
    """As `wanted`, where an index may be extended to so many rows: `auto` stays with the family that is there as long
    as it serves. None: there is nothing to go on with."""
    try:
        if is_outdated(settings, state, have, rows, grounds) or wanted(settings, rows, grounds) is None:
            return None
        return wanted(settings, rows, grounds, have.kind if settings.index_spec["kind"] == "auto" else None)
    except TooLittleMemory:
        return None


def is_outdated(settings: Settings, state: State, have: IndexRow, rows: int, grounds: Grounds) -> bool:
    """Whether an index of a segment should be built anew although it can be searched.

    The recall asked for may change at any time, and does not by itself make another index due: the one that is there
    is asked for more effort. Only where its calibration says that no effort reaches the recall, and another family or
    a denser graph would have been built for it, is that built. Raises TooLittleMemory."""
    if have.spec_seq != state.spec_seq or have.meta.get("version") != META_VERSION:
        return True
    built_for = have.meta.get("recall", settings.recall)
    if settings.recall <= built_for or reaches(have.meta, settings.recall):
        return False
    return wanted(replace(settings, recall=built_for), rows, grounds) != wanted(settings, rows, grounds)


def reaches(meta: dict[str, Any], recall: float) -> bool:
    """Whether the calibration in an index's meta knows a way to that recall."""
    front = Calibration.from_json(meta["calibration"]).front(CERTAIN_K)
    points = () if front is None else front.points
    return any(p.lower >= recall or p.recall >= recall + MEAN_MARGIN for p in points)


def is_rejected(state: State, segment: SegmentRow, job: JobKind) -> bool:
    """Whether that was tried, and found too little, with the index that is wanted now."""
    rejected = segment.rejected
    return rejected is not None and rejected.spec_seq == state.spec_seq and rejected.job == job


def is_cancelled(state: State) -> bool:
    """No index is built until another is asked for."""
    return state.cancelled_seq == state.spec_seq


def lack_of_memory(
    settings: Settings, state: State, segments: Sequence[SegmentRow], grounds: Grounds
) -> TooLittleMemory | None:
    """Why the largest of the segments that lack the index that is wanted now gets none."""
    for segment in sorted(segments, key=lambda s: -s.rows):
        if segment.index is not None and segment.index.spec_seq == state.spec_seq:
            continue
        try:
            wanted(settings, segment.rows, grounds)
        except TooLittleMemory as e:
            return e
    return None


# -------------------------------------------------------------------- which jobs


def jobs(
    settings: Settings, state: State, segments: Sequence[SegmentRow], grounds: Grounds, *, quiet: bool
) -> list[Job]:
    """What is due, the most pressing first. quiet: no write came lately, so that what is large may be touched."""

    def may(inputs: Sequence[SegmentRow]) -> bool:
        return may_be_merged(settings, state, inputs, grounds)

    free = [segment for segment in segments if may((segment,))]
    merge = geometric_merge(free, may) or (optimising_merge(free, may) if quiet else ())
    merges = [Job("merge", merge)] if merge else []
    return merges + due_builds(settings, state, segments, grounds)


def may_be_merged(settings: Settings, state: State, inputs: Sequence[SegmentRow], grounds: Grounds) -> bool:
    """False: an index that serves would have to be given up, because that of all of them is not wanted now, was
    found to be no good, or would not fit into the memory."""
    if all(segment.index is None for segment in inputs):
        return True
    if is_cancelled(state) or any(is_rejected(state, segment, "merge") for segment in inputs):
        return False
    try:
        wanted(settings, sum(segment.rows for segment in inputs), grounds)
    except TooLittleMemory:
        return len(inputs) == 1
    return True


def due_builds(settings: Settings, state: State, segments: Sequence[SegmentRow], grounds: Grounds) -> list[Job]:
    """Indexes to build (largest segment first) or to forget."""
    if is_cancelled(state):
        return []
    jobs = []
    for segment in sorted(segments, key=lambda s: -s.rows):
        have = segment.index
        try:
            want = wanted(settings, segment.rows, grounds)
            if want is None and have is not None:
                jobs.append(Job("drop", (segment,)))
            elif want is None or is_rejected(state, segment, "build"):
                continue
            elif have is None or is_outdated(settings, state, have, segment.rows, grounds):
                jobs.append(Job("build", (segment,)))
        except TooLittleMemory:
            continue  # `describe` says so; what is there goes on serving
    return jobs


def geometric_merge(
    segments: Sequence[SegmentRow], may: Callable[[Sequence[SegmentRow]], bool]
) -> tuple[SegmentRow, ...]:
    """may: whether those can be brought into one."""
    by_size = sorted(segments, key=lambda s: (-s.rows, s.seq))
    smaller = sum(s.rows for s in by_size)
    room = sum(s.bytes for s in by_size)
    for i, segment in enumerate(by_size):
        smaller -= segment.rows
        if segment.rows <= smaller and room <= MAX_SEGMENT_BYTES and may(by_size[i:]):
            return tuple(by_size[i:])
        room -= segment.bytes
    return ()


def optimising_merge(
    segments: Sequence[SegmentRow], may: Callable[[Sequence[SegmentRow]], bool]
) -> tuple[SegmentRow, ...]:
    """Not for every few rows that come in: what is large would be copied for each."""
    total = sum(s.bytes for s in segments)
    if len(segments) < 2 or total > MAX_SEGMENT_BYTES:
        return ()
    largest = max(segments, key=lambda s: s.rows)
    others = sum(s.rows for s in segments) - largest.rows
    # With rows added to it, what was rejected would be tried again.
    cheap = total <= OPTIMISE_BYTES and all(s.index is None and s.rejected is None for s in segments)
    if (cheap or others > OPTIMISE_SHARE * largest.rows) and may(segments):
        return tuple(segments)
    return ()


def is_settled(settings: Settings, state: State, segments: Sequence[SegmentRow], grounds: Grounds) -> bool:
    """Nothing pends and nothing is due."""
    return not state.pending_rows and not jobs(settings, state, segments, grounds, quiet=True)
