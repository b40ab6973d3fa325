"""Folders of collections that no row of the registry names: what they are, and whether they may go.

A creation makes the folder first and its row next; a drop marks the catalogue before it takes the row. So a folder with
anything in it, unmarked and unnamed, has lost its row: the registry's log was cut, damaged or removed, or the whole of
it. It is given its row back (`State.name`), never swept.
"""

import re
from contextlib import closing
from enum import Enum, auto
from pathlib import Path
from typing import Final

import apsw

from storage import catalogue, errors
from storage.catalogue import State
from storage.database import Database
from storage.layout import CATALOGUE_NAME, SEGMENTS_NAME

OURS: Final = re.compile(r"[0-9a-f]{32}(\.dropped)?")


class Kind(Enum):
    LEFTOVER = auto()
    """Of a creation that was not finished, or of a drop: it may go."""
    EMPTY = auto()
    """A collection that nothing was ever written to: of a creation that nobody was told of, most likely."""
    COLLECTION = auto()
    """It holds what was acknowledged."""
    UNREADABLE = auto()
    """It may hold something."""
    STRANGER = auto()
    """Not made here: a copy of a collection, or somebody's own folder."""


def look(folder: Path) -> tuple[Kind, State | None]:
    """Only at a start, under DATA/LOCK: a folder whose creation is under way is a leftover too."""
    if not OURS.fullmatch(folder.name) or not folder.is_dir():
        return Kind.STRANGER, None
    if folder.name.endswith(".dropped"):
        return Kind.LEFTOVER, None
    sealed = any((folder / SEGMENTS_NAME).glob("*.h5"))
    if not (folder / CATALOGUE_NAME).exists():
        return (Kind.UNREADABLE if sealed else Kind.LEFTOVER), None
    try:
        # create: one that was not made to the end is begun anew, and has no tables.
        with closing(Database(folder / CATALOGUE_NAME, catalogue.APPLICATION_ID, create=True)) as db:
            db.keep_log()
            if db.one("SELECT 1 FROM sqlite_master WHERE name = 'state'") is None:
                return (Kind.UNREADABLE if sealed else Kind.LEFTOVER), None
            state = catalogue.read_state(db)
    except (errors.StorageError, apsw.Error, OSError):
        return Kind.UNREADABLE, None
    if state.dropped:
        return Kind.LEFTOVER, state
    if state.uuid != folder.name:
        return Kind.STRANGER, state
    return (Kind.COLLECTION if state.next_key > 1 or sealed else Kind.EMPTY), state
