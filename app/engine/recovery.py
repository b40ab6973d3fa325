"""Makes a data folder fit to serve: takes away what no catalogue names, and verifies every byte that one names.

A damaged segment or catalogue closes that collection alone, with the reason in the registry. A damaged index is
forgotten: the builder makes it anew, and the search is exact until then. So are damaged metadata columns.
"""

import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np

from seedvec.segment import SegmentError, open_segment
from storage import atomic, catalogue, errors
from storage.catalogue import ColumnsRow, IndexRow, SegmentRow
from storage.hashing import file_xxh3, hex16
from storage.layout import COLLECTIONS_NAME, SEGMENTS_NAME, WRITE_LOCK_NAME
from storage.publish import Publisher
from storage.registry import Registered, Registry, take_away
from storage.turns import Turns

log = logging.getLogger(__name__)
VERIFIERS = 4


class Unsound(Exception):
    """Why a collection stays closed."""


def recover(data: Path) -> None:
    """Raises StorageError or OSError only where the registry itself cannot be opened."""
    registry = Registry(data, create=True)
    try:
        entries = registry.read()
        _sweep_folders(data, entries)
        for entry in entries:
            try:
                reason = _reason(registry.folder(entry.uuid))
            except errors.Dropped:
                _drop_to_the_end(registry, entry)
                continue
            if reason is not None:
                log.error("collection %s is closed: %s", entry.name, reason)
            if reason != entry.reason:
                registry.set_reason(entry.uuid, reason)
    finally:
        registry.close()


def _drop_to_the_end(registry: Registry, entry: Registered) -> None:
    log.info("collection %s was being dropped: it is dropped to the end", entry.name)
    try:
        registry.drop(entry.name, entry.uuid)
    except (errors.StorageError, OSError) as e:
        # It is marked, so that nobody opens it: on a full disk the others serve, and the next start tries again.
        log.error("collection %s cannot be dropped: %s", entry.name, e)


def _sweep_folders(data: Path, entries: list[Registered]) -> None:
    """Folders of collections whose creation was not finished, or whose dropping was not."""
    named = {entry.uuid for entry in entries}
    for folder in (data / COLLECTIONS_NAME).iterdir():
        if folder.name not in named:
            log.info("sweeping %s, which no collection names", folder.name)
            take_away(folder)


def _reason(folder: Path) -> str | None:
    """Why the collection stays closed; None: it does not. Raises Dropped: marked, but still named."""
    try:
        _recover_collection(folder)
    except errors.Dropped:
        raise
    except (Unsound, errors.Damaged) as e:
        return f"{e}; run `seedvec check` on the data folder"
    except (errors.StorageError, OSError) as e:
        return str(e)
    except Exception as e:
        # A catalogue can be broken in ways that only SQLite has words for: it closes its collection, not the server.
        log.exception("%s cannot be opened", folder)
        return f"it cannot be read: {e}; run `seedvec check` on the data folder"
    return None


def _recover_collection(folder: Path) -> None:
    if not folder.is_dir():
        raise Unsound("its folder is gone")
    db = catalogue.connect(folder)
    try:
        if catalogue.read_state(db).dropped:
            raise errors.Dropped(str(folder))
        catalogue.upgrade(db)
        settings, segments = catalogue.read_settings(db), catalogue.read_segments(db)
        (folder / WRITE_LOCK_NAME).touch()
        named = {name for s in segments for name in s.files}
        atomic.sweep(folder / SEGMENTS_NAME, named)
        with ThreadPoolExecutor(VERIFIERS) as pool:
            list(pool.map(lambda s: _verify(folder, s, settings), segments))
            derived = [row for s in segments for row in s.derived]
            sound = list(pool.map(lambda row: _is_sound(folder, row), derived))
        with closing(Turns(folder / WRITE_LOCK_NAME)) as turns:
            publisher = Publisher(db, turns)
            _forget(folder, publisher, [row for row, good in zip(derived, sound, strict=True) if not good])
            _forget_leftovers(folder, publisher, segments)
            if catalogue.read_job(db) is not None:
                # A start is a fresh try: attempts that ended with the server were not the job's fault, nor may its
                # reason last.
                publisher.end_job()
    finally:
        db.close()


def _verify(folder: Path, segment: SegmentRow, settings: catalogue.Settings) -> None:
    """Raises Unsound."""
    path = folder / SEGMENTS_NAME / segment.file
    try:
        size, digest = file_xxh3(path)
        if size != segment.bytes:
            raise Unsound(f"segment {segment.file} has {size} bytes instead of {segment.bytes}")
        if hex16(digest) != segment.xxh3:
            raise Unsound(f"segment {segment.file} is damaged: its checksum differs")
        file = open_segment(path)
    except FileNotFoundError as e:
        raise Unsound(f"segment {segment.file} is gone") from e
    except SegmentError as e:
        raise Unsound(str(e)) from e
    wanted = (segment.rows, settings.dimension, settings.vector_dtype, settings.metric)
    if (file.rows, file.dimension, file.vectors.dtype, file.metric) != wanted:
        raise Unsound(f"segment {segment.file} belongs to another collection")


def _is_sound(folder: Path, row: IndexRow | ColumnsRow) -> bool:
    try:
        size, digest = file_xxh3(folder / SEGMENTS_NAME / row.file)
    except OSError:
        return False
    return size == row.bytes and hex16(digest) == row.xxh3


def _forget(folder: Path, publisher: Publisher, bad: list[IndexRow | ColumnsRow]) -> None:
    for row in bad:
        if isinstance(row, IndexRow):
            log.warning("index %s is damaged or gone: it is built anew, the search is exact until then", row.file)
            publisher.drop_index(row.seq)
        else:
            log.warning("columns %s are damaged or gone: they are derived anew", row.file)
            publisher.drop_columns(row.seq)
        atomic.remove(folder / SEGMENTS_NAME / row.file)


def _forget_leftovers(folder: Path, publisher: Publisher, segments: list[SegmentRow]) -> None:
    """Deaths of keys that no segment holds: a merge that was killed after its transaction did not clear them."""
    dead = catalogue.read_sealed_deaths(publisher.db)
    for segment in segments:
        if not len(dead):
            return
        held = open_segment(folder / SEGMENTS_NAME / segment.file).keys_rel.astype(np.int64) + segment.base_key
        at = np.minimum(np.searchsorted(held, dead), len(held) - 1)
        dead = dead[held[at] != dead]
    publisher.forget_deaths(dead)
