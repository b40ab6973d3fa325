"""What is to be watched of the collections, in numbers."""

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from app.engine import errors
from app.engine.collection import Collection
from app.engine.translate import translated
from app.engine.types import CollectionFigures
from storage import catalogue
from storage.catalogue import SegmentRow
from storage.database import Database

log = logging.getLogger(__name__)


class Kept(NamedTuple):
    """The figures of a collection and what they are true for. uuid: a name made anew is another collection."""

    uuid: str
    version: int
    figures: CollectionFigures


class Gathered:
    """Reading them takes 2 ms a collection, so they are kept while nothing is committed."""

    def __init__(self) -> None:
        self._kept: dict[str, Kept] = {}

    async def of_all(
        self,
        names: Iterable[str],
        find: Callable[[str], Collection],
        describe: Callable[[str], Awaitable[dict[str, Any]]],
    ) -> list[CollectionFigures]:
        """names: of collections; find: raises CollectionClosed and CollectionNotFound; describe: as the engine's."""
        kept: dict[str, Kept] = {}
        found = []
        for name in names:
            await asyncio.sleep(0)  # a thousand collections must not hold up who searches one
            try:
                collection = find(name)
                db = collection.follower.db
                with translated(name):
                    now = (collection.folder.name, db.data_version())
                before = self._kept.get(name)
                if before is None or before[:2] != now:
                    before = Kept(*now, _figures(await describe(name), db))
                kept[name] = before
                found.append(before.figures)
            except errors.CollectionClosed:
                found.append(CollectionFigures(name, "closed"))
            except errors.Refused as e:
                log.debug("%s", e.detail)  # dropped in this very moment
        self._kept = kept
        return found


def _figures(described: dict[str, Any], db: Database) -> CollectionFigures:
    name, index = described["name"], described["index"]
    if index["state"] == "closed":
        return CollectionFigures(name, "closed")
    with translated(name), db.reading():
        segments = catalogue.read_segments(db)
    return CollectionFigures(
        name,
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
