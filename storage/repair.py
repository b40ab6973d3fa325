"""`seedvec repair`: saves what checksums prove whole, and lists what it could not. Offline, under DATA/LOCK.

A collection that is sound is left alone. One that is not is written anew beside itself; when that is on the disk, the
registry's row is led to the new folder, and the damaged one is moved to DATA/damaged/<time>/, with the report. What a
crash of the repair leaves there can be deleted. Indexes and metadata columns are the server's to rebuild.
"""

import os
import time
import uuid
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import apsw

from storage import errors, pages, registry
from storage.aside import clear_database
from storage.atomic import fsync_dir, fsync_file
from storage.failpoints import declare, hit
from storage.layout import DAMAGED_NAME, REGISTRY_NAME, SQLITE_SUFFIXES, DataFolder
from storage.lock import acquire
from storage.orphans import Kind, look
from storage.readonly import ReadOnlyDatabase
from storage.registry import NameTaken, NoSuchName, Registered, Registry
from storage.repair_plan import Plan, plan
from storage.repair_report import RepairReport
from storage.repair_write import Norms, write
from storage.snapshot_sweep import adopt_snapshots

STAGE_NAME: Final = "unfinished"
FOLDER: Final = declare("repair.folder")
PLACE: Final = declare("repair.place")
KEEP: Final = declare("repair.keep")
REPORT: Final = declare("repair.report")


def repair(data_dir: Path, norms: Norms, *, dry_run: bool = False) -> RepairReport:
    """norms: see `repair_write.Norms`. Raises LockHeld (a server runs), OSError and StorageError (the disk; what was
    saved until then is in place, and the next repair goes on)."""
    data = DataFolder(data_dir)
    lock = acquire(data.root)
    try:
        return _Repair(data, norms, RepairReport(data.root, dry_run)).run()
    finally:
        lock.release()


class _Repair:
    def __init__(self, data: DataFolder, norms: Norms, report: RepairReport) -> None:
        self.data = data
        self.norms = norms
        self.report = report
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        self.kept = data.root / DAMAGED_NAME / f"{stamp}-{uuid.uuid4().hex[:4]}"

    def run(self) -> RepairReport:
        entries = self._entries()
        for entry in entries:
            self._repair_one(entry)
        if self.kept.is_dir():
            self._store_report()
        return self.report

    # ---------------------------------------------------------------- the registry

    def _entries(self) -> list[Registered]:
        """All collections, by the registry or by their folders; a registry that is damaged is made anew first."""
        if not self.report.dry_run:
            clear_database(self.data.registry)
        known, damage = _read_registry(self.data)
        read = known.collections
        uuids = {entry.uuid for entry in read} | known.loose
        entries = read + _unnamed(self.data, uuids, {entry.name for entry in read})
        for entry in entries[len(read) :]:
            self.report.notes.append(f"the registry does not name c/{entry.uuid}: it is {entry.name}")
        if damage:
            self.report.notes.append(f"{REGISTRY_NAME}: {damage}: made anew, with {len(entries)} collections")
        if self.report.dry_run or (not damage and len(entries) == len(read)):
            return entries
        if damage:
            for suffix in SQLITE_SUFFIXES:
                self._keep(self.data.root / (REGISTRY_NAME + suffix))
        with closing(Registry(self.data.root, create=True)) as made:
            there = {entry.uuid for entry in made.read()}
            for entry in entries:
                if entry.uuid not in there:
                    made.adopt(entry.uuid, entry.name)
            if damage:
                for alias, collection in known.aliases.items():
                    with suppress(NameTaken, NoSuchName):
                        made.point(alias, collection)
                self.report.notes += [f"snapshot {name} is named again" for name in adopt_snapshots(made)]
        return entries

    # ---------------------------------------------------------------- one collection

    def _repair_one(self, entry: Registered) -> None:
        if not self.report.dry_run:
            clear_database(self.data.collection(entry.uuid).catalogue)
        made = plan(self.data.collection(entry.uuid).root, entry.name)
        self.report.collections.append(made.report)
        if made.report.outcome == "repaired" and not self.report.dry_run:
            self._replace(entry, made)

    def _replace(self, entry: Registered, made: Plan) -> None:
        fresh = uuid.uuid4().hex
        stage = self._kept() / STAGE_NAME / fresh
        stage.parent.mkdir(exist_ok=True)
        write(made, stage, self.norms)
        new = self.data.collections / fresh
        hit(PLACE)
        stage.rename(new)
        fsync_dir(self.data.collections)
        with closing(Registry(self.data.root)) as opened:
            opened.lead(entry.uuid, fresh)
        self._keep(made.folder)
        made.report.folder = fresh
        stage.parent.rmdir()

    def _kept(self) -> Path:
        if not self.kept.is_dir():
            hit(FOLDER)
            self.kept.mkdir(parents=True)
            fsync_dir(self.data.root)
            fsync_dir(self.kept.parent)
        self.report.kept_in = self.kept
        return self.kept

    def _keep(self, path: Path) -> None:
        """Moves a damaged original out of the way."""
        if os.path.lexists(path):
            hit(KEEP)
            path.rename(self._kept() / path.name)
            fsync_dir(self.kept)
            fsync_dir(path.parent)

    def _store_report(self) -> None:
        for name, text in (("report.txt", f"{self.report}\n"), ("report.json", f"{self.report.json()}\n")):
            hit(REPORT)
            (self.kept / name).write_text(text)
            fsync_file(self.kept / name)
        fsync_dir(self.kept)


@dataclass(slots=True)
class _Known:
    """What can be read of the registry. loose: folders that are not to be named again."""

    collections: list[Registered] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)
    loose: set[str] = field(default_factory=set)


def _read_registry(data: DataFolder) -> tuple[_Known, str]:
    """And what is damaged."""
    known = _Known()
    if not data.registry.exists():
        return known, "it is gone"
    try:
        with closing(ReadOnlyDatabase(data.registry, registry.APPLICATION_ID, registry.VERSION)) as db:
            rows = db.execute("SELECT name, uuid, reason FROM collections ORDER BY name")
            known.collections = [Registered(*row) for row in rows]
            known.loose = {row[0] for row in db.execute("SELECT uuid FROM loose")}
            known.aliases = dict(db.execute("SELECT name, collection FROM aliases"))
        bad = pages.verify(data.registry)
    except errors.OtherVersion:
        raise  # it is whole: made anew it would lose what only a start can bring over
    except (errors.StorageError, apsw.Error, OSError) as e:
        return known, f"it cannot be read ({e})"
    return known, f"{len(bad)} of its pages are damaged" if bad else ""


def _unnamed(data: DataFolder, named: set[str], names: set[str]) -> list[Registered]:
    """Collections whose row is lost. One whose catalogue cannot be read has no name but its folder's."""
    if not data.collections.is_dir():
        return []
    found = []
    for folder in sorted(data.collections.iterdir()):
        if folder.name in named:
            continue
        kind, state = look(folder)
        if kind not in (Kind.COLLECTION, Kind.EMPTY, Kind.UNREADABLE):
            continue
        name = state.name if state is not None and state.name not in names else f"recovered-{folder.name}"
        names = names | {name}
        found.append(Registered(name, folder.name, None))
    return found
