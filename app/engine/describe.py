"""The answer of `GET /v1/collections/{c}`: settings, sizes, and how the index stands."""

from pathlib import Path
from typing import Any

from app.engine import policy
from app.engine.calibrating import calibration_is_due
from app.engine.policy import Grounds
from index.calibration import Calibration, Front
from index.memory import TooLittleMemory, private_bytes
from storage import catalogue
from storage.catalogue import JobRow, SegmentRow, Settings, State
from storage.database import Database
from storage.imports import ImportRow, read_imports
from storage.layout import CATALOGUE_NAME

ANOTHER = "PUT …/index with another kind or other parameters builds again"


def describe(name: str, folder: Path, db: Database, grounds: Grounds) -> dict[str, Any]:
    with db.reading():
        settings = catalogue.read_settings(db)
        state = catalogue.read_state(db)
        segments = catalogue.read_segments(db)
        job = catalogue.read_job(db)
        imports = read_imports(db)
    index = index_state(settings, state, segments, job, grounds)
    files = sum(s.total_bytes for s in segments)
    return {
        "name": name,
        "dimension": settings.dimension,
        "sparse": settings.sparse,
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
        "imports": [_import(row) for row in imports],
    }


def _import(row: ImportRow) -> dict[str, Any]:
    """Under way. done: rows read so far, of which none counts yet; rows: all of the file, where that is known."""
    return {"mode": row.mode, "state": row.state, "done": row.done, "rows": row.rows, "started": round(row.started, 3)}


def build_is_due(db: Database, grounds: Grounds) -> bool:
    """Whether an index is still to be built, alone or for what segments are merged into, or is being built."""
    with db.reading():
        settings = catalogue.read_settings(db)
        state = catalogue.read_state(db)
        segments = catalogue.read_segments(db)
        job = catalogue.read_job(db)
    indexed = {s.seq for s in segments if s.index is not None}
    if (
        job is not None
        and job.reason is None
        and (job.kind == "build" or (job.kind == "rewrite" and job.seq in indexed))
    ):
        return True
    return any(due.makes_an_index for due in policy.jobs(settings, state, segments, grounds, quiet=True))


def index_state(
    settings: Settings, state: State, segments: list[SegmentRow], job: JobRow | None, grounds: Grounds
) -> dict[str, Any]:
    """state: `ready` when nothing is building, nothing pends and every index that is wanted is there, calibrated."""
    indexed = sum(s.rows for s in segments if s.index is not None)
    unindexed = sum(s.rows for s in segments if s.index is None and _is_indexable(settings, s, grounds))
    kinds = [s.index.kind for s in sorted(segments, key=lambda s: -s.rows) if s.index is not None]
    busy = job is not None and job.reason is None
    settled = policy.is_settled(settings, state, segments, grounds) and not calibration_is_due(state, segments)
    answer: dict[str, Any] = {
        "state": "ready" if settled and not busy else "building",
        "reason": None,
        "kind": kinds[0] if kinds else "flat",
        "wanted": {"kind": settings.index_spec["kind"], **settings.index_spec["params"]},
        "indexed": indexed,
        "pending": state.pending_rows + unindexed,
        # What is mapped is shared by all.
        "private_bytes_per_worker": sum(private_bytes(s.index.meta) for s in segments if s.index is not None),
        "progress": None,
        "eta_s": None,
    }
    if job is not None and job.reason is not None:
        answer["state"], answer["reason"] = "failed", job.reason
    elif policy.is_cancelled(state) and unindexed:
        answer["state"], answer["reason"] = "failed", "the build was cancelled: PUT …/index starts it again"
    elif job is not None:
        answer["progress"] = round(job.progress, 4)
        answer["eta_s"] = None if job.eta_s is None else round(job.eta_s, 1)
    elif settled:
        reason = _missing(settings, state, segments, grounds)
        if reason is not None:
            answer["state"], answer["reason"] = "failed", reason
    return answer


def _is_indexable(settings: Settings, segment: SegmentRow, grounds: Grounds) -> bool:
    try:
        return policy.wanted(settings, segment.rows, grounds) is not None
    except TooLittleMemory:
        return True


def _missing(settings: Settings, state: State, segments: list[SegmentRow], grounds: Grounds) -> str | None:
    """Why an index that is wanted is not there and will not be, what answers instead, and what can be done."""
    for segment in sorted(segments, key=lambda s: -s.rows):
        rejected = segment.rejected
        if rejected is None or rejected.spec_seq != state.spec_seq:
            continue
        if rejected.job == "merge":
            return f"a merge was given up, its segments serve as they are: {rejected.reason}; {ANOTHER}"
        return f"the index of {segment.rows} rows was rejected: {rejected.reason}; {_serving(segment)}; {ANOTHER}"
    lack = policy.lack_of_memory(settings, state, segments, grounds)
    if lack is None:
        return None
    largest = max(segments, key=lambda s: s.rows)
    return f"too little memory for the index: {lack}; {_serving(largest)}; set --memory-bytes higher, or {ANOTHER}"


def _serving(segment: SegmentRow) -> str:
    return "it is searched exactly" if segment.index is None else "the index from before serves on"


def _calibration(segment: SegmentRow) -> dict[str, Any]:
    """In short: `GET …/recall` has the fronts themselves."""
    assert segment.index is not None
    meta = segment.index.meta
    calibration = Calibration.from_json(meta["calibration"])
    return {
        "kind": segment.index.kind,
        "rows": segment.rows,
        "params": meta["params"],
        "on": calibration.on,
        "fronts": [_front(front) for front in calibration.fronts],
    }


def _front(front: Front) -> dict[str, Any]:
    """recall: of the cheapest point and of the best."""
    recall = [round(point.recall, 4) for point in front.points]
    return {"k": front.k, "queries": front.queries, "points": len(recall), "recall": recall[:1] + recall[1:][-1:]}


def _database_bytes(folder: Path) -> int:
    total = 0
    for suffix in ("", "-wal"):
        try:
            total += (folder / (CATALOGUE_NAME + suffix)).stat().st_size
        except FileNotFoundError:
            continue
    return total
