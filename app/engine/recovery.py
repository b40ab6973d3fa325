"""Makes a data folder fit to serve: takes away what no catalogue names, and verifies every byte that one names.

A damaged segment or catalogue closes that collection alone, with the reason in the registry. A damaged index is
forgotten: the builder makes it anew, and the search is exact until then. So are damaged metadata columns.
"""

import logging
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np

from app.engine.verifying import ADVICE, Unsound, is_sound, undamaged, verify_segment, whole
from seedvec.segment import open_segment
from storage import atomic, catalogue, errors
from storage.catalogue import ColumnsRow, IndexRow, SegmentRow
from storage.layout import COLLECTIONS_NAME, SEGMENTS_NAME, WRITE_LOCK_NAME
from storage.orphans import Kind, look
from storage.publish import Publisher
from storage.registry import Registered, Registry, discard
from storage.turns import Turns

log = logging.getLogger(__name__)
VERIFIERS = 4


def recover(data: Path) -> None:
    """Raises StorageError or OSError only where the registry itself cannot be read, or is damaged."""
    registry = Registry(data, create=True)
    try:
        registry.verify()
        _see_to_orphans(registry)
        for entry in registry.read():
            try:
                reason = _reason(registry.folder(entry.uuid), entry.name)
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


def _see_to_orphans(registry: Registry) -> None:
    """Folders that no row names: of creations and drops that were not finished, or of rows that were lost."""
    named = {entry.uuid for entry in registry.read()}
    for folder in sorted((registry.data / COLLECTIONS_NAME).iterdir()):
        if folder.name in named:
            continue
        kind, state = look(folder)
        if state is not None and (kind is Kind.COLLECTION or (kind is Kind.EMPTY and registry.made_anew)):
            name = registry.adopt(folder.name, state.name)
            log.error("the registry had lost collection %s (c/%s): it is named again", name, folder.name)
        elif kind in (Kind.LEFTOVER, Kind.EMPTY):
            log.info("sweeping %s, which no collection names", folder.name)
            discard(folder)
        else:
            log.error("%s is no collection of this folder, or cannot be read: it is left alone", folder)


def _reason(folder: Path, name: str) -> str | None:
    """Why the collection stays closed; None: it does not. Raises Dropped: marked, but still named."""
    try:
        _recover_collection(folder, name)
    except errors.Dropped:
        raise
    except (Unsound, errors.Damaged) as e:
        return f"{e}; {ADVICE}"
    except (errors.StorageError, OSError) as e:
        return str(e)
    except Exception as e:
        # A catalogue can be broken in ways that only SQLite has words for: it closes its collection, not the server.
        log.exception("%s cannot be opened", folder)
        return f"it cannot be read: {e}; {ADVICE}"
    return None


def _recover_collection(folder: Path, name: str) -> None:
    if not folder.is_dir():
        raise Unsound("its folder is gone")
    db = catalogue.connect(folder)
    try:
        # Where it turns out to be damaged, nothing has been written to it, not even what its log holds.
        db.keep_log()
        catalogue.upgrade(db, name)
        state = catalogue.read_state(db)
        if state.dropped:
            raise errors.Dropped(str(folder))
        whole(db, state)
        db.truncate_log()
        undamaged(db)
        settings, segments = catalogue.read_settings(db), catalogue.read_segments(db)
        _renew_lock(folder / WRITE_LOCK_NAME)
        named = {name for s in segments for name in s.files}
        atomic.sweep(folder / SEGMENTS_NAME, named)
        with ThreadPoolExecutor(VERIFIERS) as pool:
            list(pool.map(lambda s: verify_segment(folder, s, settings), segments))
            derived = [row for s in segments for row in s.derived]
            sound = list(pool.map(lambda row: is_sound(folder, row), derived))
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


def _renew_lock(path: Path) -> None:
    """What is no file is no lock; the name is needed."""
    if path.exists() and not path.is_file():
        aside(path)
    path.touch()


def _forget(folder: Path, publisher: Publisher, bad: list[IndexRow | ColumnsRow]) -> None:
    for row in bad:
        if isinstance(row, IndexRow):
            log.warning("index %s is damaged or gone: it is built anew, the search is exact until then", row.file)
            publisher.drop_index(row.seq)
        else:
            log.warning("columns %s are damaged or gone: they are derived anew", row.file)
            publisher.drop_columns(row.seq)
        path = folder / SEGMENTS_NAME / row.file
        if path.is_dir():
            aside(path)
        atomic.remove(path)


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


def aside(path: Path) -> None:
    """A folder where a file of ours should be: it is not ours to delete, and its name is needed."""
    path.rename(path.with_name(f"{path.name}.aside-{uuid.uuid4().hex[:8]}"))
