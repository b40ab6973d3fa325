"""What is measured of an index, how it is chosen what to measure, and what is told about it."""

import itertools
import json
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from index.calibration import Calibration, Front, Params, Point, front, interval, ks, lower_bound
from index.contract import Cancelled, Metric
from index.distance import distances
from index.sweep import BEYOND, STEP, STEP_BEYOND, calibrate, thinned
from index.truth import AT_ONCE, QUERIES, grouped, held_out, kth_distances
from tests.index.data import METRICS, clustered, vectors

POINTS = (Point({"ef_search": 16}, 0.9, 0.89, 50.0), Point({"ef_search": 64}, 0.99, 0.985, 150.0))


class TestForms:
    def test_json_and_back(self) -> None:
        known = Calibration((Front(1, POINTS, 900), Front(10, POINTS[:1], 400)), "queries")
        assert Calibration.from_json(json.loads(json.dumps(known.to_json()))) == known

    def test_version_1(self) -> None:
        (inner,) = Calibration((Front(10, POINTS, 100),)).to_json()["fronts"]
        assert Calibration.from_json({**inner, "on": "data"}) == Calibration((Front(10, POINTS, 100),), "data")

    @pytest.mark.parametrize(
        "value", [{}, {"on": "data"}, {"on": "belief", "fronts": []}, {"on": "data", "fronts": []}]
    )
    def test_others_are_refused(self, value: dict[str, object]) -> None:
        with pytest.raises((KeyError, TypeError, ValueError)):
            Calibration.from_json(value)

    def test_ks_that_rows_allow(self) -> None:
        assert [ks(rows) for rows in (5, 100, 999, 1000, 10_000)] == [
            (1,),
            (1, 10),
            (1, 10),
            (1, 10, 100),
            (1, 10, 100, 1000),
        ]

    def test_front(self) -> None:
        points = [
            Point({"n": i}, recall, 0.0, cost)
            for i, (recall, cost) in enumerate([(0.9, 5), (0.8, 7), (0.95, 6), (0.95, 9)])
        ]
        assert [p.params["n"] for p in front(points)] == [0, 2]


class TestBounds:
    shares = np.random.default_rng(5).binomial(10, 0.95, 2000) / 10
    spread = shares.std() / np.sqrt(2000)

    def test_lower_bound_lies_below_the_mean_but_not_far(self) -> None:
        assert (
            self.shares.mean() - 1.6 * self.spread < lower_bound(self.shares) < self.shares.mean() - 0.9 * self.spread
        )

    def test_interval(self) -> None:
        low, high = interval(self.shares)
        assert low == pytest.approx(self.shares.mean() - 1.96 * self.spread, abs=0.3 * self.spread)
        assert high == pytest.approx(self.shares.mean() + 1.96 * self.spread, abs=0.3 * self.spread)

    def test_it_holds_as_often_as_it_says(self) -> None:
        rng = np.random.default_rng(6)
        samples = [rng.binomial(10, 0.9, 300) / 10 for _ in range(300)]
        held = sum(lower_bound(sample) <= 0.9 for sample in samples)
        assert 0.84 < held / 300 < 0.96


class TestTruth:
    @pytest.mark.parametrize("metric", METRICS)
    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    def test_of_every_k_by_the_one_distance(self, metric: Metric, dtype: str) -> None:
        v = vectors(clustered(2200, 12, 1).astype(dtype), metric)
        rows = np.sort(np.random.default_rng(2).choice(2200, 2100, replace=False))
        queries = clustered(700, 12, 3)
        told: list[float] = []
        groups = grouped(v, queries, rows, told.append)
        assert [group.k for group in groups] == [1, 10, 100]
        assert [len(group.queries) for group in groups] == [700, 700, QUERIES[100]]
        assert sorted(map(bytes, groups[0].queries)) == sorted(map(bytes, queries)), "every one, once"
        for group in groups:
            assert np.array_equal(group.queries, groups[0].queries[: len(group.queries)])
            for query, kth in zip(group.queries[::60], group.kth[::60], strict=True):
                assert kth == np.sort(distances(metric, query, v.rows[rows]))[group.k - 1]
        assert told == sorted(told) and told[-1] == 1.0 and len(told) >= 700 // AT_ONCE

    def test_among_all_rows(self) -> None:
        v, queries = vectors(clustered(300, 8, 1), "l2"), clustered(5, 8, 2)
        kth = kth_distances(v, queries, 7, None, lambda done: None)
        assert kth.tolist() == [np.sort(distances("l2", query, v.rows))[6] for query in queries]

    def test_hold_outs(self) -> None:
        assert len(held_out(300, 8)) == 30 and len(held_out(60_000, 8)) == 5000
        assert 1100 < len(held_out(1_000_000, 128)) < 1200 and len(held_out(10_000_000, 128)) == 1000
        rows = held_out(5000, 8)
        assert np.array_equal(rows, np.unique(rows)) and 0.4 < (rows < 2500).mean() < 0.6


costs = st.lists(st.floats(1.0, 1e5), min_size=0, max_size=20, unique=True).map(sorted)


def rising(each: Sequence[float]) -> list[Point]:
    return [Point({"nprobe": 1 + i}, 0.9 + i / 200, 0.0, cost) for i, cost in enumerate(each)]


class TestWhatIsCertified:
    @settings(deadline=None)
    @given(costs)
    def test_nobody_pays_for_much_more_than_what_is_left_out(self, each: list[float]) -> None:
        points = rising(each)
        kept = thinned(points)
        assert kept == [p for p in points if p in kept]
        assert kept[:1] == points[:1] and kept[-1:] == points[-1:]
        for point in points:
            step = STEP_BEYOND if point.recall >= BEYOND else STEP
            assert any(other.recall >= point.recall and other.cost_us <= step * point.cost_us for other in kept)

    @settings(deadline=None)
    @given(costs)
    def test_none_but_the_cheapest_costs_about_what_another_does(self, each: list[float]) -> None:
        for point, following in itertools.pairwise(thinned(rising(each))[1:]):
            assert following.cost_us > STEP * point.cost_us


class Dial:
    """Finds every neighbour with a chance that its setting gives, for a price that rises steeply with it: whatever else
    the processor does, it is no other order."""

    def __init__(self, settings: Sequence[int]) -> None:
        self.asked: list[tuple[int, int, int]] = []
        self._settings = settings

    def families(self, k: int) -> Sequence[list[Params]]:
        return [[{"permille": permille} for permille in self._settings]]

    def attempt(self, queries: NDArray[np.float32], k: int, params: Params) -> NDArray[np.float32]:
        self.asked.append((k, len(queries), params["permille"]))
        # Each query's first number says what chance is enough: so the same query is found by all that dial higher.
        lucky = np.modf(np.abs(queries[:, :1]) * 997 * np.arange(1, k + 1))[0] * 1000 < params["permille"]
        busy = np.zeros(8)
        for _ in range(round(2 ** (params["permille"] / 100))):
            busy += 1
        return np.sort(np.where(lucky, np.float32(0), np.float32(np.inf)), axis=1)


class TestCalibrate:
    def test_finds_what_there_is_to_find(self) -> None:
        v = vectors(clustered(2500, 8, 1), "l2")
        groups = grouped(v, clustered(1200, 8, 2), None, lambda done: None)
        told: list[float] = []
        known = calibrate(Dial((500, 700, 800, 900, 950, 990, 1000)), groups, told.append)
        assert [f.k for f in known.fronts] == [1, 10, 100] and known.on == "data"
        assert told == sorted(told) and 0.99 < told[-1] <= 1.0
        for f in known.fronts:
            assert f.queries > 200
            for p in f.points:
                assert abs(p.recall - p.params["permille"] / 1000) < 0.05 and 0 <= p.recall - p.lower < 0.03
            assert [p.cost_us for p in f.points] == sorted(p.cost_us for p in f.points)
            assert f.points[0].params["permille"] <= 900 and f.points[-1].params["permille"] >= 950

    def test_an_index_that_finds_nothing_has_no_points(self) -> None:
        v = vectors(clustered(500, 8, 1), "l2")
        groups = grouped(v, clustered(50, 8, 2), None, lambda done: None)
        assert all(f.points == () for f in calibrate(Dial((10, 100, 200)), groups, lambda done: None).fronts)

    def test_who_chooses_does_not_certify(self) -> None:
        dial = Dial((800, 900, 1000))
        groups = grouped(vectors(clustered(400, 8, 1), "l2"), clustered(90, 8, 2), None, lambda done: None)
        known = calibrate(dial, groups, lambda done: None)
        assert {n for _, n, _ in dial.asked if n > 1} == {45} and [f.queries for f in known.fronts] == [45, 45]

    def test_can_be_stopped(self) -> None:
        def stop(done: float) -> None:
            raise Cancelled

        groups = grouped(vectors(clustered(400, 8, 1), "l2"), clustered(90, 8, 2), None, lambda done: None)
        with pytest.raises(Cancelled):
            calibrate(Dial((800, 900)), groups, stop)
