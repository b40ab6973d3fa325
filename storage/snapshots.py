"""What becomes of snapshots, each as one transaction of the registry: named, restored, forgotten.

Before that transaction a folder counts for nothing, and a start sweeps it; after it, it counts.
"""

import logging
from pathlib import Path

from storage import errors, manifest, snapshot_files, snapshot_stage, snapshot_take
from storage.layout import DataFolder
from storage.manifest import Manifest
from storage.registry import (
    NameTaken,
    NoSuchName,
    Registered,
    Registry,
    SnapshotRow,
    catalogue_is_usable,
    discard,
    mark_dropped,
)

log = logging.getLogger(__name__)


def find(registry: Registry, name: str) -> SnapshotRow:
    """Raises NoSuchName."""
    row = next((row for row in registry.snapshots() if row.name == name), None)
    if row is None:
        raise NoSuchName(name)
    return row


def folder_of(registry: Registry, row: SnapshotRow) -> Path:
    return DataFolder(registry.data).snapshots / row.folder


def require_free(registry: Registry, name: str) -> None:
    """Raises NameTaken, before any work is done for nothing."""
    if any(row.name == name for row in registry.snapshots()):
        raise NameTaken(name)


def take(registry: Registry, name: str, entries: list[Registered]) -> Manifest:
    """A snapshot of these collections, all at one moment. Raises NameTaken, and as `snapshot_take.take`."""
    require_free(registry, name)
    folder = snapshot_take.take(registry.data, name, entries)
    whole = manifest.read(folder)
    _name(registry, folder, SnapshotRow(name, folder.name, whole.created, uploaded=False))
    return whole


def keep(registry: Registry, name: str, stage: Path, whole: Manifest, uploaded: bool) -> None:
    """What was unpacked, and found whole, is a snapshot from now on. Raises NameTaken, StorageError, OSError."""
    folder = snapshot_files.put_in_place(stage)
    _name(registry, folder, SnapshotRow(name, folder.name, whole.created, uploaded))


def _name(registry: Registry, folder: Path, row: SnapshotRow) -> None:
    try:
        registry.add_snapshot(row)
    except BaseException as e:
        if errors.is_undone(e):  # else the registry may name it
            snapshot_files.take_away(folder)
        raise


def delete(registry: Registry, name: str) -> None:
    """Raises NoSuchName."""
    snapshot_files.discard(DataFolder(registry.data).snapshots / registry.forget_snapshot(name))


def restore(registry: Registry, root: Path, replace: bool) -> list[str]:
    """The judged collections of `root` (as `snapshot_stage.stage` made it) are served under their names when it
    returns, and what they take the place of is gone. Returns the names. Nothing is left of `root`, whatever happens.

    Raises NameTaken, StorageError, OSError: then nothing has changed, unless it is OutcomeUnknown.
    """
    try:
        placed = snapshot_stage.staged(root)
        for uuid in _place(registry, root, placed, replace):
            _take_out(registry.folder(uuid))
    finally:
        snapshot_files.take_away(root)
    return sorted(placed)


def _place(registry: Registry, root: Path, placed: dict[str, str], replace: bool) -> list[str]:
    """Returns the folders that no name leads to any more."""
    registry.loosen(list(placed.values()))
    try:
        snapshot_stage.put_in_place(root, registry.data)
        return registry.switch(placed, replace)
    except BaseException as e:
        if errors.is_undone(e):  # else the registry may name them
            for uuid in placed.values():
                discard(registry.folder(uuid))
        raise


def _take_out(folder: Path) -> None:
    """A collection whose name leads elsewhere by now: writes that are under way there end as in a dropped one."""
    try:
        if catalogue_is_usable(folder):
            mark_dropped(folder)
    except (errors.StorageError, OSError) as e:
        log.warning("%s, which a restore has replaced, stays until the next start: %s", folder, e)
        return
    discard(folder)
