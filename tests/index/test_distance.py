"""The one distance: what it means, and that a pair's bits never depend on its company."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from index.contract import Metric
from index.distance import LARGEST, distances, nearest_first, norms
from index.halves import as_float32
from tests.index.data import DTYPES, METRICS, clustered, tolerance, true_distances

DIMENSIONS = (1, 2, 3, 7, 16, 100, 784, 9000)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_is_what_the_contract_says(metric: Metric, dtype: str, dimension: int) -> None:
    rows = clustered(50, dimension, 1).astype(dtype)
    query = clustered(1, dimension, 2)[0]
    got = distances(metric, query, rows)
    assert got.dtype == np.float32 and got.shape == (50,)
    assert np.abs(got - true_distances(metric, query, rows)).max() <= tolerance(metric, query, rows)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_same_bits_alone_in_a_batch_and_at_any_address(metric: Metric, dtype: str, dimension: int) -> None:
    rows = clustered(33, dimension, 3).astype(dtype)
    queries = clustered(4, dimension, 4)
    together = distances(metric, queries[:, None, :], rows[None])
    for i, query in enumerate(queries):
        assert np.array_equal(together[i], distances(metric, query, rows))
        alone = [distances(metric, query, rows[j : j + 1])[0] for j in range(len(rows))]
        assert np.array_equal(together[i], alone)
    shifted = np.empty(rows.size + 1, rows.dtype)[1:].reshape(rows.shape)
    shifted[:] = rows
    assert np.array_equal(together[0], distances(metric, queries[0], shifted))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dimension", DIMENSIONS)
@pytest.mark.parametrize("scale", [1.0, 1e-19, 1e-14, 1e18, 1e37])
def test_in_order_they_are_the_same_bits(metric: Metric, dimension: int, scale: float) -> None:
    """Within and without what float32 squares well; rows that are the query, that repeat, and one of zeros."""
    rows = (clustered(40, dimension, 6) * scale).astype(np.float32)
    rows[7], rows[9], rows[11] = rows[3], rows[3], 0
    for query in (rows[3], (clustered(1, dimension, 7)[0] * scale).astype(np.float32)):
        order, far = nearest_first(metric, query, rows)
        assert np.array_equal(far, distances(metric, query, rows)[order])
        assert np.array_equal(np.lexsort((order, far)), np.arange(len(rows)))


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])
def test_a_vector_is_at_no_distance_from_itself(metric: Metric, dtype: str, scale: float) -> None:
    rows = (clustered(200, 77, 5) * scale).astype(dtype)
    for row in rows:
        assert distances(metric, row.astype(np.float32), row[None])[0] == 0


def test_numbers_whose_squares_leave_float32() -> None:
    huge, tiny = np.full((1, 4), 3e30, np.float32), np.full((1, 4), 2e-30, np.float32)
    zero = np.zeros(4, np.float32)
    assert distances("l2", zero, huge)[0] == pytest.approx(6e30)
    assert distances("l2", zero, tiny)[0] == pytest.approx(4e-30)
    assert distances("dot", huge[0], huge)[0] == np.float32(-LARGEST)
    assert distances("cosine", huge[0], tiny)[0] == pytest.approx(0, abs=1e-7)
    assert distances("cosine", tiny[0], -tiny)[0] == pytest.approx(2)
    assert norms(huge)[0] == pytest.approx(6e30) and norms(tiny)[0] == pytest.approx(4e-30)


@settings(max_examples=200, deadline=None)
@given(
    arrays(np.float32, 5, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
    arrays(np.float32, 5, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
)
def test_is_always_a_number(a: NDArray[np.float32], b: NDArray[np.float32]) -> None:
    for metric in METRICS:
        got = distances(metric, a, b[None])[0]
        assert np.isfinite(got)
        if metric != "dot":
            assert got >= 0
        if metric == "cosine":
            assert got <= 2


def test_norms() -> None:
    rows = clustered(1000, 30, 6)
    assert np.allclose(norms(rows), np.linalg.norm(rows.astype(np.float64), axis=1), rtol=1e-6)
    assert norms(rows[:0]).shape == (0,)


def test_every_float16_becomes_its_float32() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    assert np.array_equal(as_float32(halves).view(np.uint32), halves.astype(np.float32).view(np.uint32))
