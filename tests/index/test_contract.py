"""One suite for every kind of index, under every metric and dtype: what `index/contract.py` promises."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from index.build import build
from index.contract import Alive, Found, Index, Metric, Plan, Rejected, Vectors
from index.distance import distances
from index.exact import Exact
from index.load import load
from tests.index.data import DTYPES, METRICS, clustered, true_distances, vectors

ROWS, DIMENSION = 3000, 24
RECALL = 0.9

Opened = tuple[Vectors, Index]
Opener = Callable[[str, Metric, str], Opened]


@pytest.fixture(scope="module")
def opener(tmp_path_factory: pytest.TempPathFactory) -> Opener:
    folder = tmp_path_factory.mktemp("indexes")

    @cache
    def open_one(kind: str, metric: Metric, dtype: str) -> Opened:
        v = vectors(clustered(ROWS, DIMENSION, 1).astype(dtype), metric)
        if kind == "flat":
            return v, Exact(v)
        path = folder / f"{kind}-{metric}-{dtype}.faiss"
        meta = build(v, (kind, {}), path, recall=RECALL, threads=1)
        return v, load(path, meta, v)

    return open_one


def live_hits(found: Found, i: int) -> NDArray[np.int64]:
    rows = found.rows[i]
    return np.asarray(rows[rows >= 0])


def check_form(found: Found, queries: NDArray[Any], v: Vectors, k: int, mask: NDArray[np.bool_] | None) -> None:
    """All that holds whatever the recall: counts, order, distances, ties, nobody dead, nobody twice."""
    live = len(v.rows) if mask is None else int(mask.sum())
    assert found.rows.dtype == np.int64 and found.distances.dtype == np.float32
    assert found.rows.shape == found.distances.shape and len(found.rows) == len(queries)
    for i, query in enumerate(queries):
        rows = live_hits(found, i)
        measured = found.distances[i, : len(rows)]
        assert (found.rows[i, len(rows) :] == -1).all() and np.isinf(found.distances[i, len(rows) :]).all()
        assert len(rows) >= min(k, live) and len(set(rows.tolist())) == len(rows)
        assert mask is None or mask[rows].all()
        assert np.array_equal(measured, distances(v.metric, query, v.rows[rows]))
        order = np.lexsort((rows, measured))
        assert np.array_equal(order, np.arange(len(rows)))
        assert (measured[k:] == measured[k - 1 : k]).all(), "past the k-th there are only its ties"


def recall(found: Found, queries: NDArray[Any], v: Vectors, k: int, mask: NDArray[np.bool_] | None = None) -> float:
    shares = []
    for i, query in enumerate(queries):
        every = true_distances(v.metric, query, v.rows)
        if mask is not None:
            every[~mask] = np.inf
        want = min(k, len(every) if mask is None else int(mask.sum()))
        kth = np.sort(every)[want - 1]
        near = every[live_hits(found, i)] <= kth + 1e-5 * abs(kth) + 1e-6
        shares.append(min(want, int(near.sum())) / max(want, 1))
    return float(np.mean(shares))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
class IndexContract:
    """Subclasses name the kind."""

    kind: str

    def test_keeps_its_promise(self, opener: Opener, metric: Metric, dtype: str) -> None:
        v, index = opener(self.kind, metric, dtype)
        assert index.kind == self.kind
        queries = clustered(200, DIMENSION, 2)
        plan = index.plan(10, RECALL)
        found = index.search(queries, 10, plan)
        check_form(found, queries, v, 10, None)
        measured = recall(found, queries, v, 10)
        assert measured >= RECALL - 0.01
        assert plan.expected_recall is not None and abs(measured - plan.expected_recall) < 0.03

    @pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.001, 0.0])
    def test_only_the_living(self, opener: Opener, metric: Metric, dtype: str, share: float) -> None:
        v, index = opener(self.kind, metric, dtype)
        queries = clustered(20, DIMENSION, 3)
        mask = np.random.default_rng(4).random(ROWS) < share
        for plan in (index.plan(10, RECALL), cheap(index)):
            found = index.search(queries, 10, plan, Alive.of(mask))
            check_form(found, queries, v, 10, mask)
        found = index.search(queries, 10, index.plan(10, RECALL), Alive.of(mask))
        assert share == 0 or recall(found, queries, v, 10, mask) >= 0.9

    @pytest.mark.parametrize("k", [1, 3, 50, 400, ROWS, 10_000])
    def test_every_k(self, opener: Opener, metric: Metric, dtype: str, k: int) -> None:
        v, index = opener(self.kind, metric, dtype)
        queries = clustered(3, DIMENSION, 5)
        for plan in (index.plan(k, RECALL), cheap(index)):
            check_form(index.search(queries, k, plan), queries, v, k, None)
        found = index.search(queries, k, index.plan(k, RECALL))
        assert recall(found, queries, v, k) >= 0.8

    def test_a_batch_answers_as_each_alone(self, opener: Opener, metric: Metric, dtype: str) -> None:
        _, index = opener(self.kind, metric, dtype)
        queries = clustered(40, DIMENSION, 6)
        mask = np.random.default_rng(7).random(ROWS) < 0.6
        for alive in (None, Alive.of(mask)):
            for plan in (index.plan(10, RECALL), cheap(index)):
                together = index.search(queries, 10, plan, alive)
                for i in range(len(queries)):
                    alone = index.search(queries[i : i + 1], 10, plan, alive)
                    assert np.array_equal(live_hits(alone, 0), live_hits(together, i))
                    width = alone.distances.shape[1]
                    assert np.array_equal(alone.distances[0], together.distances[i, :width])

    def test_each_row_finds_itself(self, opener: Opener, metric: Metric, dtype: str) -> None:
        """Rows are named as in the segment, the calibration's queries (added last) included."""
        v, index = opener(self.kind, metric, dtype)
        asked = np.arange(0, ROWS, 7)
        found = index.search(v.rows[asked].astype(np.float32), 10, index.plan(10, 0.99))
        itself = np.array([asked[i] in found.rows[i] for i in range(len(asked))])
        if metric == "dot":  # longer vectors may be nearer to it than itself
            squares = [distances(metric, v.rows[row].astype(np.float32), v.rows[row : row + 1])[0] for row in asked]
            itself |= found.distances[:, 9] < squares
        # A graph by inner product leaves some nodes without a way in.
        assert itself.mean() >= (0.9 if metric == "dot" else 0.98)

    def test_recall_1_is_exact(self, opener: Opener, metric: Metric, dtype: str) -> None:
        v, index = opener(self.kind, metric, dtype)
        queries = clustered(10, DIMENSION, 8)
        plan = index.plan(10, 1.0)
        assert plan.exact
        found, exact = index.search(queries, 10, plan), Exact(v).search(queries, 10)
        assert np.array_equal(found.rows, exact.rows) and np.array_equal(found.distances, exact.distances)


def cheap(index: Index) -> Plan:
    """So narrow that much is missing, and said to cost nothing, so that the index itself is tried."""
    params: dict[str, int] = {"flat": {}, "hnsw": {"ef_search": 1}, "ivf": {"nprobe": 1, "rerank": 1}}[index.kind]
    return Plan(params, None, 0.0, exact=index.kind == "flat")


class TestFlat(IndexContract):
    kind = "flat"


class TestHnsw(IndexContract):
    kind = "hnsw"


class TestIvf(IndexContract):
    kind = "ivf"


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
@pytest.mark.parametrize("metric", METRICS)
def test_ties_past_the_candidates(tmp_path: Path, kind: str, metric: Metric) -> None:
    """60 copies of each vector: the k nearest all tie. Lists hold all copies; a graph of copies is full of holes."""
    base = clustered(60, 8, 9)
    v = vectors(np.tile(base, (60, 1)), metric)
    path = tmp_path / "index.faiss"
    index = load(path, build(v, (kind, {}), path, threads=1), v)
    params = {"ef_search": 40} if kind == "hnsw" else {"nprobe": 60, "rerank": 4}
    for queries in (base[:8], base[:1]):
        found = index.search(queries, 10, Plan(params, None, 0.0))
        check_form(found, queries, v, 10, None)
        if metric == "dot":
            continue  # its nearest is the longest, not the query
        for i in range(len(queries)):
            copies = live_hits(found, i).tolist()
            assert set(copies) <= set(range(i, 3600, 60))
            assert len(copies) == 60 if kind == "ivf" else len(copies) > 14


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
@pytest.mark.parametrize("dimension", [1, 2, 5, 37, 300])
@pytest.mark.parametrize("metric", METRICS)
def test_odd_dimensions(tmp_path: Path, kind: str, dimension: int, metric: Metric) -> None:
    v = vectors(clustered(400, dimension, 10), metric)
    path = tmp_path / "index.faiss"
    if (kind, dimension, metric) == ("hnsw", 1, "cosine"):
        # Copies of two directions: a graph of them is full of holes, and not let through.
        with pytest.raises(Rejected):
            build(v, (kind, {}), path, threads=1)
        assert not path.exists()
        return
    index = load(path, build(v, (kind, {}), path, threads=1), v)
    queries = clustered(20, dimension, 11)
    params = {"ef_search": 200} if kind == "hnsw" else {"nprobe": 100, "rerank": 16}
    found = index.search(queries, 10, Plan(params, None, 0.0))
    check_form(found, queries, v, 10, None)
    assert recall(found, queries, v, 10) >= 0.9


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_unit_vectors_under_cosine(tmp_path: Path, kind: str, dtype: str) -> None:
    """Searched from the segment's own bytes, with queries of any length."""
    v = vectors(clustered(2000, 20, 12, unit=True).astype(dtype), "cosine")
    path = tmp_path / "index.faiss"
    index = load(path, build(v, (kind, {}), path, threads=1), v)
    queries = clustered(50, 20, 13) * np.float32(37)
    params = {"ef_search": 100} if kind == "hnsw" else {"nprobe": 30, "rerank": 8}
    found = index.search(queries, 10, Plan(params, None, 0.0))
    check_form(found, queries, v, 10, None)
    assert recall(found, queries, v, 10) >= 0.95
