"""For any k, from what was measured for a few: neither less looked at nor more promised than that."""

import numpy as np
import pytest

from index.approximate import MAX_OPTIONS, Approximate, spare
from index.build import build
from index.calibration import Calibration, Front, Point
from index.contract import Plan, Vectors
from index.exact import Exact
from index.load import load
from index.parameters import SEARCH_PARAMETERS, check_search_params
from tests.index.data import clustered, vectors

GRAPH = Calibration(
    (
        Front(10, (Point({"ef_search": 20}, 0.9, 0.89, 50.0), Point({"ef_search": 90}, 0.99, 0.985, 200.0)), 500),
        Front(100, (Point({"ef_search": 125}, 0.97, 0.96, 300.0), Point({"ef_search": 500}, 0.999, 0.998, 900.0)), 90),
    )
)
LISTS = Calibration(
    (
        Front(10, (Point({"nprobe": 8, "rerank": 16}, 0.95, 0.94, 60.0),), 500),
        Front(100, (Point({"nprobe": 4, "rerank": 4}, 0.93, 0.92, 250.0),), 90),
    )
)


class Dear(Exact):
    """An exact search over so few rows would be the cheapest plan of all."""

    def cost_us(self, rows: int) -> float:
        return 1e6


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Approximate]:
    folder = tmp_path_factory.mktemp("offers")
    v: Vectors = vectors(clustered(3000, 16, 1), "l2")
    opened = {}
    for kind, calibration in (("hnsw", GRAPH), ("ivf", LISTS)):
        path = folder / kind
        meta = build(v, (kind, {"nlist": 50} if kind == "ivf" else {}), path, threads=1)
        opened[kind] = load(path, meta, v).with_calibration(calibration)
    return opened


class TestOptions:
    def test_at_what_was_measured(self, indexes: dict[str, Approximate]) -> None:
        for index in indexes.values():
            assert index.calibration is not None
            for front in index.calibration.fronts:
                options = index.options(front.k)
                assert options.points == front.points and options.measured and options.on == "data"
                assert options.exact == index.exact.plan(front.k, 1.0)
                assert index.options(front.k) is options, "kept"

    def test_in_between_a_graph_looks_at_as_much_as_either(self, indexes: dict[str, Approximate]) -> None:
        options = indexes["hnsw"].options(30)
        assert options.measured
        assert options.points == (
            # Though the smaller k's 20 would do for 0.89: as cheap, and surer.
            Point({"ef_search": 125}, 0.97, 0.96, 300.0),
            Point({"ef_search": 500}, 0.99, 0.985, 900.0),
        )

    def test_in_between_no_more_is_looked_at_than_either_takes(self, indexes: dict[str, Approximate]) -> None:
        """Where the least that the larger k can do is surer than what is asked for."""
        smaller = Front(10, tuple(Point({"ef_search": ef}, 1 - 1 / ef, 1 - 1 / ef, ef) for ef in (20, 50, 1000)), 9)
        larger = Front(100, (Point({"ef_search": 200}, 0.999, 0.999, 400.0),), 9)
        options = indexes["hnsw"].with_calibration(Calibration((smaller, larger))).options(30)
        assert [(p.params["ef_search"], p.lower) for p in options.points] == [(200, 0.98), (1000, 0.999)]

    def test_in_between_lists_re_rank_as_many(self, indexes: dict[str, Approximate]) -> None:
        (point,) = indexes["ivf"].options(30).points
        assert point.params["nprobe"] == 8 and (point.recall, point.lower, point.cost_us) == (0.93, 0.92, 250.0)
        candidates = point.params["rerank"] * (30 + spare(30))
        assert 4 * (100 + spare(100)) <= candidates < 4 * (100 + spare(100)) + 30 + spare(30)

    def test_beyond_what_was_measured_nothing_is_promised(self, indexes: dict[str, Approximate]) -> None:
        options = indexes["hnsw"].options(200)
        assert not options.measured
        assert [p.params["ef_search"] for p in options.points] == [250, 1000]
        assert [p.cost_us for p in options.points] == [600.0, 1800.0]
        index = indexes["hnsw"].with_calibration(GRAPH)
        index.exact = Dear(index.vectors)
        assert index.plan(200, 0.9) == Plan({"ef_search": 250}, None, 600.0)

    def test_below_what_was_measured_as_much_is_looked_at(self, indexes: dict[str, Approximate]) -> None:
        """As with a calibration of version 1, which knows k = 10 alone."""
        options = indexes["ivf"].options(1)
        assert not options.measured
        (point,) = options.points
        assert point.params == {"nprobe": 8, "rerank": 45} and 45 * (1 + spare(1)) >= 16 * (10 + spare(10))

    def test_without_calibration_there_is_the_exact_search(self, indexes: dict[str, Approximate]) -> None:
        index = indexes["hnsw"].with_calibration(Calibration((Front(10, (), 5),)))
        assert index.plan(10, 0.9).exact and index.plan(30, 0.9).exact and index.plan(1, 0.9).exact

    def test_not_every_k_is_remembered(self, indexes: dict[str, Approximate]) -> None:
        index = indexes["hnsw"].with_calibration(GRAPH)
        for k in range(1, 3 * MAX_OPTIONS):
            index.options(k)
        assert len(index._options) <= MAX_OPTIONS

    def test_another_calibration_shares_all_else(self, indexes: dict[str, Approximate]) -> None:
        index = indexes["hnsw"].with_calibration(GRAPH)
        index.exact = Dear(index.vectors)
        assert index.plan(10, 0.85).params == {"ef_search": 20}
        other = index.with_calibration(
            Calibration((Front(10, (Point({"ef_search": 77}, 1.0, 0.999, 9.0),), 5),), "queries")
        )
        assert other.plan(10, 0.85) == Plan({"ef_search": 77}, 1.0, 9.0) and other.options(10).on == "queries"
        assert index.plan(10, 0.85).params == {"ef_search": 20}, "the first is as it was"
        assert other.vectors is index.vectors and vars(other)["_graph"] is vars(index)["_graph"]
        queries = clustered(3, 16, 2)
        assert np.array_equal(
            other.search(queries, 10, other.plan(10, 1.0)).rows, Exact(index.vectors).search(queries, 10).rows
        )


class TestGiven:
    def test_a_measured_point(self, indexes: dict[str, Approximate]) -> None:
        assert indexes["hnsw"].given({"ef_search": 90}, 10) == Plan({"ef_search": 90}, 0.99, 200.0)

    def test_any_other(self, indexes: dict[str, Approximate]) -> None:
        assert indexes["hnsw"].given({"ef_search": 50}, 10) == Plan({"ef_search": 50}, None, 200.0)
        assert indexes["hnsw"].given({"ef_search": 180}, 10) == Plan({"ef_search": 180}, None, 400.0)

    def test_what_is_missing_is_filled_in(self, indexes: dict[str, Approximate]) -> None:
        assert indexes["ivf"].given({"nprobe": 3}, 10).params == {"nprobe": 3, "rerank": 16}
        assert indexes["ivf"].given({"rerank": 2}, 10).params == {"nprobe": 8, "rerank": 2}
        bare = indexes["ivf"].with_calibration(Calibration((Front(10, (), 5),)))
        assert bare.given({"nprobe": 3}, 10).params == {"nprobe": 3, "rerank": 16}

    def test_names_of_others_are_passed_over(self, indexes: dict[str, Approximate]) -> None:
        assert indexes["ivf"].given({"nprobe": 3, "ef_search": 9}, 10).params == {"nprobe": 3, "rerank": 16}
        assert indexes["ivf"].exact.given({"nprobe": 3}, 10).exact

    def test_it_is_obeyed(self, indexes: dict[str, Approximate]) -> None:
        """Though the exact search over so few rows would be cheaper."""
        for kind, params in (("hnsw", {"ef_search": 16}), ("ivf", {"nprobe": 1, "rerank": 1})):
            found = indexes[kind].search(clustered(5, 16, 3), 10, indexes[kind].given(params, 10))
            assert not found.exact and found.params == params


class TestSearchParameters:
    def test_ranges(self) -> None:
        for kind, parameters in SEARCH_PARAMETERS.items():
            for p in parameters:
                assert check_search_params({kind}, {p.name: p.minimum}) == []
                assert check_search_params({"flat", kind}, {p.name: p.maximum}) == []
                for value in (p.minimum - 1, p.maximum + 1):
                    ((name, message),) = check_search_params({kind}, {p.name: value})
                    assert name == p.name and str(p.minimum) in message and str(p.maximum) in message

    def test_of_all_kinds_there_are(self) -> None:
        assert check_search_params({"hnsw", "ivf"}, {"ef_search": 9, "nprobe": 9}) == []
        ((name, message),) = check_search_params({"ivf"}, {"ef_search": 9})
        assert name == "ef_search" and "nprobe and rerank" in message
        assert check_search_params({"hnsw"}, {"ef_search": True}) == [("ef_search", "must be an integer")]

    def test_indexes_take_what_is_named(self, indexes: dict[str, Approximate]) -> None:
        for kind, index in indexes.items():
            assert set(index.defaults) == {p.name for p in SEARCH_PARAMETERS[kind]}
