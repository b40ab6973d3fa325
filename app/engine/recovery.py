"""Makes a data folder fit to serve: takes away what no catalogue names, and verifies every byte that one names.

A damaged segment or catalogue closes that collection alone, with the reason in the registry. A damaged index is
forgotten: the builder makes it anew, and the search is exact until then. So are damaged metadata columns.
"""

import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np

from app.engine.holding import is_held
from app.engine.verifying import ADVICE, Unsound, is_sound, undamaged, verify_segment, whole
from seedvec.segment import open_segment
from storage import atomic, catalogue, errors
from storage.aside import clear, clear_database
from storage.catalogue import ColumnsRow, IndexRow, SegmentRow
from storage.database import Database
from storage.failpoints import declare, hit
from storage.imports import read_imports, settle
from storage.layout import CATALOGUE_NAME, COLLECTIONS_NAME, SEGMENTS_NAME, WRITE_LOCK_NAME, DataFolder
from storage.orphans import Kind, look
from storage.publish import Publisher
from storage.queries import forget_sample
from storage.registry import Aliased, Registered, Registry, discard, mark_dropped
from storage.snapshot_sweep import adopt_snapshots, sweep_snapshots
from storage.turns import Turns

log = logging.getLogger(__name__)
VERIFIERS = 4
CLEAR_STAGING = declare("import.clear_staging")


def recover(data: Path) -> None:
    """Raises StorageError or OSError only where the registry itself cannot be read, or is damaged."""
    clear(DataFolder(data).ballast)
    clear_database(DataFolder(data).registry)
    clear_staging(data)
    registry = Registry(data, create=True)
    try:
        registry.verify()
        _see_to_orphans(registry)
        _see_to_snapshots(registry)
        for entry in registry.read():
            try:
                reason = _reason(registry.folder(entry.uuid), entry.name)
            except errors.Dropped:
                if _drop_to_the_end(registry, entry):
                    continue
                reason = _reason(registry.folder(entry.uuid), entry.name)
            if reason is not None:
                log.error("collection %s is closed: %s", entry.name, reason)
            if reason != entry.reason:
                _note(registry, entry, reason)
    finally:
        registry.close()


def clear_staging(data: Path) -> None:
    """Files on their way in or out when the server ended: nobody waits for them any more. A folder that is held is of
    who has this start made, and waits for it."""
    hit(CLEAR_STAGING)
    for folder in DataFolder(data).staging.glob("*"):
        if not is_held(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _note(registry: Registry, entry: Registered, reason: str | None) -> None:
    """Raises OSError where that collection could be opened all the same."""
    try:
        registry.set_reason(entry.uuid, reason)
    except errors.StorageError as e:
        # Most likely the disk is full. One that was closed and need not be stays so until the next start.
        log.error("collection %s: the registry cannot be written: %s", entry.name, e)
        if reason is not None:
            registry.shut(entry.uuid)


def _drop_to_the_end(registry: Registry, entry: Registered) -> bool:
    """False: it stays, for it has been given an alias before it was gone."""
    log.info("collection %s was being dropped: it is dropped to the end", entry.name)
    try:
        try:
            registry.drop(entry.name, entry.uuid)
        except Aliased:
            mark_dropped(registry.folder(entry.uuid), 0)
            return False
    except (errors.StorageError, OSError) as e:
        # It is marked, so that nobody opens it: on a full disk the others serve, and the next start tries again.
        log.error("collection %s cannot be dropped: %s", entry.name, e)
    return True


def _see_to_orphans(registry: Registry) -> None:
    """Folders that no row names: of creations and drops that were not finished, or of rows that were lost."""
    named = {entry.uuid for entry in registry.read()}
    loose = registry.loose()
    for folder in sorted((registry.data / COLLECTIONS_NAME).iterdir()):
        if folder.name in named:
            continue
        if folder.name in loose:
            log.info("sweeping %s, which a restore has left", folder)
            discard(folder)
            continue
        kind, state = look(folder)
        if state is not None and (kind is Kind.COLLECTION or (kind is Kind.EMPTY and registry.made_anew)):
            try:
                name = registry.adopt(folder.name, state.name)
            except errors.StorageError as e:
                log.error("c/%s, which the registry has lost, cannot be named again now: %s", folder.name, e)
                continue
            log.error("the registry had lost collection %s (c/%s): it is named again", name, folder.name)
        elif kind in (Kind.LEFTOVER, Kind.EMPTY):
            log.info("sweeping %s, which no collection names", folder.name)
            discard(folder)
        else:
            log.error("%s is no collection of this folder, or cannot be read: it is left alone", folder)
    try:
        registry.forget_loose()
    except errors.StorageError as e:
        log.error("the registry cannot be tidied: %s", e)


def _see_to_snapshots(registry: Registry) -> None:
    try:
        for name in adopt_snapshots(registry) if registry.made_anew else []:
            log.error("the registry had lost snapshot %s: it is named again", name)
        sweep_snapshots(registry)
    except (errors.StorageError, OSError) as e:
        # Nothing that is served depends on them.
        log.error("the snapshots cannot be tidied: %s", e)


def _reason(folder: Path, name: str) -> str | None:
    """Why the collection stays closed; None: it does not. Raises Dropped: marked, but still named."""
    try:
        _recover_collection(folder, name)
    except errors.Dropped:
        raise
    except (errors.StorageError, OSError) as e:
        return f"{e}; {ADVICE}"
    except Exception as e:
        # A catalogue can be broken in ways that only SQLite has words for: it closes its collection, not the server.
        log.exception("%s cannot be opened", folder)
        return f"it cannot be read: {e}; {ADVICE}"
    return None


def _recover_collection(folder: Path, name: str) -> None:
    if not folder.is_dir():
        raise Unsound("its folder is gone")
    clear_database(folder / CATALOGUE_NAME)
    db = catalogue.connect(folder)
    try:
        # Where it turns out to be damaged, nothing has been written to it, not even what its log holds.
        db.keep_log()
        catalogue.upgrade(db, name)
        state = catalogue.read_state(db)
        if state.dropped:
            raise errors.Dropped(str(folder))
        whole(db, state)
        if _bring_home(db):
            undamaged(db)
        settings, segments = catalogue.read_settings(db), catalogue.read_segments(db)
        clear(folder / WRITE_LOCK_NAME)
        (folder / WRITE_LOCK_NAME).touch()
        with ThreadPoolExecutor(VERIFIERS) as pool:
            list(pool.map(lambda s: verify_segment(folder, s, settings), segments))
            derived = [row for s in segments for row in s.derived]
            sound = list(pool.map(lambda row: is_sound(folder, row), derived))
        bad = [row for row, good in zip(derived, sound, strict=True) if not good]
        _take_out(folder, bad)
        try:
            _tidy(folder, db, segments, bad)
        except errors.Dropped:
            raise
        except (errors.StorageError, OSError) as e:
            # On a full disk, most likely. It can be served as it is; the next start tidies.
            log.error("collection %s is not tidied: %s", name, e)
    finally:
        db.close()


def _bring_home(db: Database) -> bool:
    """The log, once it is surely on the disk itself. False: there is no room for that, and it is read as it is."""
    try:
        db.rewrite_log()
        db.truncate_log()
    except errors.NoSpace as e:
        log.warning("the log is not brought home: %s", e)
        return False
    return True


def _take_out(folder: Path, bad: list[IndexRow | ColumnsRow]) -> None:
    """Before the catalogue forgets them, which on a full disk it cannot: what is not there is not used."""
    for row in bad:
        path = folder / SEGMENTS_NAME / row.file
        clear(path)
        atomic.remove(path)


def _tidy(folder: Path, db: Database, segments: list[SegmentRow], bad: list[IndexRow | ColumnsRow]) -> None:
    """All that needs writing, and can wait until there is room."""
    forget_sample(folder, leftovers=True)
    with closing(Turns(folder / WRITE_LOCK_NAME)) as turns:
        _see_to_imports(folder, db, turns)
        segments = catalogue.read_segments(db)
        atomic.sweep(folder / SEGMENTS_NAME, {name for s in segments for name in s.files})
        publisher = Publisher(db, turns)
        _forget(publisher, bad)
        _forget_leftovers(folder, publisher, segments)
        if catalogue.read_job(db) is not None:
            # A start is a fresh try: attempts that ended with the server were not the job's fault, nor may its reason
            # last.
            publisher.end_job()


def _see_to_imports(folder: Path, db: Database, turns: Turns) -> None:
    """Whatever was being imported: forward where it had been decided, else back. Raises Dropped where the collection
    was made for it, and goes with it."""
    for row in read_imports(db):
        log.warning("import %s was cut off while it was %s", row.uuid, row.state)
        if settle(folder, db, turns, row):
            raise errors.Dropped(str(folder))


def _forget(publisher: Publisher, bad: list[IndexRow | ColumnsRow]) -> None:
    for row in bad:
        if isinstance(row, IndexRow):
            log.warning("index %s is damaged or gone: it is built anew, the search is exact until then", row.file)
            publisher.drop_index(row.seq)
        else:
            log.warning("columns %s are damaged or gone: they are derived anew", row.file)
            publisher.drop_columns(row.seq)


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
