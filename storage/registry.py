"""registry.db: which collections there are, under which names, in which folders; their aliases; the snapshots.

Collections and aliases share one namespace, held to inside the transaction that adds a name. An alias leads to a
collection's name, not to its folder: after a restore it leads to what was restored.
"""

import shutil
import uuid as uuids
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from storage import catalogue, pages
from storage.atomic import fsync_dir
from storage.database import Database
from storage.errors import Damaged, DiskFailed, Dropped, Locked, NoSpace, OtherVersion, OutcomeUnknown, StorageError
from storage.failpoints import declare, hit
from storage.layout import CATALOGUE_NAME, COLLECTIONS_NAME, REGISTRY_NAME, SHUT_NAME, WRITE_LOCK_NAME
from storage.turns import Turns

APPLICATION_ID = 0x53656564
VERSION = 2
"""1 had the collections alone."""
SCHEMA = """
CREATE TABLE collections(name TEXT PRIMARY KEY, uuid TEXT NOT NULL UNIQUE, created TEXT NOT NULL, reason TEXT);
"""
NAMES_SCHEMA = """
CREATE TABLE aliases(name TEXT PRIMARY KEY, collection TEXT NOT NULL);
CREATE TABLE snapshots(name TEXT PRIMARY KEY, folder TEXT NOT NULL UNIQUE, created TEXT NOT NULL,
    uploaded INTEGER NOT NULL);
CREATE TABLE loose(uuid TEXT PRIMARY KEY);
"""
SHUT = "it was found damaged at the start, and the disk was too full to note how; see the server's log"
DROPPED_SUFFIX = ".dropped"
MAKE = declare("registry.make")
MAKE_FSYNC = declare("registry.fsync_dir")
CREATED_FOLDER = declare("registry.create.folder")
MARKED_DROPPED = declare("registry.drop.marked")
UNREGISTERED = declare("registry.drop.unregistered")
UPGRADE = declare("registry.upgrade")
POINT = declare("alias.point")
UNPOINT = declare("alias.remove")
LOOSEN = declare("restore.loosen")
SWITCH = declare("restore.switch")
ADD_SNAPSHOT = declare("snapshot.register")
FORGET_SNAPSHOT = declare("snapshot.forget")
RENAME = declare("registry.drop.rename")
UNLINK_FOLDER = declare("folder.unlink")


@dataclass(frozen=True, slots=True)
class Registered:
    name: str
    uuid: str
    reason: str | None
    """Why the collection is closed; None: it is open."""


@dataclass(frozen=True, slots=True)
class SnapshotRow:
    """folder: below DATA/snapshots; uploaded: it came over HTTP, so its files are not believed as our own are."""

    name: str
    folder: str
    created: str
    uploaded: bool


class NameTaken(Exception):
    """A collection, an alias or a snapshot of that name is there already."""


class NoSuchName(Exception):
    """No collection, alias or snapshot has that name."""


class Aliased(Exception):
    """Aliases lead to the collection. `names`: which."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(", ".join(names))
        self.names = names


class Registry:
    def __init__(self, data: Path, *, create: bool = False) -> None:
        self.data = data
        self.made_anew = False
        """There was none, or an empty one."""
        self._db = Database(data / REGISTRY_NAME, APPLICATION_ID, create=create, version=VERSION)
        if create:
            with suppress(NoSpace):  # that the disk is full says nothing of what an fsync once did
                self._db.rewrite_log()
            hit(MAKE)
            (data / COLLECTIONS_NAME).mkdir(exist_ok=True)
            if self._db.one("SELECT 1 FROM sqlite_master WHERE name = 'collections'") is None:
                # At once in its present version: who is killed here and repairs meets no older one.
                with self._db.writing():
                    self._db.execute(SCHEMA + NAMES_SCHEMA)
                    self._db.execute(f"PRAGMA user_version = {VERSION}")
                self.made_anew = True
            self._upgrade()
            hit(MAKE_FSYNC)
            fsync_dir(data)

    def _upgrade(self) -> None:
        found = (self._db.one("PRAGMA user_version") or (0,))[0]
        if found > VERSION:
            raise OtherVersion(f"{self._db.path}: format version {found} of a later seedvec, this one reads {VERSION}")
        if found < VERSION:
            with self._db.writing():
                self._db.execute(NAMES_SCHEMA)
                self._db.execute(f"PRAGMA user_version = {VERSION}")
                hit(UPGRADE)

    def data_version(self) -> int:
        return self._db.data_version()

    def read_names(self) -> tuple[list[Registered], dict[str, str]]:
        """The collections, and alias → collection, of one moment."""
        with self._db.reading():
            return self.read(), self.aliases()

    def read(self) -> list[Registered]:
        rows = self._db.execute("SELECT name, uuid, reason FROM collections ORDER BY name")
        return [Registered(name, uuid, reason or self._shut(uuid)) for name, uuid, reason in rows]

    def _shut(self, uuid: str) -> str | None:
        return SHUT if (self.folder(uuid) / SHUT_NAME).exists() else None

    def folder(self, uuid: str) -> Path:
        return self.data / COLLECTIONS_NAME / uuid

    def create(self, name: str, settings: catalogue.Settings, made_for: str = "") -> str:
        """Folder first, then the row. Returns the uuid; raises NameTaken. made_for: the import that it is made for."""
        uuid = uuids.uuid4().hex
        folder = self.folder(uuid)
        try:
            _make(folder, settings, name, made_for)
            hit(CREATED_FOLDER)
            with self._db.writing():
                if self._is_taken(name):
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

    def _is_taken(self, name: str) -> bool:
        """By a collection or an alias. Inside a transaction."""
        either = "SELECT 1 FROM collections WHERE name = ?1 UNION ALL SELECT 1 FROM aliases WHERE name = ?1"
        return self._db.one(either, (name,)) is not None

    def drop(self, name: str, uuid: str) -> None:
        """Marks the catalogue (so that no writer goes on), then the registry, and unlinks last. Raises Dropped where
        another was first, and Aliased where an alias leads there: it would be left without a collection.

        Measured without the mark: a process went on inserting into a folder that another had removed. One that is
        marked already was left half dropped by a process that died: it is dropped to the end. Where the registry
        cannot be written, the mark is taken back, so that a drop that was refused has done nothing.
        """
        folder = self.folder(uuid)
        usable = catalogue_is_usable(folder)
        marked = False
        try:
            self._refuse_aliased(name)  # before anything is marked; again inside the transaction, where it counts
            marked = usable and mark_dropped(folder)
            hit(MARKED_DROPPED)
            with self._db.writing():
                self._refuse_aliased(name)
                row = "DELETE FROM collections WHERE name = ? AND uuid = ? RETURNING uuid"
                if self._db.one(row, (name, uuid)) is None:
                    raise Dropped(str(folder))
        except Dropped:
            raise
        except Aliased:
            if usable:
                _take_back(folder)
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

    def _refuse_aliased(self, name: str) -> None:
        leading = [row[0] for row in self._db.execute("SELECT name FROM aliases WHERE collection = ?", (name,))]
        if leading:
            raise Aliased(sorted(leading))

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
            if not name or self._is_taken(name):
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

    # ---------------------------------------------------------------- aliases

    def aliases(self) -> dict[str, str]:
        """Alias → name of the collection that it leads to."""
        return dict(self._db.execute("SELECT name, collection FROM aliases ORDER BY name"))

    def point(self, alias: str, collection: str) -> bool:
        """The alias leads to that collection from now on. True: it is new. Raises NameTaken where a collection has its
        name, NoSuchName where there is no such collection."""
        with self._db.writing():
            if self._db.one("SELECT 1 FROM collections WHERE name = ?", (alias,)) is not None:
                raise NameTaken(alias)
            if self._db.one("SELECT 1 FROM collections WHERE name = ?", (collection,)) is None:
                raise NoSuchName(collection)
            led = self._db.one("UPDATE aliases SET collection = ? WHERE name = ? RETURNING 1", (collection, alias))
            if led is None:
                self._db.execute("INSERT INTO aliases VALUES (?,?)", (alias, collection))
            hit(POINT)
        return led is None

    def remove_alias(self, alias: str) -> None:
        """Raises NoSuchName."""
        with self._db.writing():
            if self._db.one("DELETE FROM aliases WHERE name = ? RETURNING 1", (alias,)) is None:
                raise NoSuchName(alias)
            hit(UNPOINT)

    # ---------------------------------------------------------------- restoring

    def loose(self) -> set[str]:
        """Folders below `c` that no name leads to, and none is to: of a restore that has not come to its end, or
        replaced by one. The next start sweeps what is there of them."""
        return {row[0] for row in self._db.execute("SELECT uuid FROM loose")}

    def loosen(self, uuids: list[str]) -> None:
        """Before a restored folder is put in its place: else a start would take it for one whose name was lost."""
        with self._db.writing():
            self._db.many("INSERT INTO loose VALUES (?)", ((uuid,) for uuid in uuids))
            hit(LOOSEN)

    def forget_loose(self) -> None:
        """At a start, once their folders are gone."""
        if self.loose():
            with self._db.writing():
                self._db.execute("DELETE FROM loose")

    def switch(self, restored: dict[str, str], replace: bool) -> list[str]:
        """Each name leads to its restored folder from now on, all in one transaction. Returns the folders that they
        take the place of. Raises NameTaken where a name is an alias's, or a collection's that is not to be replaced.
        """
        replaced = []
        with self._db.writing():
            for name, uuid in restored.items():
                old = self._db.one("SELECT uuid FROM collections WHERE name = ?", (name,))
                if self._is_taken(name) and (old is None or not replace):
                    raise NameTaken(name)
                self._db.execute("DELETE FROM collections WHERE name = ?", (name,))
                self._db.execute("DELETE FROM loose WHERE uuid = ?", (uuid,))
                self._db.execute("INSERT INTO collections VALUES (?,?,?,NULL)", (name, uuid, catalogue.now()))
                if old is not None:
                    self._db.execute("INSERT INTO loose VALUES (?)", old)
                    replaced.append(str(old[0]))
            hit(SWITCH)
        return replaced

    # ---------------------------------------------------------------- snapshots

    def snapshots(self) -> list[SnapshotRow]:
        rows = self._db.execute("SELECT name, folder, created, uploaded FROM snapshots ORDER BY name")
        return [SnapshotRow(name, folder, created, bool(uploaded)) for name, folder, created, uploaded in rows]

    def add_snapshot(self, row: SnapshotRow) -> None:
        """Its folder is in place, and on the disk. Raises NameTaken."""
        with self._db.writing():
            if self._db.one("SELECT 1 FROM snapshots WHERE name = ?", (row.name,)) is not None:
                raise NameTaken(row.name)
            values = (row.name, row.folder, row.created, row.uploaded)
            self._db.execute("INSERT INTO snapshots VALUES (?,?,?,?)", values)
            hit(ADD_SNAPSHOT)

    def forget_snapshot(self, name: str) -> str:
        """Returns the folder, which nothing names any more. Raises NoSuchName."""
        with self._db.writing():
            row = self._db.one("DELETE FROM snapshots WHERE name = ? RETURNING folder", (name,))
            if row is None:
                raise NoSuchName(name)
            hit(FORGET_SNAPSHOT)
        return str(row[0])

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


def _make(folder: Path, settings: catalogue.Settings, name: str, made_for: str) -> None:
    try:
        catalogue.create(folder, settings, name, made_for)
    except OutcomeUnknown as e:
        raise DiskFailed(str(e)) from e  # no registry names it: it is known not to count
