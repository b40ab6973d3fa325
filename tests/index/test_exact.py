"""The exact search is exact: the true k nearest of the one distance, with every tie, by whichever kernel."""

import numpy as np
import pytest
from numpy.typing import NDArray

from index.contract import Alive, Found, Metric, Vectors
from index.distance import distances
from index.exact import MATRIX_QUERIES, Exact
from index.kernels import BLAS_QUERIES
from index.selection import kth_smallest
from tests.index.data import DTYPES, METRICS, clustered, vectors


def truth(v: Vectors, query: NDArray[np.float32], k: int, mask: NDArray[np.bool_] | None) -> list[tuple[float, int]]:
    """All rows measured by the one distance, sorted: the k nearest and all that tie with the last."""
    measured = distances(v.metric, query, v.rows)
    every = sorted((float(d), i) for i, d in enumerate(measured) if mask is None or mask[i])
    return every if k > len(every) else [hit for hit in every if hit[0] <= every[k - 1][0]]


def hits(found: Found, query: int) -> list[tuple[float, int]]:
    rows, measured = found.rows[query], found.distances[query]
    assert np.all((rows >= 0) == np.isfinite(measured))
    return [(float(d), int(r)) for d, r in zip(measured[rows >= 0], rows[rows >= 0], strict=True)]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("share", [1.0, 0.9, 0.5, 0.1, 0.01, 0.001, 0.0])
def test_true_nearest_alone_and_in_batches(metric: Metric, dtype: str, share: float) -> None:
    v = vectors(clustered(3000, 24, 1).astype(dtype), metric)
    queries = clustered(9, 24, 2)
    mask = np.random.default_rng(3).random(3000) < share
    alive = None if share == 1.0 else Alive.of(mask)
    exact = Exact(v)
    for k in (1, 10, 100):
        expected = [truth(v, query, k, None if alive is None else mask) for query in queries]
        for size in (1, len(queries), MATRIX_QUERIES, BLAS_QUERIES):
            batch = exact.search(np.resize(queries, (size, 24)), k, alive=alive)
            assert [hits(batch, i) for i in range(size)] == [expected[i % len(queries)] for i in range(size)]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_all_ties_come(metric: Metric, dtype: str) -> None:
    base = clustered(50, 8, 4).astype(dtype)
    v = vectors(np.repeat(base, 40, axis=0), metric)
    queries = np.concatenate([base[:5].astype(np.float32), clustered(MATRIX_QUERIES, 8, 5)])
    found = Exact(v).search(queries, 10)
    for i, query in enumerate(queries):
        assert hits(found, i) == truth(v, query, 10, None)
        assert len(hits(found, i)) >= 40
        assert hits(Exact(v).search(query[None], 10), 0) == hits(found, i)


@pytest.mark.parametrize("metric", METRICS)
def test_far_from_the_origin(metric: Metric) -> None:
    """|r|² − 2 q·r keeps nothing of distances of 1 between vectors of norm 10,000: the bound must notice."""
    rows = clustered(20_000, 16, 6) * np.float32(0.1) + np.float32(3000)
    v = vectors(rows, metric)
    queries = clustered(MATRIX_QUERIES, 16, 7) * np.float32(0.1) + np.float32(3000)
    found = Exact(v).search(queries, 10)
    for i, query in enumerate(queries):
        assert hits(found, i) == truth(v, query, 10, None)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [1e-25, 1e-14, 1e12, 1e25])
def test_extreme_numbers(metric: Metric, scale: float) -> None:
    v = vectors((clustered(400, 6, 8) * scale).astype(np.float32), metric)
    queries = (clustered(MATRIX_QUERIES, 6, 9) * scale).astype(np.float32)
    found = Exact(v).search(queries, 7)
    for i, query in enumerate(queries):
        assert hits(found, i) == truth(v, query, 7, None)


def test_a_zero_vector_under_l2_and_dot() -> None:
    rows = clustered(500, 6, 10)
    rows[7] = 0
    metric: Metric
    for metric in ("l2", "dot"):
        v = vectors(rows.copy(), metric)
        query = np.zeros((1, 6), np.float32)
        assert hits(Exact(v).search(query, 3), 0) == truth(v, query[0], 3, None)


def test_k_beyond_the_rows_and_no_rows() -> None:
    v = vectors(clustered(5, 4, 1), "l2")
    queries = clustered(MATRIX_QUERIES, 4, 2)
    for q in (1, 6, MATRIX_QUERIES):
        found = Exact(v).search(queries[:q], 10_000)
        assert found.rows.shape == (q, 5) and (np.sort(found.rows, axis=1) == np.arange(5)).all()
    none = Exact(vectors(np.empty((0, 4), np.float32), "cosine")).search(queries, 10)
    assert none.rows.shape == none.distances.shape == (MATRIX_QUERIES, 0)
    assert Exact(v).search(queries[:0], 3).rows.shape == (0, 0)


@pytest.mark.parametrize("metric", METRICS)
def test_among_some_rows_alone(metric: Metric) -> None:
    v = vectors(clustered(2000, 12, 11), metric)
    queries = clustered(MATRIX_QUERIES, 12, 12)
    wanted = np.flatnonzero(np.random.default_rng(13).random(2000) < 0.2)
    mask = np.zeros(2000, np.bool_)
    mask[wanted] = True
    found = Exact(v).search_rows(queries, 10, wanted)
    for i, query in enumerate(queries):
        assert hits(found, i) == truth(v, query, 10, mask)


def test_more_scores_than_fit_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries in several parts, rows in several blocks, the bound from a sample of them."""
    monkeypatch.setattr("index.exact.SAMPLED_ROWS", 200)
    monkeypatch.setattr("index.exact.KEPT_SCORES", 7 * 300)
    monkeypatch.setattr("index.kernels.MATRIX_ELEMENTS", 12 * 256)
    v = vectors(clustered(1000, 12, 14), "l2")
    queries = clustered(27, 12, 15)
    mask = np.random.default_rng(16).random(1000) < 0.5
    for alive in (None, Alive.of(mask)):
        found = Exact(v).search(queries, 10, alive=alive)
        for i, query in enumerate(queries):
            assert hits(found, i) == truth(v, query, 10, None if alive is None else mask)


@pytest.mark.parametrize("n", [1, 50, 30_000])
def test_kth_smallest(n: int) -> None:
    rng = np.random.default_rng(16)
    for drawn in (rng.random(n), rng.integers(0, 5, n).astype(float), np.zeros(n), np.sort(rng.random(n))):
        scores = drawn.astype(np.float32)
        for k in (1, min(10, n), n):
            assert kth_smallest(scores, k) == np.sort(scores)[k - 1]


def test_says_what_it_costs() -> None:
    v = vectors(clustered(1000, 12, 17), "l2")
    plan = Exact(v).plan(10, 0.5)
    assert plan.exact and plan.expected_recall == 1.0 and plan.params == {} and plan.cost_us > 0
