"""What a start does about the folders below DATA/snapshots that the registry does not name."""

import logging
import re
from pathlib import Path
from typing import Final

from storage import errors, manifest, snapshot_files
from storage.layout import DataFolder
from storage.registry import NameTaken, Registry, SnapshotRow

log = logging.getLogger(__name__)
OURS: Final = re.compile(r"[0-9a-f]{32}(\.tmp)?")
FINISHED: Final = re.compile(r"[0-9a-f]{32}")


def sweep_snapshots(registry: Registry) -> None:
    """Takes away what a crash has left of taking, deleting or restoring. Only at a start, under DATA/LOCK."""
    for folder in _unnamed(registry):
        if OURS.fullmatch(folder.name):
            log.info("sweeping %s, which no snapshot's name leads to", folder)
            snapshot_files.take_away(folder)
        else:
            log.error("%s is no snapshot of this folder: it is left alone", folder)


def adopt_snapshots(registry: Registry) -> list[str]:
    """Names what a lost registry named: every folder that says what it is. Returns the names.

    Where they came from is lost too, so they are believed no more than an uploaded one.
    """
    adopted = []
    for folder in _unnamed(registry):
        if not FINISHED.fullmatch(folder.name):
            continue
        try:
            whole = manifest.read(folder)
        except errors.Damaged:
            continue
        for name in (whole.name, f"recovered-{folder.name}"):
            try:
                registry.add_snapshot(SnapshotRow(name, folder.name, whole.created, uploaded=True))
            except NameTaken:
                continue
            adopted.append(name)
            break
    return adopted


def _unnamed(registry: Registry) -> list[Path]:
    snapshots = DataFolder(registry.data).snapshots
    if not snapshots.is_dir():
        return []
    named = {row.folder for row in registry.snapshots()}
    return sorted(entry for entry in snapshots.iterdir() if entry.name not in named)
