"""The answer of `GET /v1/collections/{c}`: settings, sizes, and how the index stands."""

from pathlib import Path
from typing import Any

from app.engine import policy
from index.memory import private_bytes
from storage import catalogue
from storage.catalogue import JobRow, SegmentRow, Settings, State
from storage.database import Database
from storage.layout import CATALOGUE_NAME


def describe(name: str, folder: Path, db: Database, index_min_rows: int) -> dict[str, Any]:
    with db.reading():
        settings = catalogue.read_settings(db)
        state = catalogue.read_state(db)
        segments = catalogue.read_segments(db)
        job = catalogue.read_job(db)
    index = index_state(settings, state, segments, job, index_min_rows)
    files = sum(s.total_bytes for s in segments)
    return {
        "name": name,
        "dimension": settings.dimension,
        "metric": settings.metric,
        "dtype": settings.dtype,
        "id_type": settings.id_type,
        "recall": settings.recall,
        "created": settings.created,
        "count": state.live,
        "bytes": files + _database_bytes(folder),
        "segments": len(segments),
        "index": index,
        "calibration": [_calibration(s) for s in segments if s.index is not None],
    }


def build_is_due(db: Database, index_min_rows: int) -> bool:
    """Whether an index of the present specification is still to be built, or is being built."""
    with db.reading():
        settings = catalogue.read_settings(db)
        state = catalogue.read_state(db)
        segments = catalogue.read_segments(db)
    return bool(policy.due_builds(settings, state, segments, index_min_rows))


def index_state(
    settings: Settings, state: State, segments: list[SegmentRow], job: JobRow | None, index_min_rows: int
) -> dict[str, Any]:
    """state: `ready` when nothing is building, nothing pends and every index that is wanted is there, calibrated."""
    indexed = sum(s.rows for s in segments if s.index is not None)
    unindexed = sum(
        s.rows for s in segments if s.index is None and policy.wanted(settings, s.rows, index_min_rows) is not None
    )
    kinds = [s.index.kind for s in sorted(segments, key=lambda s: -s.rows) if s.index is not None]
    running = job is not None and job.reason is None
    settled = policy.is_settled(settings, state, segments, index_min_rows)
    cancelled = state.cancelled_seq == state.spec_seq
    answer: dict[str, Any] = {
        "state": "ready" if settled and not running else "building",
        "reason": None,
        "kind": kinds[0] if kinds else "flat",
        "wanted": {"kind": settings.index_spec["kind"], **settings.index_spec["params"]},
        "indexed": indexed,
        "pending": state.pending_rows + unindexed,
        # Fast-scan codes are private to each process under the mapped loading; a graph's pages are shared.
        "private_bytes_per_worker": sum(private_bytes(s.index.meta) for s in segments if s.index is not None),
        "progress": None,
        "eta_s": None,
    }
    if job is not None and job.reason is not None:
        answer["state"], answer["reason"] = "failed", job.reason
    elif cancelled and unindexed:
        answer["state"], answer["reason"] = "failed", "the build was cancelled: PUT …/index starts it again"
    elif job is not None:
        answer["progress"] = round(job.progress, 4)
        answer["eta_s"] = None if job.eta_s is None else round(job.eta_s, 1)
    return answer


def _calibration(segment: SegmentRow) -> dict[str, Any]:
    assert segment.index is not None
    meta = segment.index.meta
    return {
        "kind": segment.index.kind,
        "rows": segment.rows,
        "params": meta.get("params"),
        **(meta.get("calibration") or {}),
    }


def _database_bytes(folder: Path) -> int:
    total = 0
    for suffix in ("", "-wal"):
        try:
            total += (folder / (CATALOGUE_NAME + suffix)).stat().st_size
        except FileNotFoundError:
            continue
    return total
