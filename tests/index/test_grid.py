"""Settings between those that were measured."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.calibration import Params, Point, front
from index.grid import Place, between
from index.price import Price, fitted
from index.sweep import thinned

PROBES, DEPTHS = (4, 8, 16, 32, 64, 128), (4, 8, 16, 32, 64)
PLACES = [(i, j) for i in range(len(DEPTHS)) for j in range(len(PROBES))]


def found_with(params: Params) -> float:
    """As lists behave: what few of them miss, and what few candidates do, adds up."""
    return 1 - 0.9 * float(params["nprobe"]) ** -0.9 - 0.25 / params["rerank"]


def at(place: Place, recall: float | None = None) -> Point:
    params = {"nprobe": PROBES[place[1]], "rerank": DEPTHS[place[0]]}
    return Point(params, found_with(params) if recall is None else recall, 0.0, 0.0)


def as_key(params: Params) -> tuple[int, ...]:
    return tuple(params.values())


grids = st.dictionaries(st.sampled_from(PLACES), st.floats(0.0, 1.0)).map(
    lambda recalls: {place: at(place, recall) for place, recall in recalls.items()}
)


class TestBetween:
    @settings(deadline=None)
    @given(grids)
    def test_what_was_measured_is_there_and_everything_once(self, measured: dict[Place, Point]) -> None:
        """Also where places of the grid are missing."""
        settings_ = {as_key(params): recall for params, recall in between(measured)}
        assert len(settings_) == len(list(between(measured)))
        for point in measured.values():
            assert settings_[as_key(point.params)] == pytest.approx(point.recall, abs=6e-4)

    @settings(deadline=None)
    @given(st.sampled_from([(i, j) for i, j in PLACES if i + 1 < len(DEPTHS) and j + 1 < len(PROBES)]), st.data())
    def test_inside_of_the_corners(self, place: Place, data: st.DataObject) -> None:
        corners = [(place[0] + down, place[1] + along) for down, along in itertools.product((0, 1), (0, 1))]
        cell = {corner: at(corner, data.draw(st.floats(0.0, 0.9995))) for corner in corners}
        points = list(cell.values())
        settings_ = list(between(cell))
        assert len(settings_) >= 16
        for params, recall in settings_:
            assert min(p.recall for p in points) - 1e-9 <= recall <= max(p.recall for p in points) + 1e-9
            for name, value in params.items():
                assert min(p.params[name] for p in points) <= value <= max(p.params[name] for p in points)

    def test_along_one_family(self) -> None:
        """Nine even steps, of at most 2 ** (1 / 4)."""
        family = {(0, 0): Point({"ef_search": 14}, 0.95, 0.0, 0.0), (0, 1): Point({"ef_search": 64}, 0.995, 0.0, 0.0)}
        settings_ = {params["ef_search"]: recall for params, recall in between(family)}
        assert list(settings_) == [14, 17, 20, 23, 28, 33, 39, 46, 54, 64]
        assert settings_[28] == pytest.approx(1 - 0.05 * 0.1 ** (4 / 9))

    def test_nothing_across_a_gap(self) -> None:
        apart = {place: at(place) for place in [(0, 0), (0, 2), (2, 1)]}
        assert [params for params, _ in between(apart)] == [point.params for point in apart.values()]

    def test_tells_what_is_found_between(self) -> None:
        for params, recall in between({place: at(place) for place in PLACES}):
            assert 1 - recall == pytest.approx(1 - found_with(params), rel=0.12)


class TestChoice:
    def test_noise_of_prices_hardly_changes_what_is_chosen(self) -> None:
        """Whoever asks for some recall pays about the least for which it is to be had."""
        real = Price(80.0, {"nprobe": 3.5, "rerank": 3.0})
        measured = {place: at(place) for place in PLACES}
        finest = [{"nprobe": p, "rerank": r} for p in range(4, 129) for r in range(4, 65)]
        rng = np.random.default_rng(6)
        for _ in range(20):
            timed = [real.of(point.params) * rng.lognormal(0, 0.1) for point in measured.values()]
            price = fitted([point.params for point in measured.values()], timed)
            expected = [Point(params, recall, 0.0, price.of(params)) for params, recall in between(measured)]
            chosen = thinned(front(expected))
            for asked in (0.8, 0.9, 0.95, 0.97):
                paid = next(real.of(p.params) for p in chosen if found_with(p.params) >= asked)
                assert paid <= 1.25 * min(real.of(params) for params in finest if found_with(params) >= asked)
