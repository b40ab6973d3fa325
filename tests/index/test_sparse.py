"""Sparse rows: their exact search, by postings and row by row, against float64 arithmetic over dense ones."""

from typing import Any

import numpy as np
import pytest

from index import sparse_distance
from index.contract import Alive
from index.sparse import SparseExact, SparseVectors
from index.sparse_distance import PostedDots, by_rows, distances, norms, squares
from seedvec.sparse import SparseRows, concatenate
from tests.index.sparse_data import drawn, first, postings, stored, true_distances

N, Q, K = 200, 8, 10
METRICS = ("dot", "cosine")


WAYS = {"in pieces": (300, 300), "list by list": (sparse_distance.PIECE, 0), "at once": (sparse_distance.PIECE, 10**9)}


@pytest.fixture(params=WAYS, autouse=True)
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    piece, short = WAYS[request.param]
    monkeypatch.setattr(sparse_distance, "PIECE", piece)
    monkeypatch.setattr(sparse_distance, "SHORT", short)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("dimension", [60, 200_000])
@pytest.mark.parametrize("metric", METRICS)
def test_the_true_nearest_with_their_distances(metric: Any, dimension: int, dtype: Any) -> None:
    """200,000: places that differ by 65,536 share an entry of the table that passes most of them over."""
    rows = drawn(1, N, dimension, 30, dtype, least=1)
    queries = concatenate([drawn(2, Q - 1, dimension, 20, least=1), rows[5:6].astype(np.float32)])
    if dimension > 65_536:
        shifted = rows.indices[: rows.size // 2] % 1000 + 65_536 * (rows.indices[: rows.size // 2] % 3)
        assert len(np.unique(shifted.astype(np.uint16))) < len(np.unique(shifted))
    wanted = np.sort(true_distances(metric, queries, rows), axis=1)[:, :K]
    for posted in (False, True):
        found = SparseExact(stored(rows, metric, posted=posted)).search(queries, K)
        assert found.exact and found.rows.shape == (Q, K)
        np.testing.assert_allclose(found.distances, wanted, rtol=1e-5, atol=1e-6)
        own = {"cosine": 0.0, "dot": -float(squares(rows[5:6])[0])}[metric]
        assert 5 in found.rows[-1] and found.distances[-1][list(found.rows[-1]).index(5)] == np.float32(own)


@pytest.mark.parametrize("metric", METRICS)
def test_a_pair_has_one_distance_whichever_way_it_is_come_by(metric: Any) -> None:
    """Bit for bit: alone, in a batch, by postings, by rows, under a filter, from a part of the rows."""
    rows, queries = drawn(3, N, 90, 40, least=1), drawn(4, Q, 90, 40, least=1)
    posted, plain = (SparseExact(stored(rows, metric, posted=p)) for p in (True, False))
    every = posted.search(queries, N)
    table = np.full((Q, N), np.nan, np.float32)
    np.put_along_axis(table, every.rows, every.distances, axis=1)
    half = Alive.of(np.arange(N) % 2 == 0)
    few = Alive.of(np.arange(N) % 50 == 7)
    for search in (posted, plain):
        for alive in (None, half, few):
            for found in (search.search(queries, 5, alive=alive), search.search(queries[3:4], 5, alive=alive)):
                queries_of = range(Q) if len(found.rows) == Q else [3]
                for query, hits, far in zip(queries_of, found.rows, found.distances, strict=True):
                    assert far.tobytes() == table[query, hits].tobytes()
    apart = SparseExact(stored(rows[100:200], metric, posted=True)).search(queries, 100)
    for query in range(Q):
        assert apart.distances[query].tobytes() == table[query, apart.rows[query] + 100].tobytes()


def test_of_rows_as_far_the_first_by_id_come() -> None:
    """A query that meets no row is as far from all: no more than k come, whatever their number."""
    rows = drawn(5, N, 50, 10, least=1)
    nowhere = SparseRows(np.array([0, 1]), np.array([50], np.int32), np.ones(1, np.float32), 60)
    wide = SparseRows(rows.indptr, rows.indices, rows.values, 60)
    for posted in (False, True):
        search = SparseExact(stored(wide, "dot", posted=posted))
        found = search.search(nowhere, K)
        assert found.rows.tolist() == [list(range(N - K, N))] and not found.distances.any()
        assert not np.signbit(found.distances).any(), "no minus zero"
        alive = Alive.of(np.arange(N) < 100)
        assert search.search(nowhere, K, alive=alive).rows.tolist() == [list(range(100 - K, 100))]


def test_fewer_rows_than_asked_for_and_none() -> None:
    rows, query = drawn(6, 7, 20, 5), drawn(7, 1, 20, 5, least=1)
    search = SparseExact(stored(rows, "dot", posted=True))
    assert sorted(search.search(query, 100).rows[0].tolist()) == list(range(7))
    nobody = Alive.of(np.zeros(7, bool))
    assert search.search(query, 3, alive=nobody).rows.shape == (1, 0)
    empty = SparseExact(SparseVectors(drawn(8, 0, 20, 5), "dot", first))
    assert empty.search(query, 3).rows.shape == (1, 0)
    void = SparseRows(np.zeros(2, np.int64), np.empty(0, np.int32), np.empty(0, np.float32), 20)
    assert search.search(void, 3).distances.tolist() == [[0.0, 0.0, 0.0]]


def test_sums_come_in_the_order_of_the_places() -> None:
    """In float64, one number after the other: in another order 1 would be lost."""
    big = np.array([2.0**60, 1.0, -(2.0**60)])
    one = SparseRows(np.array([0, 3]), np.array([3, 5, 9], np.int32), np.ones(3, np.float32), 10)
    for order, total in (((0, 2, 1), 1.0), ((0, 1, 2), 0.0)):
        rows = SparseRows(one.indptr, one.indices, big[list(order)].astype(np.float32), 10)
        assert by_rows(one, rows).tolist() == [total]
        assert PostedDots(one, postings(rows), rows.indptr).all().tolist() == [total]
    assert distances("dot", np.array([0.0]), 1.0, None).tobytes() == np.zeros(1, np.float32).tobytes()


def test_norms_and_rows_taken_apart() -> None:
    rows = drawn(9, 300, 70, 25)
    dense = rows.dense()
    np.testing.assert_allclose(norms(rows), np.linalg.norm(dense.astype(np.float64), axis=1), rtol=1e-6)
    numbers = np.random.default_rng(1).integers(0, 300, 500)
    for some in (numbers, slice(20, 30), slice(None, None, 7), slice(5, 5), [3, 3], np.empty(0, np.int64)):
        assert (rows[some].dense() == dense[some]).all()
    assert (concatenate([rows[:10], rows[200:]]).dense() == np.concatenate([dense[:10], dense[200:]])).all()
