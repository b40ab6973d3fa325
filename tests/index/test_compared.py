"""What a graph compares tells neighbours apart, whatever the numbers are like."""

from pathlib import Path

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from index.build import build
from index.compared import SIMD_WIDTH, chosen
from index.contract import Metric
from index.hnsw import Hnsw
from index.load import load
from tests.index.data import METRICS, clustered, vectors
from tests.index.test_hnsw_extended import recall

FEW = clustered(120, 24, 60)


def codes_of(path: Path) -> str | None:
    """How the file's copy holds a number."""
    graph = faiss.read_index(str(path))  # it owns its storage
    if graph.storage is None:
        return None
    storage = faiss.downcast_index(graph.storage)
    if isinstance(storage, faiss.IndexFlat):
        return "float32"
    return {faiss.ScalarQuantizer.QT_8bit: "8 bits", faiss.ScalarQuantizer.QT_fp16: "float16"}[storage.sq.qtype]


def built(folder: Path, rows: NDArray[np.float32], metric: Metric, queries: NDArray[np.float32]) -> str | None:
    """Built, opened and asked; how its file holds a number."""
    v, path = vectors(rows, metric), folder / "index.faiss"
    index = load(path, build(v, ("hnsw", {}), path, threads=1, queries=queries), v)
    assert isinstance(index, Hnsw)
    assert recall(index, queries, 100) >= 0.99
    return codes_of(path)


@pytest.mark.parametrize("scale", [1e-20, 1e-6, 1.0, 1e6, 1e15])
@pytest.mark.parametrize("metric", METRICS)
def test_numbers_of_any_size(tmp_path: Path, metric: Metric, scale: float) -> None:
    """float16 itself ends at 65,504 and has no bits left at 1e-7."""
    rows = clustered(2000, 24, 61) * np.float32(scale)
    assert built(tmp_path, rows, metric, FEW * np.float32(scale)) == "8 bits"


def test_one_number_far_out_of_all_others(tmp_path: Path) -> None:
    """It decides how coarse 8 bits are, if it is in the sample."""
    rows = clustered(2000, 24, 61)
    rows[0, 0] = 1e4
    assert built(tmp_path, rows, "l2", FEW) == "float16"


def test_neighbours_close_together_far_from_the_origin(tmp_path: Path) -> None:
    """8 bits are counted from the least to the greatest, not from 0, as float16 is."""
    far = 30 * np.random.default_rng(62).standard_normal((1, 24))
    rows = (far + 0.003 * clustered(2000, 24, 61)).astype(np.float32)
    assert built(tmp_path, rows, "l2", (far + 0.003 * FEW).astype(np.float32)) == "8 bits"


def test_neighbours_too_close_together_to_be_rounded() -> None:
    """Small clouds far apart."""
    rng = np.random.default_rng(62)
    centres = 1000 * rng.standard_normal((20, 24))
    rows = (centres[np.arange(2000) % 20] + 0.01 * rng.standard_normal((2000, 24))).astype(np.float32)
    assert not chosen(vectors(rows, "l2")).copied
    for metric in ("cosine", "dot"):
        copy = chosen(vectors(rows, metric))
        assert copy.copied and isinstance(copy.empty(4), faiss.IndexHNSWFlat)


def test_float32_in_place(tmp_path: Path) -> None:
    """A cloud, and one vector too far away for any copy."""
    rows = clustered(2000, 24, 61)
    rows[0] = 1e8
    assert built(tmp_path, rows, "l2", FEW) is None


@pytest.mark.parametrize("metric", METRICS)
def test_many_copies_of_few_vectors(metric: Metric) -> None:
    """The nearest other vector counts, not a copy."""
    rows = np.tile(clustered(50, 24, 63), (40, 1))
    copy = chosen(vectors(rows, metric))
    assert copy.copied and isinstance(copy.empty(4), faiss.IndexHNSWSQ)


def test_all_the_same() -> None:
    assert chosen(vectors(np.ones((300, 8), np.float32), "l2")).copied


def test_halves_are_compared_in_place_where_faiss_is_fast_at_it() -> None:
    for d in (16, 20, 32):
        copy = chosen(vectors(clustered(500, d, 64, unit=True).astype(np.float16), "l2"))
        assert copy.copied == (d % SIMD_WIDTH != 0)


@pytest.mark.parametrize("metric", METRICS)
def test_what_is_compared_has_the_same_order(metric: Metric) -> None:
    """By Euclidean distance of what is compared, as by the metric."""
    v = vectors(clustered(400, 20, 65) * np.linspace(0.5, 2, 400, dtype=np.float32)[:, None], metric)
    copy = chosen(v)
    assert copy.copied and copy.width % SIMD_WIDTH == 0
    rows, queries = copy.rows(np.arange(400)).astype(np.float64), clustered(30, 20, 66)
    for query, asked in zip(queries.astype(np.float64), copy.queries(queries), strict=True):
        near = np.linalg.norm(rows - asked, axis=1)
        stored = v.rows.astype(np.float64)
        if metric == "l2":
            true = np.linalg.norm(stored - query, axis=1)
        else:
            true = -(stored @ query) / (np.linalg.norm(stored, axis=1) if metric == "cosine" else 1)
        assert np.argsort(near)[:10].tolist() == np.argsort(true)[:10].tolist()


@pytest.mark.parametrize("metric", METRICS)
def test_no_vector_lies_beyond_what_its_copy_can_say(metric: Metric) -> None:
    """The longest ones, which are what is found under dot, are of no sample."""
    rows = clustered(9000, 24, 67)
    rows[[1234, 5678]] *= 1.5
    copy = chosen(vectors(rows, metric))
    exact = copy.rows(np.arange(9000))
    step = np.ptp(exact, axis=0) / 255
    assert (np.abs(copy.rounded(exact) - exact) <= 0.51 * step + 1e-6).all()
