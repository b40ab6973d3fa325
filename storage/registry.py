"""registry.db: which collections there are, under which names, in which folders."""

import shutil
import uuid as uuids
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from storage import catalogue, pages
from storage.atomic import fsync_dir
from storage.database import Database
from storage.errors import Damaged, DiskFailed, Dropped, Locked, NoSpace, OutcomeUnknown, StorageError
from storage.failpoints import declare, hit
from storage.layout import CATALOGUE_NAME, COLLECTIONS_NAME, REGISTRY_NAME, SHUT_NAME, WRITE_LOCK_NAME
from storage.turns import Turns

APPLICATION_ID = 0x53656564
SCHEMA = """
CREATE TABLE collections(name TEXT PRIMARY KEY, uuid TEXT NOT NULL UNIQUE, created TEXT NOT NULL, reason TEXT)
"""
SHUT = "it was found damaged at the start, and the disk was too full to note how; see the server's log"
DROPPED_SUFFIX = ".dropped"
MAKE = declare("registry.make")
MAKE_FSYNC = declare("registry.fsync_dir")
CREATED_FOLDER = declare("registry.create.folder")
MARKED_DROPPED = declare("registry.drop.marked")
UNREGISTERED = declare("registry.drop.unregistered")
RENAME = declare("registry.drop.rename")
UNLINK_FOLDER = declare("folder.unlink")


@dataclass(frozen=True, slots=True)
class Registered:
    name: str
    uuid: str
    reason: str | None
    """Why the collection is closed; None: it is open."""


class NameTaken(Exception):
    """A collection of that name is there already."""


class Registry:
    def __init__(self, data: Path, *, create: bool = False) -> None:
        self.data = data
        self.made_anew = False
        """There was none, or an empty one."""
        self._db = Database(data / REGISTRY_NAME, APPLICATION_ID, create=create)
        if create:
            with suppress(NoSpace):  # that the disk is full says nothing of what an fsync once did
                self._db.rewrite_log()
            hit(MAKE)
            (data / COLLECTIONS_NAME).mkdir(exist_ok=True)
            if self._db.one("SELECT 1 FROM sqlite_master WHERE name = 'collections'") is None:
                with self._db.writing():
                    self._db.execute(SCHEMA)
                self.made_anew = True
            hit(MAKE_FSYNC)
            fsync_dir(data)

    def data_version(self) -> int:
        return self._db.data_version()

    def read(self) -> list[Registered]:
        rows = self._db.execute("SELECT name, uuid, reason FROM collections ORDER BY name")
        return [Registered(name, uuid, reason or self._shut(uuid)) for name, uuid, reason in rows]

    def _shut(self, uuid: str) -> str | None:
        return SHUT if (self.folder(uuid) / SHUT_NAME).exists() else None

    def folder(self, uuid: str) -> Path:
        return self.data / COLLECTIONS_NAME / uuid

    def create(self, name: str, settings: catalogue.Settings) -> str:
        """Folder first, then the row. Returns the uuid; raises NameTaken."""
        uuid = uuids.uuid4().hex
        folder = self.folder(uuid)
        try:
            _make(folder, settings, name)
            hit(CREATED_FOLDER)
            with self._db.writing():
                if self._db.one("SELECT 1 FROM collections WHERE name = ?", (name,)) is not None:
                    raise NameTaken(name)
                self._db.execute("INSERT INTO collections VALUES (?,?,?,NULL)", (name, uuid, settings.created))
        except OutcomeUnknown as e:
            if e.undone:
                take_away(folder)
            raise  # else the registry may come to name the folder: if it does not, the next start sweeps it
        except BaseException:
            take_away(folder)
            raise
        return uuid

    def drop(self, name: str, uuid: str) -> None:
        """Marks the catalogue (so that no writer goes on), then the registry, and unlinks last. Raises Dropped where
        another was first.

        Measured without the mark: a process went on inserting into a folder that another had removed. One that is
        marked already was left half dropped by a process that died: it is dropped to the end. Where the registry
        cannot be written, the mark is taken back, so that a drop that was refused has done nothing.
        """
        folder = self.folder(uuid)
        marked = catalogue_is_usable(folder) and mark_dropped(folder)
        try:
            hit(MARKED_DROPPED)
            with self._db.writing():
                row = "DELETE FROM collections WHERE name = ? AND uuid = ? RETURNING uuid"
                if self._db.one(row, (name, uuid)) is None:
                    raise Dropped(str(folder))
        except Dropped:
            raise
        except (StorageError, OSError) as e:
            if marked and getattr(e, "undone", True):
                _take_back(folder)
            raise
        hit(UNREGISTERED)
        # At once, so that who comes too late finds no folder instead of half a one. It is swept like any other.
        going = folder.with_name(folder.name + DROPPED_SUFFIX)
        with suppress(OSError):
            hit(RENAME)
            folder.rename(going)
        take_away(going)

    def verify(self) -> None:
        """Raises Damaged where a page is not what was written. At a start alone."""
        with suppress(NoSpace):  # then only what was brought home before is verified
            self._db.truncate_log()
        if pages.verify(self._db.path):
            advice = "`seedvec repair` makes it anew from the collections' folders"
            raise Damaged(f"{self._db.path} is damaged: its pages differ from their checksums; {advice}")

    def adopt(self, uuid: str, name: str) -> str:
        """Names a folder whose row was lost: as it was made, or where another has that name, by the folder's."""
        with self._db.writing():
            if not name or self._db.one("SELECT 1 FROM collections WHERE name = ?", (name,)) is not None:
                name = f"recovered-{uuid}"
            self._db.execute("INSERT INTO collections VALUES (?,?,?,NULL)", (name, uuid, catalogue.now()))
        return name

    def lead(self, old: str, new: str) -> None:
        """The collection's name leads to another folder from now on, and it is open."""
        with self._db.writing():
            self._db.execute("UPDATE collections SET uuid = ?, reason = NULL WHERE uuid = ?", (new, old))

    def set_reason(self, uuid: str, reason: str | None) -> None:
        with self._db.writing():
            self._db.execute("UPDATE collections SET reason = ? WHERE uuid = ?", (reason, uuid))
        with suppress(OSError):
            (self.folder(uuid) / SHUT_NAME).unlink()

    def shut(self, uuid: str) -> None:
        """Closes it where `set_reason` has failed: a name without content takes no room. Raises OSError."""
        (self.folder(uuid) / SHUT_NAME).touch()

    def checkpoint(self) -> None:
        self._db.checkpoint()

    def close(self) -> None:
        self._db.close()


def discard(folder: Path) -> None:
    """As `take_away`, of a folder that may still bear a collection's name: half of it must not look like one."""
    going = folder if folder.name.endswith(DROPPED_SUFFIX) else folder.with_name(folder.name + DROPPED_SUFFIX)
    with suppress(OSError):
        folder.rename(going)
    take_away(going)


def take_away(folder: Path) -> None:
    """Unlinks a collection's folder that nothing names. What is left of it is swept at the next start."""
    with suppress(OSError):
        hit(UNLINK_FOLDER, lambda: (folder / CATALOGUE_NAME).unlink(missing_ok=True))
        shutil.rmtree(folder, ignore_errors=True)


def catalogue_is_usable(folder: Path) -> bool:
    """A damaged collection can be dropped too: then there is no catalogue to mark."""
    try:
        catalogue.connect(folder).close()
    except (NoSpace, DiskFailed, Locked):
        raise  # it may be whole, and somebody writing to it
    except Exception:
        return False
    return True


def mark_dropped(folder: Path, dropped: int = 1) -> bool:
    """False: it was so already."""
    with closing(catalogue.connect(folder)) as db, closing(Turns(folder / WRITE_LOCK_NAME)) as turns:
        with turns.turn(), db.writing():
            changed = db.one("UPDATE state SET dropped = ? WHERE dropped <> ? RETURNING 1", (dropped, dropped))
        return changed is not None


def _take_back(folder: Path) -> None:
    try:
        mark_dropped(folder, 0)
    except (StorageError, OSError) as e:
        raise OutcomeUnknown(f"{folder}: it is marked as dropped, and goes at the next start: {e}") from e


def _make(folder: Path, settings: catalogue.Settings, name: str) -> None:
    try:
        catalogue.create(folder, settings, name)
    except OutcomeUnknown as e:
        raise DiskFailed(str(e)) from e  # no registry names it: it is known not to count
