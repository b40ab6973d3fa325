"""A snapshot: a data folder of its own, made of links to what never changes and of a copy of each catalogue.

A read transaction on each catalogue is its moment: what was acknowledged before is in it, what is committed after is
not. All collections of a snapshot have one moment: their write locks are held together while those transactions begin,
and for nothing else (a single collection needs no lock at all). What a catalogue names at its moment may be unlinked
by a merge before it is linked here: then all begin anew. A file that is missing twice, and named both times, has not
been merged away: it is lost. Once linked, nothing can take it away, and the copy of the catalogue is of the same
moment, so that it names exactly what was linked.
"""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import apsw

from storage import catalogue, errors, pages, snapshot_files
from storage.atomic import fsync_dir, fsync_file
from storage.catalogue import State
from storage.database import Database, translated
from storage.failpoints import declare, hit
from storage.hashing import file_xxh3, hex16
from storage.layout import (
    CATALOGUE_NAME,
    COLLECTIONS_NAME,
    REGISTRY_NAME,
    SEGMENTS_NAME,
    WRITE_LOCK_NAME,
    CollectionFolder,
    DataFolder,
)
from storage.manifest import MANIFEST_NAME, Content, Entry, Manifest
from storage.registry import Registered, Registry
from storage.segment import require_room
from storage.turns import Turns

BACKUP: Final = declare("snapshot.backup")
BACKUP_FSYNC: Final = declare("snapshot.backup_fsync")
MANIFEST: Final = declare("snapshot.manifest")
MANIFEST_FSYNC: Final = declare("snapshot.manifest_fsync")
FSYNC_DIR: Final = declare("snapshot.fsync_dir")
BACKUP_PAGES: Final = 4096
"""Copied at once: 16 MiB."""


@dataclass(slots=True)
class _Moment:
    """One collection as its read transaction sees it."""

    entry: Registered
    folder: Path
    db: Database
    state: State
    files: list[tuple[str, int, str]]
    """As `named_files` gives them."""


def take(data: Path, name: str, entries: list[Registered]) -> Path:
    """Makes a snapshot's folder, whole and on the disk when it returns; no registry names it yet.

    entries: the collections, none of them closed. Raises Dropped, Damaged, NoSpace, DiskFailed, OSError; then nothing
    is left.
    """
    stage = snapshot_files.make_stage(data)
    try:
        with _moments(data, entries, stage) as moments:
            contents, files = [], []
            for moment in moments:
                files += _copy(moment, stage / COLLECTIONS_NAME / moment.entry.uuid)
                contents.append(Content(moment.entry.name, moment.entry.uuid, moment.state.live))
        files.append(_registry(stage, contents))
        whole = Manifest(name, catalogue.now(), tuple(contents), tuple(files))
        write_manifest(stage, whole)
        return snapshot_files.put_in_place(stage)
    except BaseException:
        snapshot_files.take_away(stage)
        raise


# -------------------------------------------------------------------- the moment


@contextmanager
def _moments(data: Path, entries: list[Registered], stage: Path) -> Iterator[list[_Moment]]:
    """All collections at one moment, with all that they name linked into the stage."""
    missing_before: set[Path] = set()
    while True:
        with ExitStack() as stack:
            moments = _begin(data, entries, stack)
            missing = {path for moment in moments for path in _link(moment, stage)}
            if not missing:
                yield moments
                return
        lost = missing & missing_before
        if lost:
            raise errors.Damaged(f"{min(lost)} is gone")
        missing_before = missing
        for entry in entries:
            # What was linked may be named no more.
            snapshot_files.take_away(stage / COLLECTIONS_NAME / entry.uuid)


def _begin(data: Path, entries: list[Registered], stack: ExitStack) -> list[_Moment]:
    folders = [DataFolder(data).collection(entry.uuid).root for entry in entries]
    opened = [stack.enter_context(closing(catalogue.connect(folder))) for folder in folders]
    with ExitStack() as locks:
        if len(folders) > 1:
            # In one order everywhere, so that two snapshots cannot wait for each other.
            for folder in sorted(folders):
                turns = locks.enter_context(closing(Turns(folder / WRITE_LOCK_NAME)))
                locks.enter_context(turns.turn())
        states = [_begun(db, stack) for db in opened]
    return [
        _Moment(entry, folder, db, state, named_files(db))
        for entry, folder, db, state in zip(entries, folders, opened, states, strict=True)
    ]


def _begun(db: Database, stack: ExitStack) -> State:
    stack.enter_context(db.reading())
    state = catalogue.read_state(db)  # SQLite takes its snapshot at the first reading
    if state.dropped:
        raise errors.Dropped(str(db.path.parent))
    return state


def _link(moment: _Moment, stage: Path) -> list[Path]:
    """Returns what is gone."""
    into = CollectionFolder(stage / COLLECTIONS_NAME / moment.entry.uuid).segments
    hit(snapshot_files.FOLDER)
    into.mkdir(parents=True)
    missing = []
    for file, _, _ in moment.files:
        source = moment.folder / SEGMENTS_NAME / file
        try:
            snapshot_files.link(source, into / file)
        except FileNotFoundError:
            missing.append(source)
    return missing


def named_files(db: Database) -> list[tuple[str, int, str]]:
    """Name, bytes and xxh3 of every file beside the catalogue that it names: of segments, of what is derived of them,
    and of imports whose rows are being made real."""
    rows = [file for segment in catalogue.read_segments(db) for file in (segment, *segment.derived)]
    staged = db.execute("SELECT file, bytes, xxh3 FROM staged WHERE file IS NOT NULL ORDER BY seq")
    return [*((row.file, row.bytes, row.xxh3) for row in rows), *(tuple(row) for row in staged)]


# -------------------------------------------------------------------- what is written


def _copy(moment: _Moment, folder: Path) -> list[Entry]:
    """The catalogue at its moment, beside the links. Returns all files of the collection."""
    copy = folder / CATALOGUE_NAME
    require_room(folder, (moment.folder / CATALOGUE_NAME).stat().st_size)
    hit(BACKUP)
    with closing(apsw.Connection(str(copy), vfs=pages.checksum_vfs())) as target, translated(copy, target):
        # Nothing reads it before it is whole, and what a crash leaves of it is swept.
        target.pragma("journal_mode", "off")
        target.pragma("synchronous", 0)
        if pages.reserved(moment.db.connection) == pages.RESERVED_BYTES:
            # The VFS makes checksums from the first page on. A copy that outgrows the cache would write others before
            # it, as they are in the log: there their checksums are old.
            pages.reserve(target)
            target.pragma("user_version", 1)
        with target.backup("main", moment.db.connection, "main") as backup:
            while not backup.done:
                backup.step(BACKUP_PAGES)
    hit(BACKUP_FSYNC)
    fsync_file(copy)
    hit(FSYNC_DIR)
    fsync_dir(folder / SEGMENTS_NAME)
    fsync_dir(folder)
    base = f"{COLLECTIONS_NAME}/{moment.entry.uuid}"
    links = [Entry(f"{base}/{SEGMENTS_NAME}/{name}", size, xxh3) for name, size, xxh3 in moment.files]
    return [hashed(copy, f"{base}/{CATALOGUE_NAME}"), *links]


def hashed(file: Path, path: str) -> Entry:
    """path: in the snapshot."""
    size, digest = file_xxh3(file)
    return Entry(path, size, hex16(digest))


def _registry(stage: Path, contents: list[Content]) -> Entry:
    with closing(Registry(stage, create=True)) as registry:
        for content in contents:
            registry.adopt(content.uuid, content.name)
    # Closed by its only connection: the log has been brought home.
    return hashed(stage / REGISTRY_NAME, REGISTRY_NAME)


def write_manifest(stage: Path, whole: Manifest) -> None:
    """Last: with it the folder is a snapshot."""
    path, raw = stage / MANIFEST_NAME, whole.dump()
    hit(MANIFEST, lambda: path.write_bytes(raw[: len(raw) // 2]))
    path.write_bytes(raw)
    hit(MANIFEST_FSYNC)
    fsync_file(path)
    if (stage / COLLECTIONS_NAME).is_dir():
        fsync_dir(stage / COLLECTIONS_NAME)
    fsync_dir(stage)
