"""`seedvec repair`: what checksums prove comes back bit for bit, what is lost is listed, and nothing is made up."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.folder_command import main
from index.distance import norms
from seedvec import segment as fmt
from seedvec.segment import open_segment
from storage import catalogue, pages
from storage.check import check
from storage.hashing import BLOCK_BYTES
from storage.layout import DataFolder
from storage.lock import LockHeld, acquire
from storage.registry import Registry
from storage.repair import repair
from storage.repair_report import RepairReport
from storage.writes import Turn
from tests.bits import flip
from tests.storage.filling import Collection

ROWS = 9_000
DIMENSION = 64
"""2.3 MB of vectors: three blocks."""

Stored = dict[Any, tuple[bytes, bytes | None]]


def stored(data: Path, name: str = "words") -> Stored:
    """id → vector, metadata: everything live, read by nothing but the formats' own words."""
    registry = Registry(data)
    folder = registry.folder(next(r.uuid for r in registry.read() if r.name == name))
    registry.close()
    db = catalogue.connect(folder)
    vectors: dict[int, bytes] = {key: bytes(v) for key, v in db.execute("SELECT key, vector FROM pending")}
    for row in catalogue.read_segments(db):
        file = open_segment(folder / "segments" / row.file)
        vectors |= {row.base_key + int(k): v.tobytes() for k, v in zip(file.keys_rel, file.vectors, strict=True)}
    metadata = dict(db.execute("SELECT key, json FROM metadata"))
    found = {id_: (vectors[key], metadata.get(key)) for id_, key in db.execute("SELECT id, key FROM items")}
    db.close()
    return found


def contents(root: Path) -> dict[str, bytes]:
    """Every file, but for what SQLite keeps beside a database that is read, and the lock."""
    files = (p for p in root.rglob("*") if p.is_file() and p.name != "LOCK" and not p.name.endswith(("-shm", "-wal")))
    return {str(p.relative_to(root)): p.read_bytes() for p in files}


@pytest.fixture(params=["int", "str"])
def filled(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Collection]:
    """A large segment with deaths, a small one, and pending rows; metadata on half of them."""
    made = Collection(tmp_path / "data", dimension=DIMENSION)
    ids: list[Any] = [i if request.param == "int" else f"wörd {i}" for i in range(ROWS + 60)]
    made.upsert(ids[:ROWS], metadata=True)
    made.seal()
    made.upsert(ids[ROWS : ROWS + 20])
    made.delete(ids[5:10])
    made.upsert(ids[10:12], metadata=True)
    made.seal()
    made.upsert(ids[ROWS + 20 : ROWS + 40], metadata=True)
    made.db.truncate_log()
    yield made
    made.close()


def segment_path(made: Collection, number: int = 0) -> Path:
    return made.folder.segments / catalogue.read_segments(made.db)[number].file


def assert_saved(data: Path, before: Stored, report: RepairReport) -> set[Any]:
    """What is there is as it was; what is not is listed; the folder is sound. Returns the ids lost."""
    found = check(data)
    assert found.sound, str(found)
    after = stored(data)
    (mine,) = [c for c in report.collections if c.name == "words"]
    assert mine.live == len(after)
    gone = {loss.id for loss in mine.losses if loss.what == "vector"}
    bare = {loss.id for loss in mine.losses if loss.what == "metadata"}
    assert set(before) - set(after) == gone
    for id_, (vector, metadata) in after.items():
        assert before[id_][0] == vector
        assert metadata == (None if id_ in bare else before[id_][1])
    return gone


def test_a_sound_folder_is_left_alone(filled: Collection) -> None:
    before = contents(filled.data.root)
    report = repair(filled.data.root, norms)
    assert report.complete and report.kept_in is None
    assert [c.outcome for c in report.collections] == ["sound"]
    assert contents(filled.data.root) == before


@pytest.mark.parametrize("version", [2, catalogue.VERSION + 1])
def test_a_folder_of_another_version_is_left_alone(filled: Collection, version: int) -> None:
    """It is not damaged: serving it once brings it up to date, where repairing it lost all metadata."""
    filled.db.execute(f"PRAGMA user_version = {version}")
    filled.db.truncate_log()
    before = contents(filled.data.root)
    report = repair(filled.data.root, norms)
    assert not report.complete and report.kept_in is None
    assert [c.outcome for c in report.collections] == ["left"]
    assert f"format version {version}" in str(report) and "seedvec repair" not in str(check(filled.data.root))
    assert contents(filled.data.root) == before


def test_queries_given_to_calibrate_on_are_saved(filled: Collection) -> None:
    queries = np.random.default_rng(1).standard_normal((200, DIMENSION)).astype(np.float32)
    with filled.db.writing():
        turn = Turn(filled.db, 10**9, 10**12)
        turn.set_calibration_queries(queries)
        turn.finish()
    filled.db.truncate_log()
    before = stored(filled.data.root)
    flip(segment_path(filled), BLOCK_BYTES + 100)
    assert_saved(filled.data.root, before, repair(filled.data.root, norms))
    (folder,) = filled.data.collections.iterdir()
    db = catalogue.connect(folder)
    assert (catalogue.read_calibration_queries(db) == queries).all() and catalogue.read_state(db).queries_seq == 1
    db.close()


@pytest.mark.parametrize("block", [0, 1, 2])
def test_only_the_rows_of_a_damaged_block_are_lost(filled: Collection, block: int) -> None:
    data, before, path = filled.data.root, stored(filled.data.root), segment_path(filled)
    file = open_segment(path)
    vectors = file.extents[fmt.VECTORS]
    low, high = block * BLOCK_BYTES - vectors.offset, (block + 1) * BLOCK_BYTES - vectors.offset
    hit = {row for row in range(ROWS) if row * DIMENSION * 4 < high and (row + 1) * DIMENSION * 4 > low}
    flip(path, block * BLOCK_BYTES + 30_000 if block else 1)
    dry = repair(data, norms, dry_run=True)
    assert dry.kept_in is None and not check(data).sound
    report = repair(data, norms)
    assert not report.complete
    if block == 2:  # keys, norms and ids lie here too
        assert len(assert_saved(data, before, report)) >= len(hit) - 7
        return
    ids = list(file.ids_at(range(ROWS)))
    assert assert_saved(data, before, report) == {ids[row] for row in hit if not 5 <= row < 12}
    assert [c.losses for c in report.collections] == [c.losses for c in dry.collections]
    assert report.kept_in is not None
    kept = json.loads((report.kept_in / "report.json").read_text())
    assert len(kept["collections"][0]["losses"]) == len(report.collections[0].losses)
    assert (report.kept_in / filled.folder.root.name / "segments" / path.name).exists()


def test_another_segment_in_its_place_is_not_taken_for_it(filled: Collection, tmp_path: Path) -> None:
    data, before, path = filled.data.root, stored(filled.data.root), segment_path(filled)
    other = Collection(tmp_path / "other", dimension=DIMENSION)
    other.random = np.random.default_rng(8)
    ids = list(open_segment(path).ids_at(range(ROWS)))
    other.upsert(ids, metadata=True)
    other.seal()
    shutil.copy(segment_path(other), path)
    other.close()
    report = repair(data, norms)
    assert len(assert_saved(data, before, report)) == ROWS - 7


def test_a_segment_that_is_gone_or_cut(filled: Collection) -> None:
    data, before, path = filled.data.root, stored(filled.data.root), segment_path(filled)
    os.truncate(path, path.stat().st_size // 2)
    report = repair(data, norms)
    assert len(assert_saved(data, before, report)) == ROWS - 7
    assert sum(loss.what == "vector" for loss in report.collections[0].losses) == ROWS - 7


def page_of(path: Path, needle: bytes) -> int:
    raw = path.read_bytes()
    return raw.index(needle) // 4096


def test_a_damaged_page_of_metadata(filled: Collection) -> None:
    data, before = filled.data.root, stored(filled.data.root)
    page = page_of(filled.folder.catalogue, b'{"n":4242}')
    filled.close()
    flip(filled.folder.catalogue, page * 4096 + 2000)
    assert pages.verify(filled.folder.catalogue) == [page + 1]
    report = repair(data, norms)
    assert assert_saved(data, before, report) == set()
    bare = [loss for loss in report.collections[0].losses if loss.what == "metadata"]
    assert 0 < len(bare) < 1000 and len(bare) == len(report.collections[0].losses)
    filled.db = catalogue.connect(filled.folder.root) if filled.folder.root.exists() else filled.db


@pytest.mark.parametrize("seed", range(8))
def test_random_pages_of_the_catalogue(filled: Collection, seed: int) -> None:
    data, before = filled.data.root, stored(filled.data.root)
    dead = {5, 6, 7, 8, 9}
    filled.close()
    path = filled.folder.catalogue
    random = np.random.default_rng(seed)
    count = path.stat().st_size // 4096
    for page in random.integers(1, count, size=3).tolist():
        flip(path, page * 4096 + int(random.integers(4096)))
    report = repair(data, norms)
    found = check(data)
    assert found.sound, str(found)
    after = stored(data)
    (mine,) = report.collections
    gone = {loss.id for loss in mine.losses if loss.what == "vector"}
    doubtful = {loss.id for loss in mine.losses if loss.what == "doubtful"}
    bare = {loss.id for loss in mine.losses if loss.what == "metadata"}
    assert set(before) - set(after) <= gone | doubtful
    risen = set(after) - set(before)
    assert risen <= doubtful and len(risen) <= len(dead)
    for id_, (vector, metadata) in after.items():
        if id_ not in doubtful:
            assert (vector, None if id_ in bare else metadata) == (before[id_][0], metadata)


@pytest.mark.parametrize("how", ["gone", "header", "empty"])
def test_without_a_catalogue_the_segments_are_what_is_left(filled: Collection, how: str) -> None:
    data, before = filled.data.root, stored(filled.data.root)
    filled.close()
    if how == "gone":
        filled.folder.catalogue.unlink()
    elif how == "header":
        flip(filled.folder.catalogue, 3)
    else:
        filled.folder.catalogue.write_bytes(b"")
    report = repair(data, norms)
    assert check(data).sound
    after = stored(data)
    assert len(after) == ROWS + 20 and all(metadata is None for _, metadata in after.values())
    (mine,) = report.collections
    doubtful = {loss.id for loss in mine.losses if loss.what == "doubtful"}
    assert doubtful == set(after), "each may have been deleted"
    same = [id_ for id_ in after if id_ in before and after[id_][0] == before[id_][0]]
    assert len(same) == len(after) - 5, "all but the five that were deleted: keys say which is the newest"


def test_a_log_that_was_lost(filled: Collection) -> None:
    """Two commits are in the log alone; the first of them deletes."""
    data, before = filled.data.root, stored(filled.data.root)
    old = filled.folder.catalogue.read_bytes()
    some = list(before)[:3]
    filled.delete(some)
    filled.close()
    filled.folder.catalogue.write_bytes(old)
    found = check(data)
    assert not found.sound
    report = repair(data, norms)
    assert check(data).sound and not any("lacks" in str(f) for f in check(data).findings)
    assert stored(data) == before, "that they were deleted is lost, and said"
    saved = report.collections[0]
    assert saved.forgotten >= len(some) and any("cannot be known" in line for line in saved.lines())


@pytest.mark.parametrize("how", ["gone", "damaged", "empty"])
def test_a_registry_is_made_anew(filled: Collection, how: str) -> None:
    data, before = filled.data.root, stored(filled.data.root)
    path = DataFolder(data).registry
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    if how == "gone":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    else:
        flip(path, path.stat().st_size // 2)
        flip(path, 200)
    report = repair(data, norms)
    assert report.complete and stored(data) == before and check(data).sound


def test_beside_a_server_it_says_so(filled: Collection, capsys: pytest.CaptureFixture[str]) -> None:
    held = acquire(filled.data.root)
    try:
        with pytest.raises(LockHeld):
            repair(filled.data.root, norms)
        assert main(["repair", str(filled.data.root)]) == 2
        assert "stop it first" in capsys.readouterr().err
    finally:
        held.release()


def test_the_command(filled: Collection, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(filled.data.root)
    assert main(["repair", data]) == 0
    flip(segment_path(filled), BLOCK_BYTES + 1)
    assert main(["repair", data, "--dry-run", "--json"]) == 1
    capsys.readouterr()
    assert main(["repair", data, "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["collections"][0]["outcome"] == "repaired" and not said["complete"]
    assert main(["repair", data]) == 0


def test_norms_are_the_products_own(filled: Collection) -> None:
    """Distances under cosine are computed from them, and must not change by a bit."""
    path = segment_path(filled)
    vectors: NDArray[Any] = np.array(open_segment(path).vectors)
    flip(path, BLOCK_BYTES + 1)
    repair(filled.data.root, norms)
    registry = Registry(filled.data.root)
    folder = registry.folder(registry.read()[0].uuid)
    registry.close()
    db = catalogue.connect(folder)
    new = open_segment(folder / "segments" / catalogue.read_segments(db)[0].file)
    db.close()
    assert (new.norms == norms(np.array(new.vectors))).all()
    assert new.rows < len(vectors)
