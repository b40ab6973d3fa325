"""What has to be known of a snapshot before it counts: every byte verified, every collection opened and judged.

Done in a process of its own (`python -m app.restoring`): what comes from outside is never read by a worker.
"""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

from app.engine.recovery import recover
from app.engine.types import DIMENSION_MAX, SPARSE_DIMENSION_MAX, Dtype, IdType, IndexKind, Metric
from storage import catalogue, errors, manifest, snapshot_files, snapshot_stage
from storage.catalogue import Settings
from storage.check import check
from storage.layout import DataFolder
from storage.readonly import ReadOnlyDatabase
from storage.registry import Registry

MAX_TOLD = 3
"""Findings that a refusal shows."""


def judged(data: Path, snapshot: Path, wanted: Mapping[str, str], trusted: bool) -> Path:
    """A folder with the collections wanted, opened as a start opens them, and sound. wanted: new name → name in the
    snapshot (one that an import was making is left out); trusted: by whom it was made.

    Raises Damaged where anything is not as it should be, NoSpace, DiskFailed, OSError; then nothing is left.
    """
    whole = manifest.read(snapshot)
    contents = {content.name: content for content in whole.collections}
    root = snapshot_stage.stage(data, snapshot, whole, {new: contents[old] for new, old in wanted.items()}, trusted)
    try:
        _judge(root, wanted)
    except BaseException:
        snapshot_files.take_away(root)
        raise
    return root


def _judge(root: Path, wanted: Mapping[str, str]) -> None:
    """Damaged indexes and columns are forgotten: they are made anew. Imports that were under way are brought to their
    end, or undone; a collection that one was making goes with it, as at any start."""
    recover(root)
    with closing(Registry(root)) as registry:
        entries = registry.read()
    if wanted and not entries:
        raise errors.Damaged(f"{', '.join(wanted.values())}: an import was making it, or it was being dropped")
    for entry in entries:
        if entry.reason is not None:
            raise errors.Damaged(f"collection {entry.name}: {entry.reason}")
        _require_settings(DataFolder(root).collection(entry.uuid).catalogue, entry.name)
    report = check(root)
    if not report.sound:
        found = [f"{f.where}: {f.what}" for f in report.findings if f.severity == "error"]
        more = f" (and {len(found) - MAX_TOLD} more)" if len(found) > MAX_TOLD else ""
        raise errors.Damaged("; ".join(found[:MAX_TOLD]) + more)


def _require_settings(path: Path, name: str) -> None:
    """A collection with settings that nobody can create is none of ours."""
    with closing(ReadOnlyDatabase(path, catalogue.APPLICATION_ID, catalogue.VERSION)) as db:
        stored = catalogue.read_settings(db)
    if not is_possible(stored):
        raise errors.Damaged(f"collection {name} has settings that none can have: {stored}")


def is_possible(s: Settings) -> bool:
    """Whether a client could have created a collection so."""
    spec: Any = s.index_spec
    return (
        isinstance(s.dimension, int)
        and 1 <= s.dimension <= (SPARSE_DIMENSION_MAX if s.sparse else DIMENSION_MAX)
        and s.metric in get_args(Metric)
        and s.dtype in get_args(Dtype)
        and s.id_type in get_args(IdType)
        and isinstance(s.recall, float)
        and 0 < s.recall <= 1
        and isinstance(spec, dict)
        and spec.keys() == {"kind", "params"}
        and spec["kind"] in get_args(IndexKind)
        and isinstance(spec["params"], dict)
        and all(isinstance(value, int) for value in spec["params"].values())
        and isinstance(s.created, str)
        and manifest.TIME.fullmatch(s.created) is not None
    )
