"""Verifies the files of every open collection beside a running server, and takes out of service what is damaged.

As recovery does at a start, but for what needs a folder to itself: nothing is swept, no log is brought home.
"""

import logging
from contextlib import closing
from pathlib import Path

from app.engine.verifying import ADVICE, is_sound, verify_present
from storage import catalogue, errors
from storage.catalogue import ColumnsRow, IndexRow
from storage.database import Database
from storage.layout import WRITE_LOCK_NAME
from storage.publish import Publisher
from storage.registry import Registry
from storage.turns import Turns

log = logging.getLogger(__name__)


def inspect(data: Path) -> None:
    """Raises StorageError or OSError where the registry cannot be read or written."""
    with closing(Registry(data)) as registry:
        for entry in registry.read():
            if entry.reason is not None:
                continue
            try:
                _inspect_one(registry.folder(entry.uuid))
            except errors.Dropped:
                continue
            except errors.Damaged as e:
                log.error("collection %s is closed: %s", entry.name, e)
                registry.set_reason(entry.uuid, f"{e}; {ADVICE}")
            except (errors.StorageError, OSError) as e:
                log.error("collection %s cannot be verified: %s", entry.name, e)


def _inspect_one(folder: Path) -> None:
    """Raises Damaged."""
    with closing(catalogue.connect(folder)) as db:
        settings = catalogue.read_settings(db)
        for segment in catalogue.read_segments(db):
            try:
                verify_present(db, folder, segment, settings)
            except errors.Stale:
                continue  # a merge has taken it away
            for row in segment.derived:
                if not is_sound(folder, row):
                    _forget(folder, db, row)


def _forget(folder: Path, db: Database, row: IndexRow | ColumnsRow) -> None:
    """Its name goes; the file stays for those who have it mapped, until the next start sweeps it."""
    if not any(row.file in s.files for s in catalogue.read_segments(db)):
        return
    log.error("%s is damaged: it is made anew", row.file)
    with closing(Turns(folder / WRITE_LOCK_NAME)) as turns:
        publisher = Publisher(db, turns)
        if isinstance(row, IndexRow):
            publisher.drop_index(row.seq)
        else:
            publisher.drop_columns(row.seq)
