"""What has to be known of a snapshot before it counts: every byte verified, every collection opened and judged.

Done in a process of its own (`python -m app.restoring`): what comes from outside is never read by a worker.
"""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import msgspec

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
COUNTERS = frozenset(catalogue.STATE_COLUMNS) - {"uuid", "name"}
COUNTED = 1 << 62
"""No counter comes so far, but for the next id, which a client's ids advance."""
_DOCUMENT = msgspec.json.Decoder(dict[str, Any])


def judged(data: Path, snapshot: Path, wanted: Mapping[str, str], trusted: bool) -> Path:
    """A folder with the collections wanted, opened as a start opens them, and sound. wanted: new name → name in the
    snapshot (one that an import was making is left out); trusted: by whom it was made.

    Raises Damaged where anything is not as it should be, NoSpace, DiskFailed, OSError; then nothing is left.
    """
    whole = manifest.read(snapshot)
    contents = {content.name: content for content in whole.collections}
    root = snapshot_stage.stage(data, snapshot, whole, {new: contents[old] for new, old in wanted.items()}, trusted)
    try:
        _judge(root, wanted, trusted)
    except BaseException:
        snapshot_files.take_away(root)
        raise
    return root


def _judge(root: Path, wanted: Mapping[str, str], trusted: bool) -> None:
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
        _require_possible(DataFolder(root).collection(entry.uuid).catalogue, entry.name, trusted)
    report = check(root)
    if not report.sound:
        found = [f"{f.where}: {f.what}" for f in report.findings if f.severity == "error"]
        more = f" (and {len(found) - MAX_TOLD} more)" if len(found) > MAX_TOLD else ""
        raise errors.Damaged("; ".join(found[:MAX_TOLD]) + more)


def _require_possible(path: Path, name: str, trusted: bool) -> None:
    """A collection that nobody can have made is none of ours."""
    with closing(ReadOnlyDatabase(path, catalogue.APPLICATION_ID, catalogue.VERSION)) as db:
        stored, state = catalogue.read_settings(db), catalogue.read_state(db)
        if not is_possible(stored):
            raise errors.Damaged(f"collection {name} has settings that none can have: {stored}")
        if not all(type(getattr(state, counter)) is int for counter in COUNTERS):
            raise errors.Damaged(f"collection {name} has a counter that is none")
        if not all(0 <= getattr(state, counter) < COUNTED for counter in COUNTERS - {"next_id"}):
            raise errors.Damaged(f"collection {name} has counted further than any")
        if not trusted:
            _require_documents(db, name)


def _require_documents(db: ReadOnlyDatabase, name: str) -> None:
    """Metadata are handed out, and taken apart for filters, as they are stored."""
    for key, text in db.execute("SELECT key, json FROM metadata"):
        try:
            if type(text) is not bytes:
                raise ValueError(f"it is {type(text).__name__}")
            _DOCUMENT.decode(text)
        except (ValueError, RecursionError) as e:
            raise errors.Damaged(f"collection {name}: the metadata of key {key} are no JSON object: {e}") from e


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
