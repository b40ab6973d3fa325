"""Recall measured on real queries in the background: what falls short is noticed and calibrated anew, no more."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.engine import calibrating
from app.engine.calibrating import Calibrating, calibration_is_due, falls_short, queries_for
from app.engine.collection import Collection
from app.engine.files import write_sealed
from index.approximate import Approximate
from index.calibration import Calibration
from index.exact import Exact
from index.recalibration import Measured, recalibrated
from storage import catalogue
from storage.catalogue import IndexRow
from storage.check import check
from storage.queries import Sample, forget_sample, write_sample
from storage.writes import Batch, SealedRows, reserve_seq
from tests.engine.rig import NeverStops, Rig

ROWS, DIMENSION, K = 9_000, 32, 10
PROMISED = 0.9
"""The rig's collections ask for it."""
_random = np.random.default_rng(5)
CENTRES: NDArray[np.float64] = 4 * _random.standard_normal((60, DIMENSION))


def like_the_data(n: int, seed: int) -> NDArray[np.float32]:
    """Sixty clusters: (n, d)."""
    random = np.random.default_rng(seed)
    return (CENTRES[random.integers(60, size=n)] + random.standard_normal((n, DIMENSION))).astype(np.float32)


def unlike_the_data(n: int, seed: int) -> NDArray[np.float32]:
    """About the clusters, far from all: (n, d)."""
    random = np.random.default_rng(seed)
    between: NDArray[np.float64] = CENTRES[random.integers(60, size=(n, 2))].mean(axis=1)
    return (between + 6 * random.standard_normal((n, DIMENSION))).astype(np.float32)


def store(rig: Rig, vectors: NDArray[np.float32], first: int = 0) -> None:
    """As a segment of its own."""
    ids = list(range(first, first + len(vectors)))
    seq = rig.write(reserve_seq)
    keys = np.arange(len(vectors), dtype=np.uint64)
    file = write_sealed(rig.folder, seq, keys_rel=keys, ids=ids, vectors=vectors, metric="l2")
    sealed = SealedRows(seq, file.file, file.bytes, file.xxh3)
    rig.write(lambda turn: turn.upsert(Batch(vectors, list(ids), None), sealed))


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One segment with its graph, made once."""
    made = Rig(tmp_path_factory.mktemp("indexed") / "data", dimension=DIMENSION, index="hnsw", index_min_rows=256)
    store(made, like_the_data(ROWS, 1))
    made.merge()
    assert made.segments()[0].index is not None
    yield made
    made.close()


@pytest.fixture
def rig(tmp_path: Path, indexed: Rig) -> Iterator[Rig]:
    shutil.copytree(indexed.data, tmp_path / "data")
    made = Rig(
        tmp_path / "data", dimension=DIMENSION, index="hnsw", index_min_rows=256, copied_from=indexed, durable=False
    )
    yield made
    made.close()


@pytest.fixture(autouse=True)
def without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrating, "REST", 0)
    monkeypatch.setattr(calibrating, "LOOK_S", 0.0)


def calibrator(rig: Rig, measure_s: float = 0.0) -> Calibrating:
    return Calibrating(rig.building_work, NeverStops(), measure_s)


def settle(work: Calibrating) -> int:
    """How much there was to do."""
    done = 0
    while work.step():
        done += 1
        assert done < 20, "it never ends"
    return done


def keep(rig: Rig, queries: NDArray[np.float32], worker: str = "worker-1") -> None:
    write_sample(rig.folder, worker, Sample(queries, time.time() + np.arange(len(queries)) / 1000))


def index_row(rig: Rig) -> IndexRow:
    (segment,) = rig.segments()
    assert segment.index is not None
    return segment.index


def found(worker: Collection, queries: NDArray[np.float32], k: int = K) -> float:
    """Mean recall of what this worker's index finds when the collection's recall is asked for."""
    worker.follower.load_all()
    (part,) = worker.view().parts
    index = part.segment.index
    assert isinstance(index, Approximate)
    plan = index.plan(k, PROMISED)
    exact = Exact(part.segment.vectors)
    true = exact.search(queries, k, exact.plan(k, 1.0)).distances[:, k - 1]
    hits = index.search(queries, k, plan).distances <= true[:, None]
    return float((np.minimum(hits.sum(axis=1), k) / k).mean())


def calibration(rig: Rig) -> Calibration:
    return Calibration.from_json(index_row(rig).meta["calibration"])


# -------------------------------------------------------------------- the kept sample


def test_queries_unlike_the_data_are_noticed_and_then_get_what_was_promised(rig: Rig) -> None:
    worker, work = rig.worker(), calibrator(rig)
    others = unlike_the_data(500, 8)
    before = found(worker, others)
    assert before < PROMISED - 0.05 and calibration(rig).on == "data"
    keep(rig, unlike_the_data(600, 7))
    assert settle(work) == 1
    assert calibration(rig).on == "queries"
    # Another sample of the same: half of them chose or certified nothing.
    assert found(worker, others) >= PROMISED - 0.01
    measured = index_row(rig).meta["measured"]
    assert measured["on"] == "sample" and measured["queries"] == 600 and measured["recall"] >= PROMISED - 0.01
    assert measured["interval"][0] <= measured["recall"] <= measured["interval"][1]
    assert check(rig.data).findings == []


def test_a_worker_takes_the_new_calibration_and_goes_on_with_the_open_index(rig: Rig) -> None:
    worker = rig.worker()
    worker.follower.load_all()
    (before,) = worker.view().parts
    keep(rig, unlike_the_data(600, 7))
    settle(calibrator(rig))
    (after,) = worker.view().parts
    old, new = before.segment.index, after.segment.index
    assert isinstance(old, Approximate) and isinstance(new, Approximate)
    assert new.calibration == calibration(rig) != old.calibration
    assert new.vectors is old.vectors, "it was opened anew"
    assert after.kept is before.kept


def test_it_does_not_flap_on_queries_like_the_data(rig: Rig) -> None:
    """Ten samples, each new: the promise holds, and nothing but the measurement is ever published."""
    work, before = calibrator(rig), calibration(rig)
    for round_ in range(10):
        keep(rig, like_the_data(300, 100 + round_))
        assert settle(work) == 1
    assert calibration(rig) == before
    measured = index_row(rig).meta["measured"]
    assert measured["recall"] >= PROMISED and measured["queries"] == 300


def test_it_does_not_flap_once_it_is_calibrated_on_queries(rig: Rig) -> None:
    work, changes = calibrator(rig), 0
    for round_ in range(8):
        before = calibration(rig)
        keep(rig, unlike_the_data(600, 100 + round_))
        assert settle(work) == 1
        changes += calibration(rig) != before
    assert 1 <= changes <= 2


@pytest.mark.parametrize(
    "sample",
    [np.repeat(unlike_the_data(1, 3), 600, axis=0), unlike_the_data(99, 3), np.ones((600, 3), np.float32)],
    ids=["one query over and over", "too few", "of another dimension"],
)
def test_a_sample_that_says_nothing_does_nothing(rig: Rig, sample: NDArray[np.float32]) -> None:
    before = index_row(rig).meta
    keep(rig, sample)
    assert settle(calibrator(rig)) == 0
    assert index_row(rig).meta == before


def test_without_a_sample_nothing_is_measured(rig: Rig) -> None:
    assert settle(calibrator(rig)) == 0 and "measured" not in index_row(rig).meta


def test_a_damaged_sample_is_no_trouble(rig: Rig) -> None:
    keep(rig, unlike_the_data(600, 7))
    path = rig.folder / "queries" / "worker-1.npz"
    path.write_bytes(path.read_bytes()[:-100])
    assert settle(calibrator(rig)) == 0


def test_what_did_not_change_is_not_measured_again_nor_too_often(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    work = calibrator(rig, measure_s=100.0)
    keep(rig, like_the_data(300, 1))
    assert settle(work) == 1
    keep(rig, like_the_data(300, 2))
    assert settle(work) == 0, "measured again before its time"
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + 101.0)
    assert settle(work) == 1
    monkeypatch.setattr(time, "monotonic", lambda: now() + 300.0)
    assert settle(work) == 0, "measured though the sample had not changed"


def test_another_promise_is_measured_at_once(rig: Rig) -> None:
    work = calibrator(rig, measure_s=100.0)
    keep(rig, like_the_data(600, 1))
    assert settle(work) == 1
    rig.write(lambda turn: turn.set_recall(0.97))
    assert settle(work) == 1 and settle(work) == 0


def test_a_measurement_that_says_the_same_is_not_published(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    work = calibrator(rig)
    keep(rig, like_the_data(600, 1))
    settle(work)
    generation = rig.state().generation
    again = like_the_data(600, 1)
    again[0] += 0.01
    keep(rig, again)
    assert settle(work) == 1 and rig.state().generation == generation
    monkeypatch.setattr(calibrating, "PUBLISH_S", 0.0)
    again[0] += 0.01
    keep(rig, again)
    assert settle(work) == 1 and rig.state().generation == generation + 1


def test_each_of_several_segments_is_measured(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "data", dimension=DIMENSION, index="hnsw", index_min_rows=256)
    try:
        for part in range(2):
            store(rig, like_the_data(3000, part), 3000 * part)
        build_each(rig)
        keep(rig, unlike_the_data(300, 7))
        assert settle(calibrator(rig)) == 2
        assert all(s.index is not None and "measured" in s.index.meta for s in rig.segments())
    finally:
        rig.close()


def build_each(rig: Rig) -> None:
    """Every segment's index, without merging them."""
    state, settings = rig.state(), catalogue.read_settings(rig.db)
    for segment in rig.segments():
        rig.building._build(segment, settings, state)


@pytest.mark.parametrize(
    ("recall", "interval", "short"),
    [
        (0.85, (0.83, 0.87), True),
        (0.895, (0.88, 0.91), False),
        (0.8975, (0.896, 0.899), False),
        (0.895, (0.893, 0.897), True),
        (0.95, (0.94, 0.96), False),
    ],
)
def test_what_may_be_chance_is_no_shortfall(recall: float, interval: tuple[float, float], short: bool) -> None:
    assert falls_short(Measured(recall, interval, 500), PROMISED) is short


# -------------------------------------------------------------------- queries that were given


def give(rig: Rig, queries: NDArray[np.float32]) -> int:
    return rig.write(lambda turn: turn.set_calibration_queries(queries))


def test_given_queries_are_calibrated_on_without_asking(rig: Rig) -> None:
    worker, work = rig.worker(), calibrator(rig)
    assert not calibration_is_due(rig.state(), rig.segments())
    give(rig, unlike_the_data(600, 7))
    assert calibration_is_due(rig.state(), rig.segments())
    assert settle(work) == 1
    assert not calibration_is_due(rig.state(), rig.segments())
    assert calibration(rig).on == "queries" and index_row(rig).meta["queries_seq"] == 1
    assert index_row(rig).meta["measured"]["on"] == "given"
    assert found(worker, unlike_the_data(500, 8)) >= PROMISED - 0.01
    assert catalogue.read_job(rig.db) is None
    give(rig, like_the_data(600, 7))
    assert settle(work) == 1 and index_row(rig).meta["queries_seq"] == 2


def test_given_queries_serve_the_indexes_to_come(rig: Rig) -> None:
    assert queries_for(rig.building_work.reader) is None
    given = unlike_the_data(600, 7)
    give(rig, given)
    found_again = queries_for(rig.building_work.reader)
    assert found_again is not None and found_again.seq == 1 and (found_again.vectors == given).all()


def test_too_few_given_queries_are_not_waited_for(rig: Rig) -> None:
    give(rig, np.repeat(unlike_the_data(3, 7), 100, axis=0))
    assert queries_for(rig.building_work.reader) is None
    assert settle(calibrator(rig)) == 1
    assert not calibration_is_due(rig.state(), rig.segments()) and calibration(rig).on == "data"


def test_a_sample_that_falls_short_of_given_queries_is_calibrated_on(rig: Rig) -> None:
    worker, work = rig.worker(), calibrator(rig)
    give(rig, like_the_data(600, 7))
    keep(rig, unlike_the_data(600, 7))
    assert settle(work) == 2
    assert found(worker, unlike_the_data(500, 8)) >= PROMISED - 0.01
    assert found(worker, like_the_data(500, 8)) >= PROMISED
    assert index_row(rig).meta["queries_seq"] == 1 and index_row(rig).meta["measured"]["on"] == "sample"


def test_a_calibration_that_fails_is_given_up_in_the_end(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Calibration:
        raise MemoryError("no room")

    monkeypatch.setattr(calibrating, "recalibrated", fails)
    before = calibration(rig)
    give(rig, unlike_the_data(600, 7))
    assert settle(calibrator(rig)) == 3
    assert index_row(rig).meta["calibration_failed"] == "no room"
    assert not calibration_is_due(rig.state(), rig.segments())
    assert calibration(rig) == before and catalogue.read_job(rig.db) is None


def test_a_measurement_that_fails_is_left_alone_for_a_while(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Measured:
        raise MemoryError("no room")

    work = calibrator(rig)
    monkeypatch.setattr(calibrating, "shortfall", fails)
    keep(rig, unlike_the_data(600, 7))
    assert settle(work) == 0
    monkeypatch.undo()
    keep(rig, unlike_the_data(601, 7))
    assert settle(work) == 0
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + 3601.0)
    assert settle(work) == 1 and calibration(rig).on == "queries"


def test_a_calibration_that_kills_its_process_is_given_up_in_the_end(rig: Rig) -> None:
    give(rig, unlike_the_data(600, 7))
    for _ in range(3):  # each time the builder died of it
        rig.building_publisher.start_job(calibrating.JOB, index_row(rig).seq)
    rig.merge()
    assert "tried 3 times" in index_row(rig).meta["calibration_failed"]
    assert calibration(rig).on == "data" and catalogue.read_job(rig.db) is None


def test_the_job_row_of_a_builder_that_died_does_not_stay(rig: Rig) -> None:
    rig.building_publisher.start_job(calibrating.JOB, 1)
    rig.merge()
    assert catalogue.read_job(rig.db) is None


# -------------------------------------------------------------------- interrupted


class StopsSoon(NeverStops):
    """At the second time that it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def __bool__(self) -> bool:
        self.asked += 1
        return self.asked > 2


@pytest.mark.parametrize("given", [True, False], ids=["given", "sample"])
def test_a_server_that_stops_does_not_wait_for_it(rig: Rig, given: bool) -> None:
    before, queries = index_row(rig).meta, unlike_the_data(600, 7)
    if given:
        give(rig, queries)
    else:
        keep(rig, queries)
    work = Calibrating(rig.building_work, StopsSoon(), 0.0)
    assert not work.step()
    assert index_row(rig).meta == before and catalogue.read_job(rig.db) is None
    assert settle(calibrator(rig)) == 1
    assert calibration(rig).on == "queries"


def test_an_index_that_was_replaced_meanwhile_is_left_alone(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The transaction finds another file there: nothing is published, and the new one is looked at in its turn."""
    keep(rig, unlike_the_data(600, 7))
    work, real = calibrator(rig), recalibrated

    def meanwhile(*args: Any) -> Calibration:
        result = real(*args)
        forget_sample(rig.folder)  # the builder's own would measure it at once
        rig.write(lambda turn: turn.set_index_spec({"kind": "hnsw", "params": {"m": 8}}))
        rig.merge()
        return result

    monkeypatch.setattr(calibrating, "recalibrated", meanwhile)
    assert not work.step()
    monkeypatch.undo()
    assert calibration(rig).on == "data" and "measured" not in index_row(rig).meta
    keep(rig, unlike_the_data(600, 7))
    assert settle(calibrator(rig)) == 1
    assert calibration(rig).on == "queries"
