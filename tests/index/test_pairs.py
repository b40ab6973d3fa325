"""What several threads and small pieces do for a batch leaves every bit as it is."""

from collections.abc import Iterator

import faiss
import numpy as np
import pytest

from index import pairs, threads
from index.contract import Metric
from index.distance import distances
from index.exact import THREADED_QUERIES, Exact
from tests.index.data import DTYPES, METRICS, clustered, vectors


@pytest.fixture(params=[1, 3])
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    threads.set_threads(request.param)
    yield
    threads.set_threads(1)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_pairs_in_pieces(metric: Metric, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    v = vectors(clustered(300, 24, 1).astype(dtype), metric)
    queries, rng = clustered(50, 24, 2), np.random.default_rng(3)
    rows = rng.integers(-1, 300, (50, 7))
    monkeypatch.setattr(pairs, "PIECE_ELEMENTS", 10 * 24)
    found = pairs.measured(v, queries, rows)
    assert np.array_equal(np.isinf(found), rows < 0)
    for query, own, measured in zip(queries, rows, found, strict=True):
        assert np.array_equal(measured[own >= 0], distances(metric, query, v.rows[own[own >= 0]]))


@pytest.mark.usefixtures("_threads")
def test_an_exact_batch_in_threads() -> None:
    v = vectors(clustered(2000, 24, 4), "l2")
    queries = clustered(THREADED_QUERIES + 1, 24, 5)
    found = Exact(v).search(queries, 5)
    for i, query in enumerate(queries):
        alone = Exact(v).search(query[None], 5)
        assert np.array_equal(found.rows[i], alone.rows[0]) and np.array_equal(found.distances[i], alone.distances[0])


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-4, 1.0])
def test_what_surely_lies_farther_is_none_of_the_nearest(k: int, noise: float) -> None:
    """Rows that tie, that nearly do, and that lie far from the origin."""
    rng, base = np.random.default_rng(6), clustered(20, 24, 7) + 3
    rows = (np.repeat(base, 5, axis=0) + noise * rng.standard_normal((100, 24))).astype(np.float32)
    v, queries = vectors(rows, "l2"), clustered(30, 24, 8) + 3
    squares, found = faiss.knn(queries, rows, 40)
    farther = Exact(v).surely_farther(queries, squares, k)
    assert farther[:, k + 10 :].all() and not farther[:, :k].any()
    for query, own, left_out in zip(queries, found, farther, strict=True):
        measured = distances("l2", query, rows)
        assert not np.isin(own[left_out], np.flatnonzero(measured <= np.sort(measured)[k - 1])).any()
    assert not Exact(vectors(rows, "dot")).surely_farther(queries, squares, k).any()
    missing = np.full((30, 40), np.finfo(np.float32).max)
    assert not Exact(v).surely_farther(queries, missing, k).any()
