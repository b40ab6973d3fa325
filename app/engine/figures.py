"""What is to be watched of the collections, in numbers."""

import shutil
from pathlib import Path
from typing import Any

from app.engine.types import CollectionFigures
from storage import catalogue
from storage.catalogue import SegmentRow
from storage.database import Database


def figures(described: dict[str, Any], db: Database) -> CollectionFigures:
    """described: by `describe`, not closed."""
    with db.reading():
        segments = catalogue.read_segments(db)
    index = described["index"]
    return CollectionFigures(
        described["name"],
        index["state"],
        described["count"],
        index["pending"],
        index["indexed"],
        described["segments"],
        described["bytes"],
        index["progress"],
        described["recall"],
        _measured(segments),
    )


def closed(name: str) -> CollectionFigures:
    return CollectionFigures(name, "closed")


def _measured(segments: list[SegmentRow]) -> float | None:
    """On real queries, of the largest index that was."""
    for segment in sorted(segments, key=lambda s: -s.rows):
        found = None if segment.index is None else segment.index.meta.get("measured")
        if found is not None:
            return float(found["recall"])
    return None


def free_bytes(data: Path) -> int:
    """Room left for who is not root, where the folder lies."""
    return shutil.disk_usage(data).free
