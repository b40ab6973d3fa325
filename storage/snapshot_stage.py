"""Of a snapshot, a data folder under other names and other folders' names: to be opened, judged, and put in place.

The snapshot itself is only read. Segments are linked; the catalogue is copied, brought up to date, and made its new
folder's own. What came from outside is believed in nothing: see `_vet`.
"""

import re
import shutil
import uuid
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

import apsw

from storage import catalogue, snapshot_files
from storage.atomic import fsync_dir, fsync_file
from storage.database import Database
from storage.errors import Damaged
from storage.failpoints import declare, hit
from storage.layout import (
    CATALOGUE_NAME,
    COLLECTIONS_NAME,
    SEGMENTS_NAME,
    WRITE_LOCK_NAME,
    DataFolder,
)
from storage.manifest import Content, Manifest
from storage.registry import Registry
from storage.segment import require_room
from storage.snapshot_take import hashed, named_files

COPY: Final = declare("restore.copy")
COPY_FSYNC: Final = declare("restore.copy_fsync")
OWN: Final = declare("restore.own")
PLACE: Final = declare("restore.place")
PLACE_FSYNC: Final = declare("restore.place_fsync")
INDEX_SUFFIX: Final = ".faiss"
PLAIN: Final = re.compile(r"CREATE (TABLE|INDEX) [^()]*\([^()]*\)[^()]*")


def stage(data: Path, snapshot: Path, whole: Manifest, wanted: Mapping[str, Content], trusted: bool) -> Path:
    """Makes the folder, under DATA/snapshots, of the collections wanted: new name → content.

    trusted: by whom it was taken; else its indexes are left behind, to be built anew: Faiss reads what it is given,
    and an index that was made to lead it astray would take every worker down. Raises Damaged, StorageError, OSError;
    then nothing is left.
    """
    root = snapshot_files.make_stage(data)
    try:
        with closing(Registry(root, create=True)) as registry:
            for name, content in wanted.items():
                folder = DataFolder(root).collection(uuid.uuid4().hex).root
                _copy(snapshot, whole, content, folder, trusted)
                _own(folder, name, whole, content, trusted)
                registry.adopt(folder.name, name)
    except BaseException:
        snapshot_files.take_away(root)
        raise
    return root


def _copy(snapshot: Path, whole: Manifest, content: Content, folder: Path, trusted: bool) -> None:
    base = f"{content.folder}/"
    segments = folder / SEGMENTS_NAME
    hit(snapshot_files.FOLDER)
    segments.mkdir(parents=True)
    (folder / WRITE_LOCK_NAME).touch()
    for entry in whole.files_of(content):
        name = entry.path.removeprefix(base)
        if name == CATALOGUE_NAME:
            require_room(folder, entry.bytes)
            hit(COPY)
            shutil.copyfile(snapshot / entry.path, folder / name)
            hit(COPY_FSYNC)
            fsync_file(folder / name)
            if hashed(folder / name, entry.path) != entry:
                raise Damaged(f"{entry.path} is not what the manifest says: its length or checksum differs")
        elif trusted or not name.endswith(INDEX_SUFFIX):
            try:
                snapshot_files.link(snapshot / entry.path, folder / name)
            except FileNotFoundError:
                raise Damaged(f"{entry.path} is missing") from None
    fsync_dir(segments)
    fsync_dir(folder)


def _own(folder: Path, name: str, whole: Manifest, content: Content, trusted: bool) -> None:
    """The catalogue is this folder's from now on, under this name, and names nothing that did not come with it."""
    with closing(Database(folder / CATALOGUE_NAME, catalogue.APPLICATION_ID)) as db:
        _vet(db)
        catalogue.upgrade(db, name)
        if catalogue.read_state(db).live != content.live:
            raise Damaged(f"the catalogue of {content.name} does not have the {content.live} rows of the manifest")
        hit(OWN)
        with db.writing():
            if not trusted:
                db.execute("DELETE FROM indexes")
                db.execute("UPDATE state SET generation = generation + 1")
            db.execute("UPDATE state SET uuid = ?, name = ?", (folder.name, name))
            db.execute("UPDATE owner SET uuid = ?", (folder.name,))
        base = f"{content.folder}/{SEGMENTS_NAME}/"
        sent = {e.path.removeprefix(base): (e.bytes, e.xxh3) for e in whole.files_of(content)}
        for file, size, xxh3 in named_files(db):
            # A name that is none of ours could lead a later unlink out of the folder.
            if sent.get(file) != (size, xxh3):
                raise Damaged(f"the catalogue of {content.name} names {str(file)[:80]!r}, which the manifest does not")


def _vet(db: Database) -> None:
    """Refuses what would run: a catalogue has tables and their indexes, no triggers, views or virtual tables, and no
    checks, generated columns or indexes of expressions: all of these need another pair of parentheses."""
    db.connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
    db.connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
    for kind, name, sql in db.execute("SELECT type, name, sql FROM sqlite_master"):
        if kind not in ("table", "index") or (sql is not None and PLAIN.fullmatch(sql) is None):
            raise Damaged(f"{db.path.name} is no catalogue of ours: it has a {kind} {str(name)[:80]!r}")


def staged(root: Path) -> dict[str, str]:
    """Name → folder's name of what was staged."""
    with closing(Registry(root)) as registry:
        return {entry.name: entry.uuid for entry in registry.read()}


def put_in_place(root: Path, data: Path) -> None:
    """Moves the judged collections among those of the data folder, where they must be loose."""
    collections = DataFolder(data).collections
    for folder in staged(root).values():
        hit(PLACE)
        (root / COLLECTIONS_NAME / folder).rename(collections / folder)
    hit(PLACE_FSYNC)
    fsync_dir(collections)
