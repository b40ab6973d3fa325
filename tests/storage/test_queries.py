"""The kept sample of real queries, and those given to calibrate on: what is read back, and what is passed over."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from storage import catalogue, errors, remembered
from storage.check import check
from storage.failpoints import armed
from storage.info import info
from storage.layout import QUERIES_NAME, WRITE_LOCK_NAME
from storage.queries import (
    MAX_BYTES,
    MAX_GIVEN,
    Sample,
    Unreadable,
    forget_sample,
    read_file,
    read_sample,
    stamp,
    write_sample,
)
from storage.writes import Turn
from tests.storage.filling import Collection

DIMENSION = 8


def sample(n: int, at: float, first: int = 0) -> Sample:
    """Query i is all `first + i`, asked at `at + i`."""
    vectors = np.arange(first, first + n, dtype=np.float32)[:, None] * np.ones(DIMENSION, np.float32)
    return Sample(vectors, at + np.arange(n, dtype=np.float64))


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Collection]:
    made = Collection(tmp_path / "data", dimension=DIMENSION)
    made.upsert(list(range(40)))
    made.seal()
    yield made
    made.close()


def give(c: Collection, queries: NDArray[np.float32]) -> int:
    with c.db.writing():
        turn = Turn(c.db, 10**9, 10**12)
        kept = turn.set_calibration_queries(queries)
        turn.finish()
    c.publisher.turns.remember(turn.state)
    return kept


# -------------------------------------------------------------------- the sample


def test_the_samples_of_all_workers_are_read_newest_first(tmp_path: Path) -> None:
    write_sample(tmp_path, "worker-1", sample(3, at=100.0))
    write_sample(tmp_path, "worker-2", sample(2, at=101.5, first=10))
    assert read_sample(tmp_path)[:, 0].tolist() == [11, 2, 10, 1, 0]
    write_sample(tmp_path, "worker-1", sample(1, at=200.0, first=20))
    assert read_sample(tmp_path)[:, 0].tolist() == [20, 11, 10]
    assert sorted(p.name for p in (tmp_path / QUERIES_NAME).iterdir()) == ["worker-1.npz", "worker-2.npz"]


def test_numpy_alone_reads_a_sample(tmp_path: Path) -> None:
    write_sample(tmp_path, "worker-1", sample(3, at=100.0))
    with np.load(tmp_path / QUERIES_NAME / "worker-1.npz") as file:
        assert file["vectors"].dtype == np.float32 and file["vectors"].shape == (3, DIMENSION)
        assert file["times"].tolist() == [100.0, 101.0, 102.0]


def test_where_nothing_was_kept_the_sample_is_empty(tmp_path: Path) -> None:
    assert len(read_sample(tmp_path)) == 0 and stamp(tmp_path) == ()


def test_the_stamp_differs_whenever_the_sample_was_written(tmp_path: Path) -> None:
    write_sample(tmp_path, "worker-1", sample(3, at=100.0))
    first = stamp(tmp_path)
    assert first == stamp(tmp_path)
    write_sample(tmp_path, "worker-1", sample(3, at=100.0))
    assert stamp(tmp_path) != first


def test_every_flipped_byte_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    whole = sample(3, at=100.0)
    write_sample(tmp_path, "worker-1", whole)
    path = tmp_path / QUERIES_NAME / "worker-1.npz"
    raw = path.read_bytes()
    noticed = 0
    for place in range(len(raw)):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 0x41]) + raw[place + 1 :])
        try:
            found = read_file(path)
        except Unreadable:
            noticed += 1
        else:  # a byte of the zip that means nothing: a date, an attribute
            assert (found.vectors == whole.vectors).all() and (found.times == whole.times).all()
    assert noticed > whole.vectors.nbytes + whole.times.nbytes


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_a_file_that_was_cut_off_is_passed_over(tmp_path: Path, length: int) -> None:
    write_sample(tmp_path, "worker-1", sample(3, at=100.0))
    write_sample(tmp_path, "worker-2", sample(3, at=100.0, first=10))
    path = tmp_path / QUERIES_NAME / "worker-1.npz"
    path.write_bytes(path.read_bytes()[:length])
    assert read_sample(tmp_path)[:, 0].tolist() == [12, 11, 10]


def test_a_file_of_another_dimension_is_left_out(tmp_path: Path) -> None:
    write_sample(tmp_path, "worker-1", sample(3, at=100.0))
    write_sample(tmp_path, "worker-2", Sample(np.ones((2, 3), np.float32), np.array([1.0, 2.0])))
    assert read_sample(tmp_path).shape == (3, DIMENSION)


def test_a_sample_that_cannot_be_written_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sample(tmp_path, "worker-1", sample(3, at=100.0))

    def full(old: Path, new: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="No space"):
        write_sample(tmp_path, "worker-1", sample(2, at=200.0))
    monkeypatch.undo()
    assert read_sample(tmp_path)[:, 0].tolist() == [2, 1, 0]
    assert [p.name for p in (tmp_path / QUERIES_NAME).iterdir()] == ["worker-1.npz"]


def test_a_dropped_collection_is_not_made_again(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_sample(tmp_path / "gone", "worker-1", sample(2, at=1.0))
    assert not (tmp_path / "gone").exists()


def test_forgetting_leaves_no_query_behind(tmp_path: Path) -> None:
    forget_sample(tmp_path)  # nothing there
    write_sample(tmp_path, "worker-1", sample(3, at=100.0))
    (tmp_path / QUERIES_NAME / "worker-1.npz.tmp").write_bytes(b"half")
    forget_sample(tmp_path, leftovers=True)
    assert [p.name for p in (tmp_path / QUERIES_NAME).iterdir()] == ["worker-1.npz"]
    forget_sample(tmp_path)
    assert list((tmp_path / QUERIES_NAME).iterdir()) == []


def test_check_and_info_know_the_sample(filled: Collection) -> None:
    folder = filled.folder.root
    write_sample(folder, "worker-1", sample(3, at=100.0))
    assert check(filled.data.root).findings == []
    assert "0 given to calibrate on, 3 kept" in info(filled.data.root)
    path = folder / QUERIES_NAME / "worker-1.npz"
    assert f"a sample of 3 queries × {DIMENSION}, asked from 1970-01-01T00:01:40Z" in info(path)
    raw = path.read_bytes()
    at = raw.index(sample(3, at=100.0).vectors.tobytes())
    path.write_bytes(raw[:at] + b"x" + raw[at + 1 :])
    report = check(filled.data.root)
    assert report.sound and [f.severity for f in report.findings] == ["warning"]
    assert "worker-1.npz" in str(report) and "passed over" in str(report)
    assert "damaged" in info(path)


# -------------------------------------------------------------------- given queries


def test_given_queries_are_kept_in_order_and_replace_those_before(filled: Collection) -> None:
    assert catalogue.read_calibration_queries(filled.db).shape == (0, DIMENSION)
    first, second = sample(5, 0).vectors, sample(3, 0, first=50).vectors
    assert give(filled, first) == 5
    assert (catalogue.read_calibration_queries(filled.db) == first).all()
    assert catalogue.read_state(filled.db).queries_seq == 1
    assert give(filled, second) == 3
    assert (catalogue.read_calibration_queries(filled.db) == second).all()
    assert catalogue.read_state(filled.db).queries_seq == 2
    assert check(filled.data.root).findings == [] and "3 given to calibrate on" in info(filled.data.root)


def test_of_too_many_an_even_spread_is_kept(filled: Collection) -> None:
    assert give(filled, sample(2 * MAX_GIVEN, 0).vectors) == MAX_GIVEN
    kept = catalogue.read_calibration_queries(filled.db)[:, 0]
    assert (kept[0], kept[-1]) == (0, 2 * MAX_GIVEN - 1) and (np.diff(kept) >= 1).all() and np.diff(kept).max() <= 3


def test_of_too_large_ones_as_many_as_fit(tmp_path: Path) -> None:
    wide = Collection(tmp_path / "data", dimension=65_536)
    assert give(wide, np.ones((100, 65_536), np.float32)) == MAX_BYTES // (4 * 65_536) == 64
    assert catalogue.read_calibration_queries(wide.db).shape == (64, 65_536)
    wide.close()


def test_given_queries_are_float32_in_a_float16_collection(tmp_path: Path) -> None:
    half = Collection(tmp_path / "data", dimension=DIMENSION, dtype="float16")
    fine = np.full((2, DIMENSION), 0.1, np.float32)
    assert give(half, fine) == 2
    assert (catalogue.read_calibration_queries(half.db) == fine).all()
    half.close()


def test_a_refused_request_gives_nothing(filled: Collection) -> None:
    give(filled, sample(5, 0).vectors)
    with pytest.raises(errors.NoSpace), armed("database.commit:enospc"):
        give(filled, sample(3, 0, first=50).vectors)
    assert len(catalogue.read_calibration_queries(filled.db)) == 5
    assert catalogue.read_state(filled.db).queries_seq == 1


def test_a_catalogue_that_has_lost_given_queries_does_not_pass_for_whole(filled: Collection) -> None:
    before = catalogue.read_state(filled.db)
    give(filled, sample(5, 0).vectors)
    known = remembered.recall(filled.folder.root / WRITE_LOCK_NAME)
    assert remembered.missing(known, catalogue.read_state(filled.db)) == ""
    assert "generation" in remembered.missing(known, before)


def test_check_tells_of_given_queries_of_a_wrong_length(filled: Collection) -> None:
    give(filled, sample(5, 0).vectors)
    filled.db.execute("UPDATE calibration_queries SET vector = x'00' WHERE place = 3")
    report = check(filled.data.root)
    assert report.sound and "1 of the queries given" in str(report)
    assert len(catalogue.read_calibration_queries(filled.db)) == 4


# -------------------------------------------------------------------- an index calibrated anew


def indexed(c: Collection) -> catalogue.IndexRow:
    c.add_index(catalogue.read_segments(c.db)[0], b"an index")
    row = catalogue.read_segments(c.db)[0].index
    assert row is not None
    return row


def test_an_index_is_described_anew_and_its_file_stays(filled: Collection) -> None:
    index = indexed(filled)
    before = catalogue.read_state(filled.db)
    filled.publisher.recalibrate(index.seq, index.file, {**index.meta, "queries_seq": 7})
    after = catalogue.read_segments(filled.db)[0].index
    assert after is not None and after == index and after.meta == {"version": 1, "queries_seq": 7}
    assert catalogue.read_state(filled.db).generation == before.generation + 1
    assert check(filled.data.root).findings == []


def test_an_index_that_has_been_replaced_is_not_described_as_the_one_before(filled: Collection) -> None:
    index = indexed(filled)
    with pytest.raises(errors.Stale):
        filled.publisher.recalibrate(index.seq, "000001-other.hnsw-1.faiss", {})
    with pytest.raises(errors.Stale):
        filled.publisher.recalibrate(index.seq + 1, index.file, {})
    with pytest.raises(OSError, match="No space"), armed("index.commit:enospc"):
        filled.publisher.recalibrate(index.seq, index.file, {})
    after = catalogue.read_segments(filled.db)[0].index
    assert after is not None and after.meta == index.meta
