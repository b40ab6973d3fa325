"""What every start begins with: one damaged collection closes alone, derived files are made anew, strays are swept."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.engine.recovery import recover
from storage import catalogue
from storage.check import check
from storage.failpoints import armed
from storage.layout import SEGMENTS_NAME
from storage.registry import Registered, Registry
from tests.bits import flip
from tests.engine.rig import Rig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """The collection "c" with a segment, an index and pending rows; "other" is sound all the time."""
    made = Rig(tmp_path / "data", index="hnsw", index_min_rows=256)
    made.registry.create("other", catalogue.read_settings(made.db))
    made.upsert(list(range(300)))
    made.seal()
    made.merge()
    made.upsert([5, 1000])
    yield made
    made.close()


def registered(rig: Rig) -> dict[str, Registered]:
    return {r.name: r for r in rig.registry.read()}


def path_of(rig: Rig, kind: str) -> Path:
    (row,) = rig.segments()
    assert row.index is not None
    return rig.folder / SEGMENTS_NAME / (row.file if kind == "segment" else row.index.file)


def test_a_sound_folder_stays_as_it_is(rig: Rig) -> None:
    before = rig.files()
    recover(rig.data)
    assert rig.files() == before and [r.reason for r in rig.registry.read()] == [None, None]
    rig.assert_sound(notes=False)
    rig.assert_seen(rig.worker())


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.999])
def test_a_flipped_bit_closes_that_collection_alone(rig: Rig, share: float) -> None:
    path = path_of(rig, "segment")
    at = int(share * path.stat().st_size)
    flip(path, at)
    recover(rig.data)
    reason = registered(rig)["c"].reason
    assert reason is not None and path.name in reason and "seedvec check" in reason
    assert registered(rig)["other"].reason is None
    flip(path, at)
    recover(rig.data)
    assert registered(rig)["c"].reason is None, "repaired by hand, it opens again"
    rig.assert_seen(rig.worker())


def test_a_segment_that_is_gone_or_cut(rig: Rig) -> None:
    path = path_of(rig, "segment")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    recover(rig.data)
    assert "bytes instead of" in str(registered(rig)["c"].reason)
    path.unlink()
    recover(rig.data)
    assert "is gone" in str(registered(rig)["c"].reason)


@pytest.mark.parametrize("damage", ["header", "pages", "table", "missing", "folder"])
def test_a_damaged_catalogue_closes_that_collection_alone(rig: Rig, damage: str) -> None:
    (uuid,) = (r.uuid for r in rig.registry.read() if r.name == "other")
    folder = rig.registry.folder(uuid)
    db = catalogue.connect(folder)
    if damage == "table":
        db.execute("DROP TABLE state")
    db.truncate_log()
    db.close()
    file = folder / "catalog.db"
    if damage == "header":
        flip(file, 3)
    elif damage == "pages":
        file.write_bytes(file.read_bytes()[:100] + os.urandom(file.stat().st_size - 100))
    elif damage == "missing":
        file.unlink()
    elif damage == "folder":
        shutil.rmtree(folder)
    recover(rig.data)
    assert registered(rig)["other"].reason is not None and registered(rig)["c"].reason is None
    rig.assert_seen(rig.worker())


@pytest.mark.parametrize("gone", [False, True])
def test_a_damaged_index_is_forgotten_and_built_anew(rig: Rig, gone: bool) -> None:
    path = path_of(rig, "index")
    if gone:
        path.unlink()
    else:
        flip(path, path.stat().st_size // 2)
    recover(rig.data)
    assert registered(rig)["c"].reason is None and not path.exists()
    assert [row.index for row in rig.segments()] == [None]
    worker = rig.worker()
    rig.assert_seen(worker)
    rig.merge()
    (row,) = rig.segments()
    assert row.index is not None
    recover(rig.data)
    assert [row.index for row in rig.segments()] == [row.index]
    rig.assert_seen(worker)


def test_what_nothing_names_is_swept(rig: Rig) -> None:
    before = rig.files()
    for name in ("000099-x.h5", "000099-x.h5.tmp", "000099-x.hnsw-1.faiss"):
        (rig.folder / SEGMENTS_NAME / name).touch()
    recover(rig.data)
    assert rig.files() == before


def test_a_missing_lock_file_is_made_again(rig: Rig) -> None:
    (rig.folder / "write.lock").unlink()
    recover(rig.data)
    rig.worker()
    assert (rig.folder / "write.lock").exists()


def test_a_sealing_that_stopped_before_its_transaction(rig: Rig) -> None:
    with armed("seal.commit:eio"), pytest.raises(OSError, match="failpoint"):
        rig.seal()
    rig.assert_seen(rig.worker())
    recover(rig.data)
    rig.assert_sound(notes=False)
    rig.seal()
    rig.assert_seen(rig.worker())


def test_a_new_folder(tmp_path: Path) -> None:
    recover(tmp_path)
    assert check(tmp_path).findings == []
    Registry(tmp_path).close()


def test_deaths_that_a_killed_merge_left_behind_are_cleared(rig: Rig) -> None:
    (row,) = rig.segments()
    rig.delete([next(iter(rig.model))])
    here = catalogue.read_sealed_deaths(rig.db).tolist()
    connection = catalogue.connect(rig.folder)
    with connection.writing():
        state = catalogue.read_state(connection)
        gone = row.base_key + row.span + 7
        connection.execute("INSERT INTO deaths VALUES (?, ?, 0)", (gone, state.log_pos + 1))
        connection.execute("UPDATE state SET log_pos = log_pos + 1, next_key = ?", (gone + 1,))
    recover(rig.data)
    assert catalogue.read_sealed_deaths(connection).tolist() == here != []
    connection.close()
    rig.assert_sound(notes=False)
