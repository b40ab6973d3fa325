"""A graph that is extended again and again finds as much as one that is built anew."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from index import hnsw_build, links
from index.build import Base, build
from index.contract import Metric, Vectors
from index.exact import Exact
from index.hnsw import Hnsw, opened
from index.load import load
from index.making import CannotExtend, Made
from tests.index.data import DTYPES, METRICS, clustered, vectors

PARAMS = {"m": 16, "ef_construction": 80}


def told(done: float) -> None:
    assert 0 <= done <= 1


def anew(v: Vectors, queries: NDArray[np.float32] | None = None) -> Hnsw:
    return finished(v, hnsw_build.build(v, PARAMS, queries, told))


def extended(v: Vectors, old: Hnsw, rows: NDArray[np.int64], queries: NDArray[np.float32] | None = None) -> Hnsw:
    return finished(v, hnsw_build.extend(v, old, PARAMS, rows, queries, told))


def finished(v: Vectors, made: Made) -> Hnsw:
    """As it is opened from its file."""
    check_links(made.index)
    return opened(made.index, v, made.calibration)


def check_links(graph: object) -> None:
    """What must hold of every graph: neighbours that exist, in the layer, each once, not itself, none behind a gap."""
    found = links.of(graph.hnsw)  # type: ignore[attr-defined]
    n = len(found.levels)
    assert found.levels.min() >= 1 and found.levels.max() == len(found.layers) - 1
    assert found.levels[graph.hnsw.entry_point] == found.levels.max()  # type: ignore[attr-defined]
    assert np.array_equal(np.diff(found.offsets), found.layers[found.levels])
    for layer in range(len(found.layers) - 1):
        nodes = np.flatnonzero(found.levels > layer)
        around = found.around(nodes, layer)
        assert around.min() >= -1 and around.max() < n
        assert (np.diff((around >= 0).astype(int), axis=1) <= 0).all(), "a neighbour behind a gap is never looked at"
        assert (found.levels[around[around >= 0]] > layer).all()
        assert not (around == nodes[:, None]).any()
        ordered = np.sort(around, axis=1)
        assert not ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any()


def recall(index: Hnsw, queries: NDArray[np.float32], ef: int) -> float:
    """Of the 10 nearest, by distance."""
    found = index.attempt(queries, 10, {"ef_search": ef})
    kth = Exact(index.vectors).search(queries, 10).distances[:, 9]
    return float(np.minimum((found <= kth[:, None]).sum(axis=1), 10).mean() / 10)


def grown(
    rows: NDArray[np.float32], new: NDArray[np.float32], drop: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Old rows without the dropped and the new ones, mixed as a merge mixes them; and the new row of each old one."""
    kept = np.flatnonzero(~drop)
    place = np.sort(rng.permutation(len(kept) + len(new))[: len(kept)])
    out = np.empty((len(kept) + len(new), rows.shape[1]), np.float32)
    out[place] = rows[kept]
    out[np.setdiff1d(np.arange(len(out)), place)] = new
    names = np.full(len(rows), -1, np.int64)
    names[kept] = place
    return out, names


@pytest.mark.timeout(300)
def test_ten_times_extended_is_as_good_as_built_anew() -> None:
    """20,000 × 32, each time 5 % more and 1 % dropped; calibrated on rows once, for that takes longest."""
    rng = np.random.default_rng(30)
    rows = clustered(20_000, 32, 31)
    queries, few = clustered(4000, 32, 32), clustered(100, 32, 33)
    index = anew(vectors(rows, "l2"), few)
    for step in range(10):
        new = clustered(len(rows) // 20, 32, 100 + step)
        rows, names = grown(rows, new, rng.random(len(rows)) < 0.01, rng)
        index = extended(vectors(rows, "l2"), index, names, None if step == 9 else few)
    fresh = anew(vectors(rows, "l2"), few)
    # One ef alone moves by more from one graph to another of the same rows in another order.
    efs = (16, 32, 64, 128)
    assert np.mean([recall(index, queries, ef) - recall(fresh, queries, ef) for ef in efs]) >= -0.005
    assert abs(int(index.links.levels.max()) - int(fresh.links.levels.max())) <= 1


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_storage(metric: Metric, dtype: str) -> None:
    """Under dot the new rows are longer than all before, so that the whole graph's copies are scaled anew."""
    rng = np.random.default_rng(33)
    rows = clustered(3000, 24, 34)
    index = anew(vectors(rows.astype(dtype), metric))
    rows, names = grown(rows, 1.1 * clustered(600, 24, 35), rng.random(3000) < 0.1, rng)
    index = extended(vectors(rows.astype(dtype), metric), index, names)
    assert recall(index, clustered(100, 24, 36), 200) >= 0.99
    itself = index.propose(index.vectors.rows.astype(np.float32), 14, {"ef_search": 200})
    assert np.mean([row in itself[row] for row in range(len(rows))]) >= (0.9 if metric == "dot" else 0.999)


def test_a_whole_cluster_dropped() -> None:
    """Its neighbourhood loses most of its links at once."""
    rows = clustered(6000, 16, 37)
    index = anew(vectors(rows, "l2"))
    apart = np.linalg.norm(rows - rows[0], axis=1)
    rows, names = grown(rows, rows[:0], apart <= np.quantile(apart, 0.2), np.random.default_rng(38))
    index = extended(vectors(rows, "l2"), index, names)
    fresh = anew(vectors(rows, "l2"))
    queries = rows[np.argsort(np.linalg.norm(rows - rows[0], axis=1))[:300]] + np.float32(0.1)
    assert recall(index, queries, 64) >= recall(fresh, queries, 64) - 0.005


def test_nothing_new_and_nothing_dropped() -> None:
    """Only the calibration's queries come out and go in again."""
    v = vectors(clustered(3000, 16, 39), "l2")
    index = anew(v)
    for _ in range(5):
        index = extended(v, index, np.arange(3000))
    assert recall(index, clustered(200, 16, 40), 64) >= recall(anew(v), clustered(200, 16, 40), 64) - 0.005


def test_the_entry_may_be_dropped() -> None:
    v = vectors(clustered(3000, 16, 41), "l2")
    index = anew(v)
    names = np.arange(3000)
    highest = np.flatnonzero(index.links.levels >= 2)
    names[highest] = -1
    names[names >= 0] = np.arange(3000 - len(highest))
    rest = vectors(np.delete(v.rows, highest, axis=0), "l2")
    assert recall(extended(rest, index, names), clustered(100, 16, 42), 200) >= 0.99


def test_real_queries_take_no_rows_out() -> None:
    v = vectors(clustered(3000, 16, 43), "l2")
    made = hnsw_build.build(v, PARAMS, clustered(400, 16, 44), told)
    index = finished(v, made)
    assert recall(index, clustered(200, 16, 45), 100) >= 0.99
    assert index.calibration is not None and index.calibration.on == "queries"


def test_another_width_cannot_be_extended() -> None:
    v = vectors(clustered(1000, 16, 46), "l2")
    index = anew(v)
    with pytest.raises(CannotExtend):
        hnsw_build.extend(v, index, {"m": 32, "ef_construction": 80}, np.arange(1000), None, told)
    with pytest.raises(CannotExtend):
        hnsw_build.extend(v, index, PARAMS, np.full(1000, -1), None, told)


def test_calibrated_on_rows_that_were_in_the_old_graph() -> None:
    """They are hidden while it is measured, so that what is certified is what others get; and then back."""
    v = vectors(clustered(6000, 24, 47), "l2")
    index = extended(v, anew(v), np.arange(6000))
    assert index.calibration is not None
    queries = clustered(600, 24, 48)
    front = index.calibration.front(10)
    assert front is not None
    for point in front.points:
        measured = recall(index, queries, point.params["ef_search"])
        assert point.recall - 0.01 <= measured <= point.recall + 0.03
    itself = index.propose(v.rows, 14, {"ef_search": 100})
    assert np.mean([row in itself[row] for row in range(6000)]) >= 0.999


def test_extended_by_the_builder_and_opened(tmp_path: Path) -> None:
    """From files to files: the old graph is mapped, and read-only."""
    rng = np.random.default_rng(49)
    rows, queries = clustered(3000, 16, 50), clustered(200, 16, 51)
    v = vectors(rows, "l2")
    meta = build(v, ("hnsw", {}), tmp_path / "0.faiss", threads=1)
    for step in range(2):
        index = load(tmp_path / f"{step}.faiss", meta, v)
        rows, names = grown(rows, clustered(300, 16, 52 + step), rng.random(len(rows)) < 0.05, rng)
        v, base = vectors(rows, "l2"), Base(index, tmp_path / f"{step}.faiss", meta, names)
        meta = build(v, ("hnsw", {}), tmp_path / f"{step + 1}.faiss", threads=1, base=base)
        index = load(tmp_path / f"{step + 1}.faiss", meta, v)
        assert isinstance(index, Hnsw) and recall(index, queries, 100) >= 0.99
    assert meta["built_rows"] == 3000 < meta["rows"]
