"""An index of most of the rows extended instead of built anew: what stays is not made again, and nothing is lost."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from index import ivf_build
from index.build import Base, build
from index.contract import Metric, Vectors
from index.load import load
from tests.index.data import DTYPES, METRICS, clustered, vectors

OLD, NEW, DIMENSION = 6000, 900, 20
PARAMS = {"nlist": 70, "pq_m": 9}  # parts of 3 numbers, the last padded


def grown(metric: Metric, dtype: str = "float32") -> tuple[Vectors, Vectors, NDArray[np.int64]]:
    """Vectors before and after: one in twenty dropped, others put between them; and the new row of each old one."""
    rng = np.random.default_rng(5)
    old = clustered(OLD, DIMENSION, 1).astype(dtype)
    kept = rng.random(OLD) >= 0.05
    after = np.concatenate([old[kept], clustered(NEW, DIMENSION, 2).astype(dtype)])
    order = rng.permutation(len(after))
    names = np.full(OLD, -1, np.int64)
    names[kept] = np.argsort(order)[: kept.sum()]
    return vectors(old, metric), vectors(after[order], metric), names


def codes_of(codes: Any) -> dict[int, tuple[int, bytes]]:
    """Row → its list and its code."""
    out: dict[int, tuple[int, bytes]] = {}
    packer = codes.get_CodePacker()
    for number in range(codes.nlist):
        size = codes.invlists.list_size(number)
        if size:
            ids = faiss.rev_swig_ptr(codes.invlists.get_ids(number), size)
            blocks = -(-size // packer.nvec)
            packed = faiss.rev_swig_ptr(codes.invlists.get_codes(number), blocks * packer.block_size)
            packed = packed.reshape(blocks, packer.block_size)
            out.update({int(row): (number, packer.unpack_1(packed, i).tobytes()) for i, row in enumerate(ids)})
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_holds_what_the_same_lists_filled_anew_hold(tmp_path: Path, metric: Metric, dtype: str) -> None:
    """Every row once, in the right list, with the right code: none of those that stay, came, or were held out."""
    before, after, names = grown(metric, dtype)
    path = tmp_path / "old"
    meta = build(before, ("ivf", PARAMS), path, threads=1)
    base = Base(load(path, meta, before), path, meta, names)
    extended = build(after, ("ivf", PARAMS), tmp_path / "new", threads=1, base=base)
    assert (extended["rows"], extended["built_rows"]) == (len(after.rows), OLD)
    codes = faiss.read_index(str(tmp_path / "new"))
    anew = faiss.read_index(str(path))
    anew.reset()
    ivf_build.Making(after, anew).add(np.arange(len(after.rows)), lambda done: None)
    assert codes.ntotal == len(after.rows) and codes_of(codes) == codes_of(anew)
