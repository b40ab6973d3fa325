"""What several threads and small pieces do for a batch leaves every bit as it is."""

from collections.abc import Iterator

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
    monkeypatch.setattr(pairs, "PIECE_ELEMENTS", 3 * 7 * 24)
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
