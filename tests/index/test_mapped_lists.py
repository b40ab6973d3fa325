"""Inverted lists mapped from the file that Faiss wrote: the same answers, and nothing of them in private memory."""

import re
import struct
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from index import mapped_lists

N, D, NLIST = 40_000, 32, 60
RNG = np.random.default_rng(3)
ROWS = RNG.standard_normal((N, D)).astype(np.float32)
QUERIES = RNG.standard_normal((50, D)).astype(np.float32)


def _index(ids: Any = None, metric: int = faiss.METRIC_L2) -> Any:
    quantizer = faiss.IndexFlat(D, metric)
    index = faiss.IndexIVFPQFastScan(quantizer, D, NLIST, 16, 4, metric)
    index.by_residual = False
    index.train(ROWS[:8000])
    if ids is not None:
        index.add_with_ids(ROWS[: len(ids)], ids)
    index.referenced_objects = [quantizer]
    return index


def _mapped(path: Path) -> Any:
    index = mapped_lists.read(path)
    assert index is not None
    return index


def _private_kib() -> int:
    text = Path("/proc/self/smaps_rollup").read_text()
    return int(re.findall(r"Anonymous: +(\d+)", text)[0])


@pytest.mark.parametrize("metric", [faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT])
@pytest.mark.parametrize("nprobe", [1, 7, NLIST])
def test_answers_as_if_it_had_been_read(tmp_path: Path, nprobe: int, metric: int) -> None:
    index = _index(np.arange(N)[::-1].copy(), metric)
    faiss.write_index(index, str(tmp_path / "lists"))
    mapped = _mapped(tmp_path / "lists")
    assert mapped.ntotal == N and mapped.invlists.compute_ntotal() == N
    for kept in (None, faiss.IDSelectorBitmap(np.packbits(np.arange(N) % 3 == 0, bitorder="little"))):
        params = faiss.SearchParametersIVF(nprobe=nprobe, sel=kept)
        distances, rows = index.search(QUERIES, 20, params=params)
        again, same = mapped.search(QUERIES, 20, params=params)
        np.testing.assert_array_equal(rows, same)
        np.testing.assert_array_equal(distances, again)


def test_the_codes_are_nobodys_own(tmp_path: Path) -> None:
    index = _index(np.arange(N))
    for _ in range(24):  # 1,000,000 codes: 16 MB with their ids
        index.add_with_ids(ROWS, np.arange(N))
    faiss.write_index(index, str(tmp_path / "lists"))
    del index
    before = _private_kib()
    mapped = _mapped(tmp_path / "lists")
    mapped.nprobe = NLIST
    mapped.search(QUERIES, 10)
    assert (tmp_path / "lists").stat().st_size > 15_000_000
    assert _private_kib() - before < 4 << 10


def test_goes_on_when_the_file_is_unlinked(tmp_path: Path) -> None:
    index = _index(np.arange(N))
    faiss.write_index(index, str(tmp_path / "lists"))
    mapped = _mapped(tmp_path / "lists")
    (tmp_path / "lists").unlink()
    np.testing.assert_array_equal(index.search(QUERIES, 5)[1], mapped.search(QUERIES, 5)[1])


def test_empty_lists_and_none_at_all(tmp_path: Path) -> None:
    for ids in (np.arange(3), None):
        index = _index(ids)
        faiss.write_index(index, str(tmp_path / "lists"))
        mapped = _mapped(tmp_path / "lists")
        np.testing.assert_array_equal(index.search(QUERIES, 5)[1], mapped.search(QUERIES, 5)[1])


def test_four_letters_in_a_centroid_are_no_lists(tmp_path: Path) -> None:
    index = _index(np.arange(N))
    centroids = faiss.vector_to_array(faiss.downcast_index(index.quantizer).codes).view(np.float32)
    centroids[5] = struct.unpack("<f", mapped_lists.FOURCC)[0]
    faiss.copy_array_to_vector(centroids.view(np.uint8), faiss.downcast_index(index.quantizer).codes)
    faiss.write_index(index, str(tmp_path / "lists"))
    assert (tmp_path / "lists").read_bytes().count(mapped_lists.FOURCC) == 2
    mapped = _mapped(tmp_path / "lists")
    np.testing.assert_array_equal(index.search(QUERIES, 5)[1], mapped.search(QUERIES, 5)[1])


@pytest.mark.parametrize("cut", [1, 100, 10_000])
def test_what_is_cut_off_is_not_mapped(tmp_path: Path, cut: int) -> None:
    faiss.write_index(_index(np.arange(N)), str(tmp_path / "lists"))
    data = (tmp_path / "lists").read_bytes()
    (tmp_path / "lists").write_bytes(data[:-cut])
    assert mapped_lists.read(tmp_path / "lists") is None


def test_a_graph_has_no_lists(tmp_path: Path) -> None:
    graph = faiss.IndexHNSWFlat(D, 8)
    graph.add(ROWS[:500])
    faiss.write_index(graph, str(tmp_path / "graph"))
    assert mapped_lists.read(tmp_path / "graph") is None
