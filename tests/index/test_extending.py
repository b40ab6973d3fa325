"""An index of most of the rows extended instead of built anew: what stays is not made again, and nothing is lost."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from index import ivf_build
from index.build import Base, build, extendable
from index.contract import Metric, Plan, Vectors
from index.exact import Exact
from index.load import load
from tests.index.data import DTYPES, METRICS, clustered, vectors

OLD, NEW, DIMENSION = 2600, 400, 20
PARAMS = {"nlist": 50, "pq_m": 9}  # parts of 3 numbers, the last padded


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


def extend(folder: Path, before: Vectors, after: Vectors, names: NDArray[np.int64]) -> dict[str, Any]:
    """→ the meta of folder/new, extended from folder/old."""
    meta = build(before, ("ivf", PARAMS), folder / "old", threads=1)
    base = Base(load(folder / "old", meta, before), folder / "old", meta, names)
    return build(after, ("ivf", PARAMS), folder / "new", threads=1, base=base)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_holds_what_the_same_lists_filled_anew_hold(tmp_path: Path, metric: Metric, dtype: str) -> None:
    """Every row once, in the right list, with the right code: none of those that stay, came, or were held out."""
    before, after, names = grown(metric, dtype)
    extended = extend(tmp_path, before, after, names)
    assert (extended["rows"], extended["built_rows"]) == (len(after.rows), OLD)
    codes = faiss.read_index(str(tmp_path / "new"))
    anew = faiss.read_index(str(tmp_path / "old"))
    anew.reset()
    ivf_build.Making(after, anew).add(np.arange(len(after.rows)), lambda done: None)
    assert codes.ntotal == len(after.rows) and codes_of(codes) == codes_of(anew)


def test_finds_what_an_index_built_anew_finds(tmp_path: Path) -> None:
    before, after, names = grown("l2")
    extended = load(tmp_path / "new", extend(tmp_path, before, after, names), after)
    fresh = load(tmp_path / "fresh", build(after, ("ivf", PARAMS), tmp_path / "fresh", threads=1), after)
    queries = clustered(300, DIMENSION, 3)
    truth = Exact(after).search(queries, 10).distances[:, 9]
    for effort in ({"nprobe": 4, "rerank": 4}, {"nprobe": 12, "rerank": 8}):
        found = [
            (i.search(queries, 10, Plan(effort, None, 1.0)).distances <= truth[:, None]) for i in (extended, fresh)
        ]
        shares = [np.minimum(f.sum(axis=1), 10).mean() / 10 for f in found]
        assert shares[0] > shares[1] - 0.01


def test_an_index_that_lost_its_names_is_built_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check finds it out before anybody is answered by it."""
    before, after, names = grown("l2")
    real = ivf_build.rename
    monkeypatch.setattr(ivf_build, "rename", lambda codes, to: real(codes, np.roll(to, 1)))
    meta = extend(tmp_path, before, after, names)
    assert meta["built_rows"] == len(after.rows) and meta["checked"] >= 0.99


@pytest.mark.parametrize("damage", ["cut", "others", "gone"])
def test_what_cannot_be_extended_is_built_anew(tmp_path: Path, damage: str) -> None:
    before, after, names = grown("l2")
    path = tmp_path / "old"
    meta = build(before, ("ivf", PARAMS), path, threads=1)
    index = load(path, meta, before)
    if damage == "cut":
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data[:-1000])
    elif damage == "gone":
        path.unlink()
    else:
        fewer = vectors(before.rows[:-1], "l2")
        path.unlink()
        build(fewer, ("ivf", PARAMS), path, threads=1)
    extended = build(after, ("ivf", PARAMS), tmp_path / "new", threads=1, base=Base(index, path, meta, names))
    assert extended["built_rows"] == len(after.rows)


META = {"kind": "ivf", "params": {"nlist": 1000, "pq_m": 64}, "rows": 1_000_000, "built_rows": 600_000}


@pytest.mark.parametrize(
    ("spec", "kept", "new", "whether"),
    [
        (("ivf", {"nlist": 1049, "pq_m": 64}), 1_000_000, 100_000, True),
        (("ivf", {"nlist": 1049, "pq_m": 64}), 810_000, 0, True),
        (("ivf", {"nlist": 1049, "pq_m": 64}), 790_000, 0, False),  # too many dropped
        (("ivf", {"nlist": 1100, "pq_m": 64}), 1_000_000, 201_000, False),  # twice the rows of the last building
        (("ivf", {"nlist": 1049, "pq_m": 32}), 1_000_000, 100_000, False),
        (("ivf", {"nlist": 4000, "pq_m": 64}), 1_000_000, 100_000, False),
        (("hnsw", {"m": 16, "ef_construction": 80}), 1_000_000, 100_000, False),
    ],
)
def test_extendable(spec: tuple[str, dict[str, int]], kept: int, new: int, whether: bool) -> None:
    assert extendable(META, spec, kept, new) is whether


def test_a_graph_is_extended_by_one_of_its_own_parameters() -> None:
    meta = {"kind": "hnsw", "params": {"m": 16, "ef_construction": 80}, "rows": 1000}  # without "built_rows": version 1
    assert extendable(meta, ("hnsw", {"m": 16, "ef_construction": 80}), 1000, 900)
    assert not extendable(meta, ("hnsw", {"m": 32, "ef_construction": 80}), 1000, 900)
    assert not extendable(meta, ("hnsw", {"m": 16, "ef_construction": 80}), 1000, 1001)
