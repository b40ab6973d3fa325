"""Is every snapshot that the registry names still what it was when it was taken?

By its manifest alone: every file's length and checksum. That a whole one can be opened, its taking and its restoring
have seen to; `seedvec check` takes a snapshot's folder too, and looks inside.
"""

from pathlib import Path
from typing import Final

from storage import errors, manifest
from storage.hashing import file_xxh3, hex16
from storage.layout import DataFolder
from storage.report import Report

LOST: Final = "the collection itself may be whole; delete this snapshot, and take or upload another"


def check_snapshots(data: DataFolder, named: dict[str, str], report: Report) -> None:
    """named: name → folder."""
    for name, folder in named.items():
        root = data.snapshots / folder
        try:
            whole = manifest.read(root)
        except errors.Damaged as e:
            if root.is_dir():
                report.add("error", f"snapshots/{name}", str(e), LOST)
            else:
                report.add("error", f"snapshots/{name}", f"its folder {folder} is gone", LOST)
            continue
        for entry in whole.files:
            fault = _fault(root / entry.path, entry)
            if fault:
                report.add("error", f"snapshots/{name}/{entry.path}", fault, LOST)
    folders = {entry.name for entry in data.snapshots.iterdir()} if data.snapshots.is_dir() else set()
    for stray in sorted(folders - set(named.values())):
        what = "no name leads to this folder: being made or deleted, or left by a crash and swept at the next start"
        report.add("note", f"snapshots/{stray}", what)


def _fault(path: Path, entry: manifest.Entry) -> str:
    try:
        size, digest = file_xxh3(path)
    except OSError as e:
        return f"it cannot be read: {e.strerror or e}"
    if size != entry.bytes:
        return f"it has {size:,} bytes and should have {entry.bytes:,}"
    return "" if hex16(digest) == entry.xxh3 else "it is damaged: its checksum differs from the manifest's"
