"""`seedvec check` finds what is wrong, says where, and finds nothing where nothing is."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from seedvec.segment import open_segment
from storage import check_rows
from storage.catalogue import SegmentRow
from storage.check import Report, check
from storage.layout import segment_name
from storage.registry import Registry
from tests.bits import flip
from tests.storage.filling import Collection


@pytest.fixture(params=["int", "str"])
def filled(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Collection]:
    """Two segments, pending rows, deaths in each of them, metadata, an index."""
    ids = list(range(100, 2000)) if request.param == "int" else [f"ä{i}" for i in range(100, 2000)]
    made = Collection(tmp_path / "data")
    made.upsert(ids[:1000], metadata=True)
    made.delete(ids[10:20])
    made.add_index(made.seal(), b"not Faiss, but what the catalogue says")
    made.upsert(ids[500:1500])
    made.delete(ids[600:610])
    made.seal()
    made.upsert(ids[1500:], metadata=True)
    made.upsert(ids[:5])
    made.delete(ids[1500:1510])
    yield made
    made.close()


def judged(made: Collection) -> Report:
    return check(made.data.root)


def segments(made: Collection) -> list[SegmentRow]:
    return [
        SegmentRow(*r) for r in made.db.execute("SELECT seq, file, rows, base_key, span, bytes, xxh3 FROM segments")
    ]


def errors(report: Report) -> str:
    return "\n".join(str(f) for f in report.findings if f.severity == "error")


def test_a_sound_folder_has_no_findings(filled: Collection) -> None:
    report = judged(filled)
    assert report.findings == [] and report.sound
    assert report.live == len(range(100, 2000)) - 30 and report.collections == 1
    assert report.bytes == sum(p.stat().st_size for p in filled.folder.segments.iterdir())


def test_rows_are_fetched_in_parts(filled: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in (1, 7, 1870):
        monkeypatch.setattr(check_rows, "FETCH_ROWS", part)
        assert judged(filled).findings == []


def test_an_empty_folder_and_an_empty_collection_are_sound(tmp_path: Path) -> None:
    Registry(tmp_path, create=True).close()
    assert check(tmp_path).findings == []
    Collection(tmp_path / "one").close()
    assert check(tmp_path / "one").findings == []


def test_offline_it_is_the_same(filled: Collection, tmp_path: Path) -> None:
    shutil.copytree(filled.data.root, tmp_path / "copy")
    assert check(tmp_path / "copy").findings == []


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    assert "no data folder" in errors(check(tmp_path))
    with pytest.raises(FileNotFoundError):
        check(tmp_path / "absent")


# ---------------------------------------------------------------- files


def test_a_flipped_bit_is_found_with_its_rows(tmp_path: Path) -> None:
    """Rows of 4 KiB: block 1 of the file holds rows that can be told beforehand."""
    made = Collection(tmp_path / "data", dimension=1024)
    made.upsert(list(range(1000)))
    row = made.seal()
    path = made.folder.segments / row.file
    offset = open_segment(path).extents["vectors"].offset
    flip(path, (1 << 20) + 5)
    report = judged(made)
    first, last = ((1 << 20) - offset) // 4096, ((2 << 20) - 1 - offset) // 4096
    assert f"damaged in block 1 (bytes 1,048,576 to 2,097,152): vectors of rows {first} to {last}" in errors(report)
    assert not report.sound and row.file in errors(report) and "restore the file" in errors(report)
    assert len([f for f in report.findings if f.severity == "error"]) == 1, "keys and ids are whole: no rows are missed"
    made.close()


@pytest.mark.parametrize("dataset", ["vectors", "keys", "norms", "ids", "id_bytes", "id_offsets", "block_xxh3"])
def test_a_flipped_bit_anywhere(filled: Collection, dataset: str) -> None:
    path = filled.folder.segments / segments(filled)[0].file
    extents = open_segment(path).extents
    if dataset not in extents:
        dataset = "ids"  # int ids have no bytes and offsets
    if dataset not in extents:
        dataset = "id_bytes"
    flip(path, extents[dataset].offset + 1)
    report = judged(filled)
    assert not report.sound and path.name in errors(report)
    where = {"id_bytes": "ids (their bytes", "block_xxh3": "damaged in block 0"}.get(dataset, f"{dataset} of rows")
    assert where in errors(report)


def test_a_flipped_bit_in_the_headers(filled: Collection) -> None:
    path = filled.folder.segments / segments(filled)[0].file
    for at in (0, 20, 60, 100):
        flip(path, at)
        assert path.name in errors(judged(filled))
        flip(path, at)
    assert judged(filled).sound


def test_a_cut_and_a_longer_segment(filled: Collection) -> None:
    path = filled.folder.segments / segments(filled)[1].file
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    assert f"has {len(whole) - 8:,} bytes and should have {len(whole):,}" in errors(judged(filled))
    path.write_bytes(whole + b"\0")
    assert f"has {len(whole) + 1:,} bytes" in errors(judged(filled))


def test_a_segment_that_is_gone(filled: Collection) -> None:
    row = segments(filled)[0]
    (filled.folder.segments / row.file).unlink()
    found = errors(judged(filled))
    assert f"cannot be opened (No such file or directory); it held {row.rows:,} rows" in found
    # 1000 were sealed less 10 deleted; 500 were upserted since, and 5 again.
    assert "it held the vectors of 485 live ids" in found
    assert "neither in a segment nor pending" not in found, "said once, and of that segment"


def test_another_segment_under_its_name(filled: Collection) -> None:
    one, two = segments(filled)
    shutil.copy(filled.folder.segments / two.file, filled.folder.segments / one.file)
    assert one.file in errors(judged(filled))


def test_index_files_are_derived(filled: Collection) -> None:
    index = next(filled.folder.segments.glob("*.faiss"))
    flip(index, 3)
    report = judged(filled)
    assert report.sound and [f.severity for f in report.findings] == ["warning"]
    assert index.name in str(report) and "damaged" in str(report)
    index.write_bytes(b"")
    assert "has 0 bytes" in str(judged(filled)) and judged(filled).sound
    index.unlink()
    assert "cannot be opened" in str(judged(filled)) and judged(filled).sound


def test_strays_are_noted(filled: Collection) -> None:
    strays = [
        filled.folder.segments / "000009-x.h5.tmp",
        filled.folder.segments / "000009-x.h5",
        filled.data.collections / "feed",
        filled.data.root / "notes.txt",
        filled.folder.root / "catalog.db.bak",
    ]
    for stray in strays:
        stray.touch()
    report = judged(filled)
    assert report.sound and {f.severity for f in report.findings} == {"note"}
    assert sorted(f.where.split("/")[-1] for f in report.findings) == sorted(s.name for s in strays)


# ---------------------------------------------------------------- rows and counters

SQL_DAMAGE: dict[str, tuple[str, str]] = {
    "an item lost": ("DELETE FROM items WHERE key = 30", "key 30 is neither live nor recorded as dead"),
    "an item of a pending row lost": ("DELETE FROM items WHERE key > 2400", "is pending, but not live"),
    "a death lost": ("DELETE FROM deaths WHERE key = 550", "is neither live nor recorded as dead"),
    "a live key dead": ("INSERT INTO deaths VALUES (30, 100000, 0)", "keys 30 are live and recorded as dead"),
    "a pending key dead": ("INSERT INTO deaths SELECT max(key), 100000, 0 FROM pending", "are pending and recorded as"),
    "a pending row lost": ("DELETE FROM pending WHERE key = 2300", "1 live ids have no vector"),
    "a segment forgotten": ("DELETE FROM segments WHERE seq = 1", "live ids have no vector"),
    "two ids of one key": ("UPDATE items SET key = 30 WHERE key = 31", "several ids share the keys 30"),
    "ids exchanged": ("UPDATE items SET key = 61 - key WHERE key IN (30, 31)", "the ids of keys 30, 31 differ"),
    "a pending id": ("UPDATE pending SET id = (SELECT min(id) FROM items) WHERE key = 2300", "the ids of keys 2300"),
    "metadata of the dead": ("INSERT INTO metadata VALUES (11, '{}')", "metadata for keys that are not live: 11"),
    "a short vector": ("UPDATE pending SET vector = x'00' WHERE key = 2300", "wrong length"),
    "next_key": ("UPDATE state SET next_key = 2300", "next_key is 2300"),
    "log_pos": ("UPDATE state SET log_pos = 3", "log_pos is 3"),
    "trimmed_pos": ("UPDATE state SET trimmed_pos = 100000", "trimmed_pos is 100000"),
    "next_seq": ("UPDATE state SET next_seq = 2", "next_seq is 2"),
    "live": ("UPDATE state SET live = live + 1", "live is 1,871, but there are 1,870"),
    "pending_rows": ("UPDATE state SET pending_rows = 0", "pending_rows is 0"),
    "pending_bytes": ("UPDATE state SET pending_bytes = pending_bytes + 1", "pending_bytes is"),
    "span": ("UPDATE segments SET span = 5 WHERE seq = 1", "beyond its span of 5"),
    "rows": ("UPDATE segments SET rows = 5 WHERE seq = 1", "rows 990, but 5 in the catalogue"),
    "length": ("UPDATE segments SET bytes = 5 WHERE seq = 1", "should have 5"),
    "dimension": ("UPDATE settings SET dimension = 9", "dimension 8, but 9"),
    "metric": ("UPDATE settings SET metric = 'dot'", "metric l2, but dot"),
    "no state": ("DELETE FROM state", "no state"),
    "a table lost": ("DROP TABLE deaths", "no such table"),
    "the version": ("PRAGMA user_version = 9", "format version 9"),
    "another's": ("PRAGMA application_id = 7", "not ours"),
    "a key that is none": ("UPDATE items SET key = 'x' WHERE key = 30", "of another type than integer"),
}


@pytest.mark.parametrize("what", SQL_DAMAGE)
def test_a_catalogue_that_lies(filled: Collection, what: str) -> None:
    sql, found = SQL_DAMAGE[what]
    filled.sql(sql)
    report = judged(filled)
    assert not report.sound
    assert found in errors(report)


def test_next_id(tmp_path: Path) -> None:
    made = Collection(tmp_path / "data")
    made.upsert([5, 2**63 - 1])
    assert judged(made).sound
    made.sql("DELETE FROM items WHERE id > 5")
    made.sql("UPDATE state SET next_id = 5")
    assert "next_id is 5, but id 5 was given" in errors(judged(made))
    made.close()


def test_a_row_stored_twice(filled: Collection) -> None:
    one = segments(filled)[0]
    shutil.copy(filled.folder.segments / one.file, filled.folder.segments / "copy.h5")
    filled.sql(
        "INSERT INTO segments SELECT 9, 'copy.h5', rows, base_key, span, bytes, xxh3 FROM segments WHERE seq = ?",
        one.seq,
    )
    filled.sql("UPDATE state SET next_seq = 10")
    assert "are stored twice" in errors(judged(filled))


def test_deaths_of_keys_that_no_segment_holds_are_leftovers(filled: Collection) -> None:
    filled.sql("INSERT INTO deaths SELECT 11, log_pos + 1, 0 FROM state")
    filled.sql("UPDATE state SET log_pos = log_pos + 1")
    report = judged(filled)
    assert report.sound and "1 recorded deaths are of keys that no segment holds" in str(report)


# ---------------------------------------------------------------- databases and folders


def test_a_damaged_catalogue_is_said_and_others_are_still_judged(filled: Collection) -> None:
    other = Collection(filled.data.root, name="other")
    other.upsert([1, 2, 3])
    other.db.connection.wal_checkpoint()
    other.close()
    for page in range(1, os.path.getsize(other.folder.catalogue) // 4096):
        flip(other.folder.catalogue, page * 4096 + 3)
    report = judged(filled)
    assert {f.where for f in report.findings if f.severity == "error"} == {"other/catalog.db"}
    assert report.collections == 2 and report.live > 1000


def test_a_collection_without_its_folder(filled: Collection) -> None:
    shutil.rmtree(filled.folder.root)
    assert "catalog.db is missing" in errors(judged(filled))


def test_a_damaged_registry(filled: Collection) -> None:
    filled.data.registry.write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    assert "registry.db" in errors(judged(filled))


def test_a_closed_collection_is_a_warning(filled: Collection) -> None:
    registry = Registry(filled.data.root)
    registry.set_reason(filled.folder.root.name, "segment 3 is damaged")
    registry.close()
    report = judged(filled)
    assert report.sound and "closed when the server started: segment 3 is damaged" in str(report)


# ---------------------------------------------------------------- beside a server


def test_beside_writers_and_merges_nothing_is_found(tmp_path: Path) -> None:
    """Segments come and go (delete-all unlinks them) while the folder is judged again and again."""
    made = Collection(tmp_path / "data")
    stop = threading.Event()
    checks = 0

    def judge() -> None:
        nonlocal checks
        while not stop.is_set():
            report = check(made.data.root)
            assert report.sound, str(report)
            checks += 1

    failures: list[BaseException] = []
    thread = threading.Thread(target=_catching(judge, failures))
    thread.start()
    try:
        for _ in range(25):
            _replace_all(made)
    finally:
        stop.set()
        thread.join()
    assert not failures, failures
    assert checks > 2
    made.close()


def test_a_segment_that_is_replaced_faster_than_all_are_opened(tmp_path: Path) -> None:
    """A builder beside: each time the check comes to the newest of many segments, another has taken its place."""
    made = Collection(tmp_path / "data")
    for n in range(60):
        made.upsert([f"{n}"])
        made.seal()
    stop = threading.Event()
    failures: list[BaseException] = []

    def replace() -> None:
        while not stop.is_set():
            newest = segments(made)[-1]
            name = segment_name(newest.seq)
            os.link(made.folder.segments / newest.file, made.folder.segments / name)
            with made.db.writing():
                made.db.execute("UPDATE segments SET file = ? WHERE seq = ?", (name, newest.seq))
            (made.folder.segments / newest.file).unlink()

    thread = threading.Thread(target=_catching(replace, failures))
    thread.start()
    try:
        reports = [check(made.data.root) for _ in range(3)]
    finally:
        stop.set()
        thread.join()
    assert not failures, failures
    assert all(report.sound for report in reports), reports[0].findings[:3]
    made.close()


def _catching(act: Callable[[], None], into: list[BaseException]) -> Callable[[], None]:
    def run() -> None:
        try:
            act()
        except BaseException as e:  # carried to the test's own thread
            into.append(e)

    return run


def _replace_all(made: Collection) -> None:
    """What a merge does, as far as files go: a new segment takes the place of the old ones, which are unlinked."""
    made.upsert(list(range(300)), metadata=True)
    made.delete(list(range(0, 300, 7)))
    old = segments(made)
    with made.db.writing():
        made.db.execute("DELETE FROM segments")
        made.db.execute("DELETE FROM deaths WHERE pending = 0")
    for row in old:
        (made.folder.segments / row.file).unlink()
    made.seal()
