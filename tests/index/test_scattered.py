"""Vectors that do not fit the memory: each row is told of before it is read, and the answers are the same."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from index.approximate import Approximate
from index.build import build, resolve
from index.contract import Alive
from index.load import load
from tests.index.data import METRICS, clustered, vectors

N, D = 4000, 32
ROWS, QUERIES = clustered(N, D, 1), clustered(40, D, 2)


@pytest.fixture(scope="module", params=[(kind, metric) for kind in ("ivf", "hnsw") for metric in METRICS])
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Approximate, Approximate, list[NDArray[np.int64]]]]:
    """The same index over vectors in memory and over scattered ones, and what the latter were told of."""
    kind, metric = request.param
    path: Path = tmp_path_factory.mktemp("scattered") / "index"
    v = vectors(ROWS, metric)
    meta = build(v, resolve(kind, {}, N, D, v.metric, 0.95), path)
    told: list[NDArray[np.int64]] = []
    yield load(path, meta, v), load(path, meta, replace(v, ahead=told.append)), told


@pytest.mark.parametrize("count", [1, len(QUERIES)])
@pytest.mark.parametrize("share", [1.0, 0.95, 0.3])
def test_the_same_answers(
    both: tuple[Approximate, Approximate, list[NDArray[np.int64]]], count: int, share: float
) -> None:
    plain, scattered, told = both
    alive = None if share == 1 else Alive.of(np.random.default_rng(3).random(N) < share)
    plan = plain.given(plain.defaults, 10)  # not what is cheapest, which might be the exact search
    del told[:]
    expected = plain.search(QUERIES[:count], 10, plan, alive)
    found = scattered.search(QUERIES[:count], 10, plan, alive)
    # Re-ranked by the one distance instead of Faiss' own, which may tell two neighbours apart the other way round.
    assert np.mean(found.rows[:, :10] == expected.rows[:, :10]) > 0.98
    same = found.rows[:, :10] == expected.rows[:, :10]
    np.testing.assert_array_equal(found.distances[:, :10][same], expected.distances[:, :10][same])
    if not found.exact:
        known = np.concatenate([rows.ravel() for rows in told])
        assert np.isin(found.rows[found.rows >= 0], known).all()
