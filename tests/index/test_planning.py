"""Which settings a request gets: held against every combination there is."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from index.calibration import On, Point
from index.contract import Alive, Found, Index, Options, Plan
from index.planning import MEAN_MARGIN, SHIFT_MARGIN, Planned, choose

K = 10
FLOAT = 1e-9


class Offering:
    """An index as planning sees it. Nothing else may be asked of it."""

    kind = "hnsw"

    def __init__(self, options: Options) -> None:
        self._options = options

    def options(self, k: int) -> Options:
        assert k == K
        return self._options

    def plan(self, k: int, recall: float) -> Plan:
        raise NotImplementedError

    def given(self, params: Mapping[str, int], k: int) -> Plan:
        raise NotImplementedError

    def search(self, queries: NDArray[np.float32], k: int, plan: Plan, alive: Alive | None = None) -> Found:
        raise NotImplementedError


def offering(points: Sequence[Point], exact_us: float, on: On = "data", measured: bool = True) -> Index:
    return Offering(Options(tuple(points), Plan({}, 1.0, exact_us, exact=True), on, measured))


POINTS = (
    Point({"ef_search": 16}, 0.90, 0.89, 50.0),
    Point({"ef_search": 32}, 0.955, 0.949, 80.0),
    Point({"ef_search": 64}, 0.99, 0.985, 150.0),
)


def taken(recall: float, *, exact_us: float = 1e6, on: On = "data") -> int | str:
    """ef of the one segment's plan."""
    plan = choose([(offering(POINTS, exact_us, on), 7)], K, recall).plans[0]
    return "exact" if plan.exact else plan.params["ef_search"]


class TestOneSegment:
    def test_cheapest_that_is_certified(self) -> None:
        assert [taken(recall) for recall in (0.5, 0.87, 0.9, 0.95)] == [16, 16, 32, 64]

    def test_a_margin_for_what_was_measured_on_data_where_it_can_be_had(self) -> None:
        assert taken(0.945) == 64
        assert taken(0.984) == 64

    def test_no_margin_on_real_queries(self) -> None:
        assert taken(0.945, on="queries") == 32

    def test_a_mean_well_above_serves_where_no_bound_does(self) -> None:
        assert taken(0.987) == 64
        assert taken(0.988) == "exact"

    def test_exact_where_it_is_cheaper(self) -> None:
        assert taken(0.9, exact_us=79.0) == "exact"
        assert taken(0.87, exact_us=79.0) == 16
        assert taken(0.5, exact_us=49.0) == "exact"

    def test_recall_1_is_exact(self) -> None:
        perfect = (Point({"ef_search": 9}, 1.0, 1.0, 1.0),)
        planned = choose([(offering(perfect, 100.0), 3), (offering(POINTS, 100.0), 3)], K, 1.0)
        assert all(plan.exact for plan in planned.plans)
        assert planned.expected_recall == 1.0 and planned.calibrated_on is None

    def test_nothing_measured_is_nothing_expected(self) -> None:
        plan = choose([(offering(POINTS, 1e6, measured=False), 3)], K, 0.9).plans[0]
        assert plan == Plan({"ef_search": 32}, None, 80.0)


class TestSeveralSegments:
    def test_where_recall_is_cheap_makes_up_for_where_it_is_dear(self) -> None:
        cheap = offering((Point({"nprobe": 1}, 0.999, 0.998, 10.0),), 1e6)
        dear = offering((Point({"ef_search": 1}, 0.92, 0.91, 100.0), Point({"ef_search": 9}, 0.98, 0.97, 1000.0)), 1e6)
        planned = choose([(cheap, 900), (dear, 100)], K, 0.95)
        assert [plan.cost_us for plan in planned.plans] == [10.0, 100.0]
        assert planned.expected_recall == pytest.approx(0.9 * 0.999 + 0.1 * 0.92)
        assert [plan.cost_us for plan in choose([(cheap, 100), (dear, 900)], K, 0.95).plans] == [10.0, 1000.0]

    def test_what_is_known_of_all(self) -> None:
        known, guessed = offering(POINTS, 1e6), offering(POINTS, 1e6, "queries", measured=False)
        exact = offering((), 100.0)
        both = choose([(known, 5), (guessed, 5)], K, 0.9)
        assert both.expected_recall is None and both.calibrated_on == "data"
        assert choose([(guessed, 5), (exact, 5)], K, 0.9).calibrated_on == "queries"
        assert choose([(exact, 5), (exact, 5)], K, 0.9) == Planned((exact.options(K).exact,) * 2, 1.0, None)

    def test_no_segments(self) -> None:
        assert choose([], K, 0.9).plans == ()

    def test_many_segments(self) -> None:
        """The sums stay few: a plan is made inside the event loop."""
        dearer = [[Point(p.params, p.recall, p.lower, p.cost_us * i) for p in POINTS] for i in range(1, 41)]
        parts = [(offering(points, 1e6), i) for i, points in enumerate(dearer, 1)]
        planned = choose(parts, K, 0.93)
        assert certified(parts, planned.plans, 0.93)


def certified(parts: Sequence[tuple[Index, int]], plans: Sequence[Plan], recall: float) -> bool:
    """Whether one of the rungs of the promise holds for these plans, written down once more."""
    total = sum(rows for _, rows in parts)
    lower = mean = 0.0
    for (index, rows), plan in zip(parts, plans, strict=True):
        share = rows / total
        points = [p for p in index.options(K).points if not plan.exact and p.params == plan.params]
        lower += share * (1.0 if plan.exact else points[0].lower)
        mean += share * (1.0 if plan.exact else points[0].recall)
    return lower >= recall - FLOAT or mean >= recall + MEAN_MARGIN - FLOAT


def with_margin(parts: Sequence[tuple[Index, int]], plans: Sequence[Plan], recall: float) -> bool:
    """Whether they are certified for the recall and the margin of what was measured on data."""
    total, lower = sum(rows for _, rows in parts), 0.0
    for (index, rows), plan in zip(parts, plans, strict=True):
        points = [p for p in index.options(K).points if not plan.exact and p.params == plan.params]
        less = SHIFT_MARGIN * (1 - recall) if not plan.exact and index.options(K).on == "data" else 0.0
        lower += rows / total * ((1.0 if plan.exact else points[0].lower) - less)
    return lower >= recall - FLOAT


def ways(index: Index) -> list[Plan]:
    """The exact search only where a point costs as much: a margin is not worth more."""
    options = index.options(K)
    plans = [Plan(p.params, p.recall, p.cost_us) for p in options.points]
    dearest = max((plan.cost_us for plan in plans), default=np.inf)
    return plans + [options.exact] * (options.exact.cost_us <= dearest)


def cost(plans: Sequence[Plan]) -> float:
    return sum(plan.cost_us for plan in plans)


@st.composite
def fronts(draw: st.DrawFn) -> Index:
    """As calibration makes them: dearer finds more."""
    n = draw(st.integers(0, 5))
    recalls = sorted(draw(st.lists(st.floats(0.6, 0.999), min_size=n, max_size=n, unique=True)))
    costs = sorted(draw(st.lists(st.floats(10.0, 2000.0), min_size=n, max_size=n, unique=True)))
    doubt = draw(st.floats(0.0005, 0.01))
    points = [Point({"ef_search": i}, r, r - doubt, c) for i, (r, c) in enumerate(zip(recalls, costs, strict=True))]
    on: On = draw(st.sampled_from(("data", "queries")))
    return offering(points, draw(st.floats(20.0, 50_000.0)), on)


some_parts = st.lists(st.tuples(fronts(), st.integers(1, 1_000_000)), min_size=1, max_size=4)


@settings(deadline=None, max_examples=300)
@given(some_parts, st.floats(0.5, 0.999))
def test_the_promise_is_kept_as_cheaply_as_can_be(parts: list[tuple[Index, int]], recall: float) -> None:
    planned = choose(parts, K, recall)
    assert certified(parts, planned.plans, recall)
    every = list(itertools.product(*(ways(index) for index, _ in parts)))
    safe = [plans for plans in every if with_margin(parts, plans, recall)]
    kept = [plans for plans in every if certified(parts, plans, recall)]
    if safe:
        assert with_margin(parts, planned.plans, recall)
        assert cost(planned.plans) <= 1.01 * min(map(cost, safe))
    elif kept:
        # Certified for the recall itself goes before the mean.
        assert cost(planned.plans) <= max(map(cost, kept))
    assert cost(planned.plans) <= sum(plan.cost_us for plan in (index.options(K).exact for index, _ in parts)) + sum(
        max((p.cost_us for p in index.options(K).points), default=0.0) for index, _ in parts
    )


@settings(deadline=None, max_examples=100)
@given(some_parts)
def test_more_recall_is_never_less_certain(parts: list[tuple[Index, int]]) -> None:
    expected = [choose(parts, K, recall).expected_recall for recall in (0.7, 0.9, 0.99, 1.0)]
    known = [e for e in expected if e is not None]
    assert len(known) == 4 and known[-1] == pytest.approx(1.0)
    assert all(e >= recall - FLOAT for e, recall in zip(known, (0.7, 0.9, 0.99), strict=False))
