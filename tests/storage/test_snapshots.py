"""A snapshot is of one moment, itself a data folder, and takes up nothing that is there already."""

import shutil
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from app.engine.files import write_sealed
from app.engine.recovery import recover
from app.engine.restoring import judged
from index.distance import norms
from storage import catalogue, errors, pages, snapshot_files, snapshot_take, snapshots
from storage.atomic import remove_all
from storage.catalogue import State
from storage.check import check
from storage.database import Database
from storage.failpoints import watched
from storage.imports import Finished, Import
from storage.info import info
from storage.layout import SEGMENTS_NAME, WRITE_LOCK_NAME
from storage.registry import Aliased, NameTaken, NoSuchName, Registry, mark_dropped
from storage.repair import repair
from storage.turns import Turns
from storage.writes import Turn
from tests.harness import wait_for
from tests.storage.filling import Collection
from tests.storage.snapshotting import filled, left, names, rows, take
from tests.storage.test_registry import SETTINGS, Writer


def empty(made: Collection) -> None:
    """All rows go, and the files with them."""
    with made.publisher.turns.turn(), made.db.writing():
        turn = Turn(made.db, 10**9, 10**12)
        _, gone = turn.delete_all()
        turn.finish()
    remove_all([made.folder.segments / file for file in gone])


def restored(data: Path, name: str, wanted: dict[str, str], *, trusted: bool = True, replace: bool = False) -> None:
    with closing(Registry(data)) as registry:
        folder = snapshots.folder_of(registry, snapshots.find(registry, name))
        snapshots.restore(registry, judged(data, folder, wanted, trusted), replace)


def test_a_snapshot_is_a_data_folder_of_its_moment(tmp_path: Path) -> None:
    made = filled(tmp_path)
    folder, whole = take(tmp_path, "monday")
    made.upsert([1000, 55], metadata=True)
    made.delete([60])
    made.close()
    assert check(folder).findings == [] and check(tmp_path).findings == []
    then, now = rows(folder), rows(tmp_path)
    assert len(then) == whole.collections[0].live == 178
    assert then.keys() - now.keys() == {60} and now.keys() - then.keys() == {1000}
    assert {id_ for id_ in then.keys() & now.keys() if then[id_] != now[id_]} == {55}
    assert "snapshot monday" in info(tmp_path) and "words" in info(folder)


def test_what_never_changes_is_linked_and_the_pages_keep_their_checksums(tmp_path: Path) -> None:
    filled(tmp_path).close()
    folder, whole = take(tmp_path, "monday")
    linked = [entry for entry in whole.files if f"/{SEGMENTS_NAME}/" in entry.path]
    assert len(linked) == 3
    for entry in linked:
        assert (folder / entry.path).samefile(tmp_path / entry.path)
    (copy,) = folder.glob("c/*/catalog.db")
    assert pages.checksummed(copy) and pages.verify(copy) == []
    with copy.open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff")
    assert pages.verify(copy) == [2]


def test_more_pages_than_a_cache_holds(tmp_path: Path) -> None:
    """All in the log, where checksums are old."""
    made = Collection(tmp_path, dimension=128)
    for begin in range(0, 8000, 1000):
        made.upsert(list(range(begin, begin + 1000)), metadata=True)
        made.upsert(list(range(begin, begin + 1000, 7)))
    folder, _ = take(tmp_path, "monday")
    (copy,) = folder.glob("c/*/catalog.db")
    assert copy.stat().st_size > 4 << 20 and pages.verify(copy) == []
    made.close()


def test_pages_without_checksums_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a catalogue that an early version has made."""
    with monkeypatch.context() as early:
        early.setattr(pages, "reserve", lambda connection: None)
        made = Collection(tmp_path)
    for begin in range(0, 9000, 3000):
        made.upsert(list(range(begin, begin + 3000)), metadata=True)
    made.close()
    assert not pages.checksummed(made.folder.catalogue)
    folder, _ = take(tmp_path, "monday")
    (copy,) = folder.glob("c/*/catalog.db")
    assert not pages.checksummed(copy) and check(folder).findings == [] and rows(folder) == rows(tmp_path)


def test_without_hard_links_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(1, "no links here")

    filled(tmp_path).close()
    monkeypatch.setattr(snapshot_files.os, "link", refuse)
    folder, whole = take(tmp_path, "monday")
    restored(tmp_path, "monday", {"again": "words"})
    assert not any((folder / e.path).samefile(tmp_path / e.path) for e in whole.files if SEGMENTS_NAME in e.path)
    assert check(tmp_path).sound and rows(tmp_path, "again") == rows(tmp_path)


def test_files_that_go_before_they_are_linked(tmp_path: Path) -> None:
    """The catalogue's moment names them, and then all is deleted: the moment is taken anew."""
    made = filled(tmp_path)
    hits = 0

    def see(point: str, _: object) -> None:
        nonlocal hits
        hits += point == "snapshot.link"
        if hits == 2:
            hits += 1
            empty(made)
            made.upsert([7])

    with watched(see):
        folder, whole = take(tmp_path, "monday")
    made.close()
    assert whole.collections[0].live == 1 and rows(folder).keys() == {7}
    assert check(folder).findings == []


def test_a_segment_that_is_lost_is_no_merge(tmp_path: Path) -> None:
    made = filled(tmp_path)
    (lost, *_) = sorted(made.folder.segments.glob("*.h5"))
    lost.rename(tmp_path / "elsewhere")
    with pytest.raises(errors.Damaged, match="is gone"):
        take(tmp_path, "monday")
    (tmp_path / "elsewhere").rename(lost)
    made.close()
    assert names(tmp_path)[2] == [] and left(tmp_path) == set()


def test_one_moment_for_all_collections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row goes into `a`, then into `b`: at every moment `b` has as many, or one fewer."""

    def slowly(db: Database, stack: ExitStack) -> State:
        state = begun(db, stack)
        time.sleep(0.05)  # time for several writes
        return state

    begun = snapshot_take._begun
    monkeypatch.setattr(snapshot_take, "_begun", slowly)
    with closing(Registry(tmp_path, create=True)) as registry:
        folders = [registry.folder(registry.create(name, SETTINGS)) for name in ("a", "b")]
    stop, written = threading.Event(), list[int]()

    def write() -> None:
        writers = [Writer(folder) for folder in folders]
        for id_ in range(1_000_000):
            if stop.is_set():
                break
            for writer in writers:
                writer.add(id_)
            written.append(id_)
        for writer in writers:
            writer.close()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        counts = []
        for i in range(4):
            counts.append([c.live for c in take(tmp_path, f"s{i}")[1].collections])
            so_far = len(written)
            wait_for("it is written on", lambda so_far=so_far: not thread.is_alive() or len(written) > so_far)
    finally:
        stop.set()
        thread.join()
    assert counts[-1][0] > counts[0][0], "nothing was written meanwhile"
    assert all(0 <= a - b <= 1 for a, b in counts), counts


def test_a_single_collection_is_taken_without_its_lock(tmp_path: Path) -> None:
    made = filled(tmp_path)
    with closing(Turns(made.folder.root / WRITE_LOCK_NAME)) as turns, turns.turn():
        take(tmp_path, "monday")  # it would wait for ever
    made.close()


def test_names_of_snapshots(tmp_path: Path) -> None:
    filled(tmp_path).close()
    take(tmp_path, "monday")
    with pytest.raises(NameTaken):
        take(tmp_path, "monday")
    with closing(Registry(tmp_path)) as registry:
        snapshots.delete(registry, "monday")
        with pytest.raises(NoSuchName):
            snapshots.delete(registry, "monday")
    assert left(tmp_path) == set() and check(tmp_path).findings == []


def test_restored_under_another_name_it_is_a_collection_of_its_own(tmp_path: Path) -> None:
    made = filled(tmp_path)
    folder, _ = take(tmp_path, "monday")
    made.upsert([9999])
    made.close()
    restored(tmp_path, "monday", {"again": "words"})
    assert rows(tmp_path, "again") == rows(folder) != rows(tmp_path, "words")
    found = names(tmp_path)[0]
    with closing(catalogue.connect(tmp_path / "c" / found["again"])) as db:
        state = catalogue.read_state(db)
        assert catalogue.is_owned(db, state) and state.name == "again"
        assert len([s for s in catalogue.read_segments(db) if s.index is not None]) == 1
    recover(tmp_path)
    assert check(tmp_path).findings == [] and left(tmp_path) == set()


def test_replacing_is_asked_for_and_ends_the_old_one(tmp_path: Path) -> None:
    made = filled(tmp_path)
    folder, _ = take(tmp_path, "monday")
    with pytest.raises(NameTaken):
        restored(tmp_path, "monday", {"words": "words"})
    made.upsert([9999])
    old = names(tmp_path)[0]["words"]
    writer = Writer(made.folder.root)
    restored(tmp_path, "monday", {"words": "words"}, replace=True)
    with pytest.raises(errors.Dropped):
        writer.add(5)  # no write is acknowledged in a folder that no name leads to
    writer.close()
    made.close()
    assert names(tmp_path)[0]["words"] != old and left(tmp_path) == set()
    assert rows(tmp_path) == rows(folder)


def test_all_collections_or_none(tmp_path: Path) -> None:
    for name in ("words", "more"):
        filled(tmp_path, name).close()
    take(tmp_path, "monday")
    with closing(Registry(tmp_path)) as registry:
        registry.drop("more", names(tmp_path)[0]["more"])
    before = names(tmp_path)
    with pytest.raises(NameTaken):
        restored(tmp_path, "monday", {"more": "more", "words": "words"})
    assert names(tmp_path) == before and left(tmp_path) == set()
    restored(tmp_path, "monday", {"more": "more", "words2": "words"})
    assert set(names(tmp_path)[0]) == {"more", "words", "words2"}


@pytest.mark.parametrize("what", ["catalogue", "segment", "manifest", "missing"])
def test_what_is_damaged_is_not_restored_and_check_says_so(tmp_path: Path, what: str) -> None:
    filled(tmp_path).close()
    folder, _ = take(tmp_path, "monday")
    paths = {"catalogue": "c/*/catalog.db", "manifest": "manifest.json"}
    (path, *_) = sorted(folder.glob(paths.get(what, f"c/*/{SEGMENTS_NAME}/*.h5")))
    if what == "missing":
        path.unlink()
    else:
        copy = path.with_name("copy")
        shutil.copyfile(path, copy)  # the collection's own file stays whole
        data = bytearray(copy.read_bytes())
        data[len(data) // 2] ^= 1
        copy.write_bytes(data)
        copy.rename(path)
    before = names(tmp_path)
    with pytest.raises(errors.Damaged):
        restored(tmp_path, "monday", {"again": "words"})
    assert names(tmp_path) == before and left(tmp_path) == set()
    report = check(tmp_path)
    assert not report.sound and all(f.where.startswith("snapshots/monday") for f in report.findings)


def test_a_damaged_index_is_left_behind(tmp_path: Path) -> None:
    filled(tmp_path).close()
    folder, _ = take(tmp_path, "monday")
    (index,) = folder.glob(f"c/*/{SEGMENTS_NAME}/*.faiss")
    index.unlink()
    index.write_bytes(b"something else")
    restored(tmp_path, "monday", {"again": "words"})
    again = tmp_path / "c" / names(tmp_path)[0]["again"]
    assert list(again.glob("*/*.faiss")) == [] and rows(tmp_path, "again") == rows(tmp_path)


def test_a_lost_registry_finds_its_snapshots_again(tmp_path: Path) -> None:
    filled(tmp_path).close()
    take(tmp_path, "monday")
    for path in tmp_path.glob("registry.db*"):
        path.unlink()
    recover(tmp_path)
    assert names(tmp_path)[2] == ["monday"] and check(tmp_path).sound
    with closing(Registry(tmp_path)) as registry:
        (row,) = registry.snapshots()
        assert row.uploaded, "where it came from is not known any more"
    restored(tmp_path, "monday", {"again": "words"}, trusted=False)
    assert rows(tmp_path, "again") == rows(tmp_path)


# -------------------------------------------------------------------- imports under way


def staged(made: Collection, ids: list[int], mode: Literal["add", "upsert"], began: bool = False) -> Import:
    """An import of these ids, as far as its segment; began: the collection was made for it."""
    importing = Import(made.db, made.publisher.turns, made.folder.root, "0" * 32)
    importing.begin(mode, len(ids), began)
    reserved = importing.reserve(len(ids), "int", assign=False)
    vectors = np.ones((len(ids), 8), np.float32)
    keys = np.arange(len(ids), dtype=np.uint64)
    written = write_sealed(made.folder.root, reserved.seq, keys_rel=keys, ids=ids, vectors=vectors, metric="l2")
    if mode == "add":
        assert not len(importing.claim(reserved.first_key, np.array(ids), None))
    else:
        importing.decide([Finished(reserved.seq, written.file, len(ids), written.bytes, written.xxh3)])
    return importing


def test_an_import_that_was_not_through_is_not_in_it(tmp_path: Path) -> None:
    made = filled(tmp_path)
    importing = staged(made, [7000, 7001], "add")
    folder, whole = take(tmp_path, "monday")
    importing.undo()
    made.close()
    restored(tmp_path, "monday", {"again": "words"})
    assert len(rows(folder)) == whole.collections[0].live == 178
    assert rows(tmp_path, "again") == rows(folder) and check(tmp_path).findings == []


def test_an_upsert_that_had_been_decided_is_brought_to_its_end(tmp_path: Path) -> None:
    made = filled(tmp_path)
    importing = staged(made, [60, 7000], "upsert")
    take(tmp_path, "monday")
    while importing.replace():
        pass
    made.close()
    restored(tmp_path, "monday", {"again": "words"})
    assert rows(tmp_path, "again") == rows(tmp_path, "words") and 7000 in rows(tmp_path, "again")
    assert check(tmp_path).findings == []


def test_a_collection_that_an_import_was_making_is_left_out(tmp_path: Path) -> None:
    filled(tmp_path).close()
    made = Collection(tmp_path, "fresh")
    importing = staged(made, [1, 2], "add", began=True)
    take(tmp_path, "monday")
    importing.undo()
    made.close()
    with pytest.raises(errors.Damaged, match="fresh: an import was making it"):
        restored(tmp_path, "monday", {"fresh-again": "fresh"})
    restored(tmp_path, "monday", {"fresh-again": "fresh", "again": "words"})
    assert set(names(tmp_path)[0]) == {"words", "fresh", "again"} and left(tmp_path) == set()


# -------------------------------------------------------------------- the registry


def test_a_repaired_registry_has_its_snapshots_and_aliases(tmp_path: Path) -> None:
    """One page of it is damaged, and what can be read is taken over."""
    filled(tmp_path).close()
    take(tmp_path, "monday")
    with closing(Registry(tmp_path)) as registry:
        registry.point("led", "words")
    path = tmp_path / "registry.db"
    last = path.stat().st_size - 4096
    with path.open("r+b") as file:  # the last page is that of an index that nothing of this is read by
        file.seek(last + 100)
        byte = file.read(1)[0]
        file.seek(last + 100)
        file.write(bytes([byte ^ 1]))
    assert pages.verify(path)
    repair(tmp_path, norms)
    assert names(tmp_path)[1:] == ({"led": "words"}, ["monday"])
    assert check(tmp_path).sound


def test_a_repair_of_a_lost_registry_finds_snapshots(tmp_path: Path) -> None:
    filled(tmp_path).close()
    take(tmp_path, "monday")
    for path in tmp_path.glob("registry.db*"):
        path.unlink()
    assert any("snapshot monday" in note for note in repair(tmp_path, norms).notes)
    assert names(tmp_path)[2] == ["monday"] and check(tmp_path).sound


def test_a_drop_that_was_killed_before_an_alias_came(tmp_path: Path) -> None:
    """Nobody was told that it is dropped, and somebody that the alias leads to it: it stays."""
    made = filled(tmp_path)
    made.close()
    before = rows(tmp_path)
    mark_dropped(made.folder.root)
    with closing(Registry(tmp_path)) as registry:
        registry.point("led", "words")
        with pytest.raises(Aliased, match="led"):
            registry.drop("words", made.folder.root.name)
    mark_dropped(made.folder.root)
    recover(tmp_path)
    assert names(tmp_path)[1] == {"led": "words"} and check(tmp_path).findings == []
    assert rows(tmp_path) == before
