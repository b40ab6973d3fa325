"""`seedvec check`: is everything in a data folder as it was acknowledged? It changes nothing.

It may run beside a server: each collection is judged by one read transaction, during which its files are opened, so
that what a merge unlinks afterwards can still be read. That transaction lasts 0.4 s for 1M rows (int ids), longer than
any other reader's: it holds up no writer, only the recycling of the write-ahead log; split up, live rows and deaths
would be of different moments. Hashing and comparing come after it: 1M × 128 take 1 to 1.5 s in all.
"""

import os
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from seedvec.segment import Segment
from storage import catalogue, errors, registry, remembered
from storage.atomic import TMP_SUFFIX
from storage.catalogue import ColumnsRow, IndexRow, SegmentRow, Settings, State
from storage.check_files import REBUILT, RESTORE, OpenFile, check_derived, check_segment, hold, kind_of
from storage.check_pages import REPAIR, check_pages
from storage.check_queries import check_given, check_sample
from storage.check_rows import (
    CatalogueRows,
    Sealed,
    check_counters,
    check_liveness,
    check_metadata,
    read_rows,
)
from storage.check_snapshots import check_snapshots
from storage.layout import (
    BALLAST_NAME,
    CATALOGUE_NAME,
    COLLECTIONS_NAME,
    DAMAGED_NAME,
    LOCK_NAME,
    QUERIES_NAME,
    REGISTRY_NAME,
    SEGMENTS_NAME,
    SHUT_NAME,
    SNAPSHOTS_NAME,
    SQLITE_SUFFIXES,
    STAGING_NAME,
    WRITE_LOCK_NAME,
    CollectionFolder,
    DataFolder,
)
from storage.manifest import MANIFEST_NAME
from storage.readonly import ReadOnlyDatabase
from storage.report import Finding, Report

__all__ = ["Finding", "Report", "check"]


def check(data_dir: str | os.PathLike[str]) -> Report:
    """Judges a whole data folder. Raises OSError only where the folder itself cannot be read."""
    data = DataFolder(Path(data_dir))
    report = Report(data.root)
    # Folders first, names second: a collection that is being created has its folder first.
    folders = _folders(data)
    names = _read_registry(data, report)
    if names is None:
        return report
    for one in names.collections:
        folder = data.collection(one.uuid)
        if one.reason is not None:
            report.add("warning", one.name, f"closed when the server started: {one.reason}")
        _check_collection(folder, one.name, data, report)
    uuids = {one.uuid for one in names.collections}
    for folder_name in sorted(folders - uuids):
        _note_unnamed(data.collection(folder_name), folder_name in names.loose, report)
    _judge_aliases(names, report)
    check_snapshots(data, names.snapshots, report)
    if (data.root / DAMAGED_NAME).is_dir():
        report.add("note", DAMAGED_NAME, "damaged originals that `seedvec repair` has kept: no server reads them")
    ours = {LOCK_NAME, BALLAST_NAME, COLLECTIONS_NAME, DAMAGED_NAME, SNAPSHOTS_NAME, STAGING_NAME, MANIFEST_NAME}
    _note_strays(data.root, ours | _sqlite(REGISTRY_NAME), "", report)
    return report


def _folders(data: DataFolder) -> set[str]:
    with suppress(FileNotFoundError):
        return set(os.listdir(data.collections))
    os.listdir(data.root)
    return set()


def _note_unnamed(folder: CollectionFolder, loose: bool, report: Report) -> None:
    """A creation that is under way has nothing in it yet, and a drop has marked it. loose: so the registry says."""
    where = f"c/{folder.root.name}"
    with suppress(errors.StorageError, apsw.Error, OSError):
        with closing(ReadOnlyDatabase(folder.catalogue, catalogue.APPLICATION_ID, catalogue.VERSION)) as db:
            state = catalogue.read_state(db)
        if not loose and state.uuid == folder.root.name and not state.dropped and state.next_key > 1:
            what = f"a collection ({state.name}, {state.live:,} items) whose name the registry has lost"
            report.add("error", where, what, "the next start names it again, and so does `seedvec repair`")
            return
    what = "no name leads to this folder: what a creation, a drop or a restore has left is swept at a start"
    report.add("note", where, what)


def _sqlite(name: str) -> set[str]:
    return {name + suffix for suffix in SQLITE_SUFFIXES}


@dataclass(frozen=True, slots=True)
class _Names:
    collections: list[registry.Registered]
    aliases: dict[str, str]
    snapshots: dict[str, str]
    """Name → folder."""
    loose: set[str]


def _judge_aliases(names: _Names, report: Report) -> None:
    there = {one.name for one in names.collections}
    for alias, collection in names.aliases.items():
        if alias in there:
            report.add("error", REGISTRY_NAME, f"{alias} is both a collection and an alias of {collection}", REPAIR)
        if collection not in there:
            report.add("warning", REGISTRY_NAME, f"alias {alias} leads to {collection}, which is not there")


def _read_registry(data: DataFolder, report: Report) -> _Names | None:
    if not data.registry.exists():
        report.add("error", REGISTRY_NAME, "there is none: this is no data folder, or its registry is lost", REPAIR)
        return None
    try:
        with closing(ReadOnlyDatabase(data.registry, registry.APPLICATION_ID, registry.VERSION)) as db:
            check_pages(data.registry, REGISTRY_NAME, report)
            for fault in db.integrity():
                report.add("error", REGISTRY_NAME, f"SQLite finds it damaged: {fault}", REPAIR)
            with db.reading():
                return _read_names(db)
    except (errors.StorageError, apsw.Error, OSError) as e:
        advice = "" if isinstance(e, errors.OtherVersion) else REPAIR
        report.add("error", REGISTRY_NAME, f"it cannot be read: {e}", advice)
        return None


def _read_names(db: ReadOnlyDatabase) -> _Names:
    collections = db.execute("SELECT name, uuid, reason FROM collections ORDER BY name")
    return _Names(
        [registry.Registered(*row) for row in collections],
        dict(db.execute("SELECT name, collection FROM aliases ORDER BY name")),
        dict(db.execute("SELECT name, folder FROM snapshots ORDER BY name")),
        {row[0] for row in db.execute("SELECT uuid FROM loose")},
    )


def _still_named(data: DataFolder, name: str, folder: CollectionFolder) -> bool:
    with closing(ReadOnlyDatabase(data.registry, registry.APPLICATION_ID, registry.VERSION)) as db:
        return any(r.name == name and r.uuid == folder.root.name for r in _read_names(db).collections)


def _check_collection(folder: CollectionFolder, name: str, data: DataFolder, report: Report) -> None:
    mine = Report(folder.root)
    try:
        if not folder.catalogue.exists():
            raise errors.Damaged(f"{folder.catalogue} is missing")
        with closing(ReadOnlyDatabase(folder.catalogue, catalogue.APPLICATION_ID, catalogue.VERSION)) as db:
            check_pages(folder.catalogue, f"{name}/catalog.db", mine)
            for fault in db.integrity():
                mine.add("error", f"{name}/catalog.db", f"SQLite finds it damaged: {fault}", REPAIR)
            # Before the state: beside a server it may only be older than that.
            known = remembered.recall(folder.root / WRITE_LOCK_NAME)
            moment = _read_moment(db, folder)
            with closing(moment):
                _judge(moment, name, mine)
                _judge_owner(moment.state, known, catalogue.is_owned(db, moment.state), name, mine)
            check_given(db, moment.settings, f"{name}/catalog.db", mine)
        _note_strays(
            folder.root,
            {WRITE_LOCK_NAME, SHUT_NAME, SEGMENTS_NAME, QUERIES_NAME, *_sqlite(CATALOGUE_NAME)},
            f"{name}/",
            mine,
        )
        check_sample(folder.root, moment.settings, name, mine)
        _note_strays(folder.segments, _names_now(folder), f"{name}/segments/", mine)
    except (errors.StorageError, apsw.Error, OSError) as e:
        if not _still_named(data, name, folder):
            return  # dropped while we looked
        advice = "" if isinstance(e, errors.OtherVersion) else REPAIR
        mine.add("error", f"{name}/catalog.db", f"it cannot be read: {e}", advice)
    report.findings += mine.findings
    report.collections += 1
    report.live += mine.live
    report.bytes += mine.bytes


@dataclass(slots=True)
class _Moment:
    """A collection as of one read transaction, with its files held open."""

    settings: Settings
    state: State
    segments: list[SegmentRow]
    strange_indexes: list[tuple[int, str]]
    """Indexes of segments that are not there."""
    rows: CatalogueRows | None = None
    held: dict[str, OpenFile] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """File → why it could not be opened."""

    def close(self) -> None:
        _close(self.held)


def _read_moment(db: ReadOnlyDatabase, folder: CollectionFolder) -> _Moment:
    missing_before: set[str] = set()
    # What one reading has opened serves the next, whose opening is then over before the next merge is.
    held: dict[str, OpenFile] = {}
    try:
        while True:
            with db.reading():
                segments = catalogue.read_segments(db)
                known = {s.seq for s in segments}
                indexes = [tuple(r) for r in db.execute("SELECT seq, file FROM indexes") if r[0] not in known]
                moment = _Moment(catalogue.read_settings(db), catalogue.read_state(db), segments, indexes, held=held)
                _open_files(moment, folder)
                # What was missing and is still named by a later reading has not been taken away by a merge. Else it
                # is read again, however often: only a builder that never pauses could keep it up.
                if moment.missing.keys() <= missing_before:
                    moment.rows = read_rows(db, moment.settings)
                    return moment
            missing_before = set(moment.missing)
    except BaseException:
        _close(held)
        raise


def _open_files(moment: _Moment, folder: CollectionFolder) -> None:
    for segment in moment.segments:
        for file in (segment, *segment.derived):
            if file.file in moment.held:
                continue
            try:
                moment.held[file.file] = hold(folder.segments / file.file, as_segment=file is segment)
            except OSError as e:
                moment.missing[file.file] = os.strerror(e.errno) if e.errno else str(e)


def _close(held: dict[str, OpenFile]) -> None:
    for file in held.values():
        file.close()
    held.clear()


def _judge(moment: _Moment, name: str, report: Report) -> None:
    assert moment.rows is not None
    report.live = moment.state.live
    if moment.state.dropped:
        report.add("note", name, "it was being dropped: the next start finishes that")
    sealed: list[Sealed] = []
    unreadable: list[SegmentRow] = []
    for row in moment.segments:
        file = _judge_segment(moment, row, name, report)
        if file is None:
            unreadable.append(row)
        else:
            sealed.append(Sealed(row, file, f"{name}/segments/{row.file}"))
        for derived in row.derived:
            _judge_derived(moment, derived, name, report)
    for seq, file_name in moment.strange_indexes:
        what = f"an index of segment {seq}, which is not there"
        report.add("warning", f"{name}/segments/{file_name}", what, "it is not used")
    where = f"{name}/catalog.db"
    check_liveness(moment.rows, sealed, unreadable, where, report)
    check_metadata(moment.rows, where, report)
    check_counters(moment.rows, moment.state, moment.settings, moment.segments, where, report)


def _judge_owner(state: State, known: dict[str, int] | None, owned: bool, name: str, report: Report) -> None:
    if not owned:
        report.add("error", f"{name}/catalog.db", "it, or its log, is another collection's", REPAIR)
    lacks = remembered.missing(known, state)
    if lacks:
        report.add("error", f"{name}/catalog.db", lacks, REPAIR)


def _judge_segment(moment: _Moment, row: SegmentRow, name: str, report: Report) -> Segment | None:
    """The segment where its keys and ids can be believed."""
    where = f"{name}/segments/{row.file}"
    held = moment.held.get(row.file)
    if held is None:
        what = f"the segment cannot be opened ({moment.missing[row.file]}); it held {row.rows:,} rows"
        report.add("error", where, what, RESTORE)
        return None
    return held.segment if check_segment(held, row, moment.settings, where, report) else None


def _judge_derived(moment: _Moment, row: IndexRow | ColumnsRow, name: str, report: Report) -> None:
    where = f"{name}/segments/{row.file}"
    held = moment.held.get(row.file)
    if held is None:
        report.add("warning", where, f"{kind_of(row)} cannot be opened ({moment.missing[row.file]})", REBUILT)
    else:
        check_derived(held, row, where, report)


def _names_now(folder: CollectionFolder) -> set[str]:
    """What the catalogue names now: beside a server, that is more than when the check of this collection began."""
    with closing(ReadOnlyDatabase(folder.catalogue, catalogue.APPLICATION_ID, catalogue.VERSION)) as db, db.reading():
        tables = ("segments", "indexes", "columns", "staged")
        rows = db.execute(" UNION ALL ".join(f"SELECT file FROM {table}" for table in tables))
        return {str(row[0]) for row in rows}


def _note_strays(folder: Path, named: set[str], where: str, report: Report) -> None:
    for stray in sorted(set(os.listdir(folder)) - named):
        kind = "unfinished" if stray.endswith(TMP_SUFFIX) else "named by nothing"
        what = f"{kind}: being written by a running server, or left by a crash and swept at the next start"
        report.add("note", f"{where}{stray}", what)
