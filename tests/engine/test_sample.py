"""The worker's sample of queries: what is kept of many, when it is written, and that nothing depends on it."""

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from app.engine.collection import Collection, Limits
from app.engine.sample import FLUSH_S, MAX_OF_BATCH, Keep, QuerySample
from storage.layout import QUERIES_NAME
from storage.queries import MAX_BYTES, read_sample
from tests.engine.rig import MANY, Rig, pools

DIMENSION = 4


def query(i: int) -> NDArray[np.float32]:
    return np.full((1, DIMENSION), i, np.float32)


def numbers(vectors: NDArray[np.float32]) -> list[int]:
    return [int(v) for v in vectors[:, 0]]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Seconds by which both clocks are ahead."""
    ahead = [0.0]
    monotonic, now = time.monotonic, time.time
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + ahead[0])
    monkeypatch.setattr(time, "time", lambda: now() + ahead[0])
    yield ahead


def test_the_last_queries_are_kept(tmp_path: Path) -> None:
    sample = QuerySample(tmp_path, DIMENSION, Keep("worker-1", 10))
    for i in range(25):
        sample.note(query(i))
    assert numbers(sample.present().vectors) == list(range(15, 25))
    assert (np.diff(sample.present().times) >= 0).all()


def test_a_batch_of_thousands_leaves_the_others_in(tmp_path: Path) -> None:
    sample = QuerySample(tmp_path, DIMENSION, Keep("worker-1", 100))
    for i in range(40):
        sample.note(query(-1 - i))
    sample.note(np.repeat(np.arange(5000, dtype=np.float32)[:, None], DIMENSION, axis=1))
    kept = numbers(sample.present().vectors)
    of_batch = [i for i in kept if i >= 0]
    assert len(of_batch) == MAX_OF_BATCH and (of_batch[0], of_batch[-1]) == (0, 4999)
    assert sum(i < 0 for i in kept) == 100 - MAX_OF_BATCH
    sample.note(np.repeat(np.arange(7000, 7003, dtype=np.float32)[:, None], DIMENSION, axis=1))
    assert numbers(sample.present().vectors)[-3:] == [7000, 7001, 7002]


def test_wide_queries_are_bounded_by_bytes(tmp_path: Path) -> None:
    sample = QuerySample(tmp_path, 65_536, Keep("worker-1", 1000))
    for i in range(70):
        sample.note(np.full((1, 65_536), i, np.float32))
    assert sample.present().vectors.nbytes == MAX_BYTES


def test_a_worker_goes_on_from_what_it_had_kept(tmp_path: Path) -> None:
    before = QuerySample(tmp_path, DIMENSION, Keep("worker-1", 10))
    for i in range(4):
        before.note(query(i))
    before.flush()
    after = QuerySample(tmp_path, DIMENSION, Keep("worker-1", 10))
    after.note(query(4))
    assert numbers(after.present().vectors) == [0, 1, 2, 3, 4]
    assert numbers(QuerySample(tmp_path, DIMENSION, Keep("worker-2", 10)).present().vectors) == []
    assert numbers(QuerySample(tmp_path, DIMENSION, Keep("worker-1", 2)).present().vectors) == [2, 3]


def test_it_is_written_while_it_changes_and_not_more_often(tmp_path: Path, clock: list[float]) -> None:
    sample = QuerySample(tmp_path, DIMENSION, Keep("worker-1", 10))
    assert not sample.is_due()
    sample.note(query(1))
    assert sample.is_due()
    write = sample.to_write()
    sample.note(query(2))  # while it is being written
    assert not sample.is_due()
    write()
    assert numbers(read_sample(tmp_path)) == [1] and not sample.is_due()
    clock[0] = FLUSH_S + 0.1
    assert sample.is_due()
    sample.to_write()()
    assert numbers(read_sample(tmp_path)) == [2, 1]
    clock[0] = 10 * FLUSH_S
    assert not sample.is_due()
    (tmp_path / QUERIES_NAME / "worker-1.npz").unlink()
    sample.flush()
    assert len(read_sample(tmp_path)) == 0, "it was written though nothing had changed"


def test_with_none_to_keep_what_was_kept_is_deleted(tmp_path: Path) -> None:
    before = QuerySample(tmp_path, DIMENSION, Keep("worker-2", 10))
    before.note(query(1))
    before.flush()
    none = QuerySample(tmp_path, DIMENSION, Keep("worker-1", 0))
    assert len(read_sample(tmp_path)) == 0
    none.note(query(2))
    none.flush()
    assert not none.is_due() and len(none.present().vectors) == 0 and not list((tmp_path / QUERIES_NAME).iterdir())


def test_a_damaged_file_is_passed_over_and_written_anew(tmp_path: Path) -> None:
    before = QuerySample(tmp_path, DIMENSION, Keep("worker-1", 10))
    before.note(query(1))
    before.flush()
    (tmp_path / QUERIES_NAME / "worker-1.npz").write_bytes(b"PK")
    after = QuerySample(tmp_path, DIMENSION, Keep("worker-1", 10))
    assert len(after.present().vectors) == 0
    after.note(query(2))
    after.flush()
    assert numbers(read_sample(tmp_path)) == [2]


def test_a_sample_that_cannot_be_written_is_told_seldom_and_written_later(
    tmp_path: Path, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / QUERIES_NAME).write_bytes(b"a file where the folder should be")
    sample = QuerySample(tmp_path, DIMENSION, Keep("worker-1", 10))
    with caplog.at_level(logging.WARNING):
        for round_ in range(3):
            clock[0] = round_ * (FLUSH_S + 1)
            sample.note(query(round_))
            sample.to_write()()
    assert len([r for r in caplog.records if "cannot be written" in r.message]) == 1
    os.unlink(tmp_path / QUERIES_NAME)
    sample.note(query(3))
    sample.flush()
    assert numbers(read_sample(tmp_path)) == [3, 2, 1, 0]


def test_a_query_is_noted_in_well_under_a_microsecond(tmp_path: Path) -> None:
    sample = QuerySample(tmp_path, DIMENSION, Keep("worker-1", 1000))
    one, rounds = query(1), 20_000
    took = []
    for _ in range(5):
        begun = time.thread_time()
        for _ in range(rounds):
            sample.note(one)
        took.append((time.thread_time() - begun) / rounds)
    assert min(took) < 1e-6, f"{min(took) * 1e6:.2f} µs"


def test_a_collection_that_closes_writes_its_sample(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "data")
    try:
        rig.upsert([1, 2, 3])
        worker = Collection("c", rig.folder, Limits(MANY, MANY), pools(), Keep("worker-7", 5))
        worker.sample.note(query(5))
        worker.close()
        assert numbers(read_sample(rig.folder)) == [5]
        rig.assert_sound()
    finally:
        rig.close()
