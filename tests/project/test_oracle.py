"""The benchmarks' oracle of recall, against the definition, number by number."""

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.oracle import KEPT, Truth, nearest
from benchmarks.recall_requests import first_that_does, steps

ROWS, QUERIES, DIMENSION = 700, 20, 12


def by_definition(metric: str, rows: NDArray[np.float64], query: NDArray[np.float64]) -> list[float]:
    if metric == "l2":
        return [float(np.sqrt(((row - query) ** 2).sum())) for row in rows]
    products = [float((row * query).sum()) for row in rows]
    if metric == "dot":
        return [-product for product in products]
    lengths = [float(np.sqrt((row**2).sum() * (query**2).sum())) for row in rows]
    return [1 - product / length for product, length in zip(products, lengths, strict=True)]


@pytest.mark.parametrize("metric", ["l2", "cosine", "dot"])
def test_the_nearest_are_those_of_the_definition_however_the_rows_are_parted(metric: str) -> None:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((ROWS, DIMENSION)).astype(np.float32)
    queries = rng.standard_normal((QUERIES, DIMENSION)).astype(np.float32)
    truth = nearest(metric, [rows[:300], rows[300:310], rows[310:]], queries)
    assert truth.rows.shape == (QUERIES, KEPT)
    for query, found, near in zip(queries.astype(np.float64), truth.rows, truth.near, strict=True):
        distances = np.array(by_definition(metric, rows.astype(np.float64), query))
        order = np.argsort(distances, kind="stable")[:KEPT]
        assert found.tolist() == order.tolist()
        assert np.allclose(near, distances[order], rtol=0, atol=1e-12)


def test_equal_distances_count_as_found_and_nothing_else_does() -> None:
    truth = Truth(np.array([[7, 3, 9, 4, 5]]), np.array([[0.1, 0.2, 0.3, 0.3, 0.4]]))
    assert truth.shares(np.array([[7, 3, 9]])).tolist() == [1.0]
    assert truth.shares(np.array([[3, 4, 7]])).tolist() == [1.0]
    assert truth.shares(np.array([[7, 3, 5]])).tolist() == [pytest.approx(2 / 3)]
    assert truth.shares(np.array([[9, 4, -1]])).tolist() == [pytest.approx(2 / 3)]
    # Both of a tie are among the right ones, and still no more than k are found.
    assert truth.shares(np.array([[7, 9]])).tolist() == [0.5]


def test_a_row_that_comes_twice_is_an_error() -> None:
    truth = Truth(np.array([[7, 3, 9]]), np.array([[0.1, 0.2, 0.3]]))
    with pytest.raises(AssertionError):
        truth.shares(np.array([[7, 7]]))


def test_the_first_setting_that_does_is_found() -> None:
    chain = [{"ef_search": ef} for ef in steps(10, 500)]
    assert chain[0] == {"ef_search": 10} and chain[-1] == {"ef_search": 500}
    for needed in (10, 11, 77, 500):
        first = first_that_does(chain, lambda p, least=needed: float(p["ef_search"] >= least), 0.5)  # type: ignore[misc]
        assert first == next(p for p in chain if p["ef_search"] >= needed)
    assert first_that_does(chain, lambda _: 0.4, 0.5) is None
    # As a graph asked for 14 at least: the first steps are all one.
    risen = first_that_does(chain, lambda p: 0.8 + max(14, p["ef_search"]) / 2500, 0.9)
    assert risen == next(p for p in chain if p["ef_search"] >= 250)
    # What has stopped rising is not followed to its dear end.
    assert first_that_does(chain, lambda p: min(0.8, p["ef_search"] / 20), 0.9) is None
