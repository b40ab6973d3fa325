"""Measuring recall in one process: what the truth is, what a query is held against, and who may stop it."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.engine import errors, measuring
from app.engine.collection import Collection, Limits
from app.engine.judging import ByDistance, Queries, exact_distances
from app.engine.measuring import Pace, Stopped, measure, stored
from app.engine.places import Places
from app.engine.planning import plan
from app.engine.recall import FEWEST, MAX_WAITING, Measuring, measure_recall
from app.engine.sample import Keep
from app.engine.types import Id, RecallAnswer, RecallAsked
from storage import catalogue
from tests.engine.rig import MANY, Rig, pools


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.close()


def filled(rig: Rig) -> Collection:
    """Rows in two segments and pending, some of each dead."""
    rig.add(list(range(40)))
    rig.seal()
    rig.add(list(range(40, 70)))
    rig.seal()
    rig.add(list(range(70, 80)))
    rig.delete([3, 11, 39, 40, 69, 75])
    return rig.worker()


def test_stored_rows_are_drawn_from_all_that_live(rig: Rig) -> None:
    worker = filled(rig)
    view = worker.view()
    assert len(view.parts) == 2 and view.pending.live
    drawn = Places.of(view, stored(view, 1000)).ids()
    assert sorted(drawn) == sorted(rig.model)
    few = Places.of(view, stored(view, 10)).ids()
    assert len(set(few)) == 10 and set(few) < rig.model.keys()
    assert few == Places.of(view, stored(view, 10)).ids()


def test_a_stored_row_is_no_answer_to_itself(rig: Rig) -> None:
    """Held against brute force over the others: its own distance of 0 is not among the true ones."""
    view = filled(rig).view()
    places = stored(view, 12)
    there = Places.of(view, places)
    vectors, ids = there.vectors().astype(np.float32), there.ids()
    rows = {id_: np.frombuffer(row, np.float32) for id_, (row, _) in rig.model.items()}
    exact = plan(view, 5, 1.0)
    far = exact_distances(exact, Queries(vectors, "data", places, ids), 5, lambda: None)
    for vector, id_, mine in zip(vectors, ids, far, strict=True):
        others = [float(np.linalg.norm(vector - row)) for other, row in rows.items() if other != id_]
        assert mine.tolist() == pytest.approx(sorted(others)[:5], rel=1e-5)
    rows_ = measure(view, Queries(vectors, "data", places, ids), None, {(5, 0.9): exact}, exact, Pace(Event()))
    assert [(row.measured, row.exact, row.queries) for row in rows_] == [(1.0, True, 12)]


def test_what_is_no_farther_than_the_kth_is_found() -> None:
    judge = ByDistance(np.array([[1, 2, 2, 5, np.inf]], np.float32))

    def far(values: list[float]) -> NDArray[np.float32]:
        return np.array(values, np.float32)

    assert judge(0, 1, [1], far([1])) == 1
    assert judge(0, 2, [1, 2], far([1, 2])) == 1
    assert judge(0, 3, [4, 5, 6], far([2, 2, 5])) == 2 / 3
    assert judge(0, 3, [4, 5, 6], far([5, 6, 7])) == 0
    # Four rows are all there are.
    assert judge(0, 5, [1, 2, 3, 4], far([1, 2, 2, 5])) == 1
    assert judge(0, 5, [1, 2, 3], far([1, 2, 5])) == 3 / 4


def test_rows_of_one_plan_are_searched_once_and_a_dear_one_less(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    view = filled(rig).view()
    vectors = np.random.default_rng(1).standard_normal((40, rig.dimension)).astype(np.float32)
    queries, exact = Queries(vectors, "given"), plan(view, 5, 1.0)
    plans = {(k, recall): plan(view, k, recall) for k in (2, 5) for recall in (0.5, 0.9, 1.0)}
    searched: list[int] = []
    run = measuring.search.run

    def counted(view: Any, plan: Any, queries: Any, k: int) -> Any:
        searched.append(k)
        return run(view, plan, queries, k)

    monkeypatch.setattr(measuring.search, "run", counted)
    rows = measure(view, queries, None, plans, exact, Pace(Event()))
    assert [row.queries for row in rows] == 6 * [40]
    assert (searched.count(2), searched.count(5)) == (40, 40)
    monkeypatch.setattr(measuring, "BUDGET_S", 0.0)
    rows = measure(view, queries, None, plans, exact, Pace(Event()))
    assert [row.queries for row in rows] == 6 * [measuring.LEAST_SEARCHED]


def test_a_thread_sleeps_as_long_as_it_has_worked(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = Pace(Event())
    began = time.perf_counter()
    while time.perf_counter() - began < 0.1:
        pass
    worked = time.thread_time()
    pace.breathe()
    assert time.perf_counter() - began >= 0.19
    assert time.thread_time() - worked < 0.05
    stopped = Event()
    pace = Pace(stopped)
    stopped.set()
    monkeypatch.setattr(measuring, "PIECE_S", 60.0)
    pace.breathe()  # nothing to speak of was done yet
    monkeypatch.setattr(measuring, "PIECE_S", 0.0)
    with pytest.raises(Stopped):
        pace.breathe()


def test_whoever_is_gone_is_measured_for_no_longer() -> None:
    ended = Event()

    def endless(pace: Pace) -> None:
        try:
            while True:
                time.sleep(0.01)
                pace.breathe()
        finally:
            ended.set()

    async def ask() -> None:
        measuring = Measuring()
        asked = [asyncio.ensure_future(measuring.run(endless)) for _ in range(MAX_WAITING + 1)]
        await asyncio.sleep(0.1)
        with pytest.raises(errors.Unavailable, match="wait for each other"):
            await measuring.run(lambda pace: None)
        asked[0].cancel()
        assert await asyncio.to_thread(ended.wait, 10)
        for task in asked[1:-1]:
            task.cancel()
        measuring.close()
        with pytest.raises((errors.Unavailable, asyncio.CancelledError)):
            await asked[-1]
        assert all(isinstance(e, BaseException) for e in await asyncio.gather(*asked, return_exceptions=True))

    asyncio.run(ask())


def asked(worker: Collection, asked: RecallAsked) -> RecallAnswer:
    measuring = Measuring()
    try:
        return asyncio.run(measure_recall(worker, asked, measuring))
    finally:
        measuring.close()


def keeping(rig: Rig, name: str) -> Collection:
    return Collection("c", rig.folder, Limits(MANY, MANY), pools(), Keep(name, 1000))


def drawn(rig: Rig, n: int, seed: int = 2) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, rig.dimension)).astype(np.float32)


def test_real_queries_where_there_are_enough(rig: Rig) -> None:
    """Those of this worker count at once, those of others once they are written; each counts once."""
    filled(rig)
    with closing(keeping(rig, "first")) as first, closing(keeping(rig, "second")) as second:
        for query in drawn(rig, FEWEST // 2):
            first.sample.note(query[None])
            first.sample.note(query[None].copy())
        assert asked(first, RecallAsked((3,), sample=FEWEST)).on == "data"
        few = asked(first, RecallAsked((3,), sample=20))
        assert (few.on, few.rows[0].queries) == ("queries", 20)
        for query in drawn(rig, FEWEST, seed=3):
            second.sample.note(query[None])
        answer = asked(second, RecallAsked((3,), sample=1000))
        assert (answer.on, answer.rows[0].queries) == ("queries", FEWEST)
        first.sample.flush()
        answer = asked(second, RecallAsked((3,), sample=1000))
        assert (answer.on, answer.rows[0].queries) == ("queries", FEWEST + FEWEST // 2)


def test_queries_to_calibrate_on_are_stored(rig: Rig) -> None:
    worker = filled(rig)
    before = rig.state()
    given = drawn(rig, 120)
    answer = asked(worker, RecallAsked((3,), queries=given.astype(np.float64), calibrate=True))
    assert (answer.on, answer.calibrating_on) == ("given", 120)
    assert rig.state().queries_seq == before.queries_seq + 1
    assert np.array_equal(catalogue.read_calibration_queries(rig.db), given)
    with pytest.raises(errors.Conflict, match="100 are needed"):
        asked(worker, RecallAsked((3,), sample=5, calibrate=True))
    with pytest.raises(errors.Invalid, match="99 different"):
        asked(worker, RecallAsked((3,), queries=np.concatenate((given[:99], given[:99])), calibrate=True))
    assert np.array_equal(catalogue.read_calibration_queries(rig.db), given)
    with closing(keeping(rig, "first")) as first:
        first.sample.note(drawn(rig, 64, seed=4))
        first.sample.note(drawn(rig, 64, seed=5))
        answer = asked(first, RecallAsked((3,), sample=5, calibrate=True))
        assert (answer.on, answer.rows[0].queries, answer.calibrating_on) == ("queries", 5, 128)
    kept = catalogue.read_calibration_queries(rig.db)
    assert {row.tobytes() for row in kept} == {row.tobytes() for seed in (4, 5) for row in drawn(rig, 64, seed)}


def test_truth_that_died_is_named(rig: Rig) -> None:
    worker = filled(rig)
    query = drawn(rig, 1)
    truth: list[list[Id]] = [[1, 50, 72]]
    assert len(asked(worker, RecallAsked((3,), queries=query, truth=truth)).rows) == 1
    for gone in (50, 72):
        rig.delete([gone])
        with pytest.raises(errors.Invalid) as refused:
            asked(worker, RecallAsked((3,), queries=query, truth=truth))
        assert refused.value.faults[0].where == f"truth[0][{truth[0].index(gone)}]"
        truth[0][truth[0].index(gone)] = 2 + gone
