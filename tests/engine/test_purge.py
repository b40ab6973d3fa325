"""What is deleted leaves the disk, worn-out segments are written anew (rule 10), and the log stays bounded (rule 5)."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from app.engine import sealing
from storage.layout import CATALOGUE_NAME, SEGMENTS_NAME
from storage.writes import Batch
from tests.engine.rig import Rig


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(sealing, "TIDY_QUIET_S", 0.0)
    made = Rig(tmp_path / "data", dimension=1500)
    yield made
    made.close()


def marked(ids: list[int], mark: float) -> Batch:
    """Vectors and metadata whose bytes can be found anywhere. Rows longer than a page of SQLite's."""
    vectors = np.full((len(ids), 1500), mark, np.float32)
    return Batch(vectors, ids, [b'{"secret":"%d-%d"}' % (mark, id_) * 1 for id_ in ids])


def found_in(rig: Rig, needle: bytes) -> list[str]:
    return [str(p.relative_to(rig.folder)) for p in rig.folder.rglob("*") if p.is_file() and needle in p.read_bytes()]


def tidied(rig: Rig) -> None:
    for _ in range(200):
        rig.sealing.step()
        if rig.sealing._tidy:
            return
    raise AssertionError("never done")


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("way", ["delete", "upsert", "delete all"])
def test_the_deleted_is_found_nowhere(rig: Rig, way: str, sealed: bool) -> None:
    secret, kept = np.float32(1234.5).tobytes() * 8, np.float32(77.0).tobytes() * 8
    rig.write(lambda turn: turn.add(marked(list(range(60)), 1234.5)))
    rig.write(lambda turn: turn.add(marked(list(range(100, 160)), 77.0)))
    if sealed:
        rig.seal()
    assert found_in(rig, secret) and found_in(rig, b'"1234-5"'), "the search would find it"
    if way == "delete":
        rig.write(lambda turn: turn.delete(list(range(60))))
    elif way == "upsert":
        rig.write(lambda turn: turn.upsert(marked(list(range(60)), 78.0)))
    else:
        _, files = rig.write(lambda turn: turn.delete_all())
        for file in files:
            (rig.folder / SEGMENTS_NAME / file).unlink()
        rig.write(lambda turn: turn.add(marked([1], 77.0)))
    rig.seal()
    rig.merge()
    tidied(rig)
    assert found_in(rig, secret) == [] and found_in(rig, b'"1234-5"') == []
    assert found_in(rig, kept) != []
    assert (rig.folder / (CATALOGUE_NAME + "-wal")).stat().st_size == 0


def test_a_segment_is_written_anew_above_a_fifth_of_dead_rows(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "data")
    rig.upsert(list(range(100)))
    rig.seal()
    (before,) = rig.segments()
    rig.delete(list(range(20)))
    rig.merge()
    assert rig.segments() == [before], "a fifth is not above a fifth"
    rig.delete([20])
    rig.merge()
    (after,) = rig.segments()
    assert after.seq != before.seq and after.rows == 79
    assert rig.files() == sorted(after.files)
    rig.assert_seen(rig.worker())
    rig.assert_sound(notes=False)
    rig.delete(list(range(100)))
    rig.merge()
    assert rig.segments() == [] and rig.files() == [], "all dead: nothing is left to write"
    rig.close()


def test_the_log_stays_small_while_rows_pour_in_without_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time the sealer looks there is enough to seal: it must bring the log home all the same."""
    monkeypatch.setattr(sealing, "CHECKPOINT_BYTES", 64 << 10)
    monkeypatch.setattr(sealing, "FORCED_CHECKPOINT_BYTES", 256 << 10)
    rig = Rig(tmp_path / "data", dimension=256, seal_rows=64)
    worker = rig.worker()
    largest = 0
    for n in range(60):
        rig.upsert(list(range(100 * n, 100 * n + 32)))
        worker.view()
        assert rig.sealing.step(), "there was something to seal"
        largest = max(largest, (rig.folder / (CATALOGUE_NAME + "-wal")).stat().st_size)
    assert largest < 512 << 10
    rig.assert_seen(worker)
    rig.close()


def test_a_reader_that_stands_in_the_way_only_delays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "TIDY_QUIET_S", 0.0)
    rig = Rig(tmp_path / "data")
    rig.upsert([1, 2])
    rig.seal()
    wal = rig.folder / (CATALOGUE_NAME + "-wal")
    reader = rig.building_work.reader
    with reader.reading():
        reader.one("SELECT count(*) FROM items")
        rig.upsert([3])
        rig.seal()
        for _ in range(5):
            rig.sealing.step()
        assert wal.stat().st_size > 0
    tidied(rig)
    assert wal.stat().st_size == 0
    rig.assert_seen(rig.worker())
    rig.close()
