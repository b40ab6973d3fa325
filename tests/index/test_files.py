"""Index files: written and opened elsewhere, refused where they are damaged or another's, built only to the end."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from index import making, sweep
from index.build import MIN_ROWS, build, resolve
from index.calibration import Calibration
from index.contract import Cancelled, IndexFileError, Metric, Vectors
from index.load import load
from index.mapped import view
from index.memory import SMALL_THINGS, private_bytes
from index.truth import Groups, held_out
from tests.index.data import DTYPES, METRICS, clustered, vectors

ROOT = Path(__file__).parents[2]
INDEXED = ("hnsw", "ivf")


def built(
    folder: Path, kind: str, metric: Metric = "l2", dtype: str = "float32"
) -> tuple[Vectors, Path, dict[str, Any]]:
    v = vectors(clustered(1200, 16, 1).astype(dtype), metric)
    path = folder / "index.faiss"
    return v, path, build(v, (kind, {}), path, threads=1)


@pytest.mark.parametrize("kind", INDEXED)
@pytest.mark.parametrize(("metric", "dtype"), [("l2", "float32"), ("cosine", "float16"), ("dot", "float16")])
def test_another_process_opens_it(tmp_path: Path, kind: str, metric: Metric, dtype: str) -> None:
    v, path, meta = built(tmp_path, kind, metric, dtype)
    queries = clustered(5, 16, 2)
    np.save(tmp_path / "rows.npy", v.rows)
    np.save(tmp_path / "queries.npy", queries)
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    command = [sys.executable, "-m", "tests.index.opening", str(tmp_path)]
    there = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60).stdout)
    index = load(path, meta, v)
    here = index.search(queries, 10, index.plan(10, 0.9))
    assert there == {"rows": here.rows.tolist(), "distances": here.distances.tolist()}


@pytest.mark.parametrize("kind", INDEXED)
def test_damage_that_shows_is_refused(tmp_path: Path, kind: str) -> None:
    v, path, meta = built(tmp_path, kind)
    whole = path.read_bytes()
    for length in (0, 3, 50, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(IndexFileError):
            load(path, meta, v)
    path.write_bytes(b"what is this" * 100)
    with pytest.raises(IndexFileError):
        load(path, meta, v)
    path.write_bytes(whole)
    load(path, meta, v)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        load(path, meta, v)


@pytest.mark.parametrize("kind", INDEXED)
def test_another_segments_index_is_refused(tmp_path: Path, kind: str) -> None:
    v, path, meta = built(tmp_path, kind)
    for other in (vectors(v.rows[:-1], "l2"), vectors(v.rows, "dot"), vectors(v.rows[:, :8], "l2")):
        with pytest.raises(IndexFileError):
            load(path, meta, other)
        # The same with a meta that lies: the file itself must not fit.
        n, d = other.rows.shape
        with pytest.raises(IndexFileError):
            load(path, meta | {"rows": n, "dimension": d, "metric": other.metric}, other)
    wrong: list[dict[str, Any]] = [{"version": 99}, {"kind": "tree"}, {"calibration": None}, {"calibration": {"k": 10}}]
    for change in wrong:
        with pytest.raises(IndexFileError):
            load(path, meta | change, v)
    with pytest.raises(IndexFileError):
        load(path, {}, v)
    swapped = "ivf" if kind == "hnsw" else "hnsw"
    with pytest.raises(IndexFileError):
        load(path, meta | {"kind": swapped}, v)


@pytest.mark.parametrize("kind", INDEXED)
@pytest.mark.parametrize("at", [0.0, 0.3, 0.8, 0.97])
def test_a_build_can_be_cancelled(tmp_path: Path, kind: str, at: float) -> None:
    told: list[float] = []

    def progress(done: float) -> None:
        told.append(done)
        if done >= at:
            raise Cancelled

    v = vectors(clustered(1200, 16, 1), "l2")
    with pytest.raises(Cancelled):
        build(v, (kind, {}), tmp_path / "index.faiss", threads=1, progress=progress)
    assert told == sorted(told)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", INDEXED)
def test_progress_is_told(tmp_path: Path, kind: str) -> None:
    told: list[tuple[float, float]] = []
    v = vectors(clustered(6000, 16, 1), "l2")
    path = tmp_path / "index.faiss"
    build(v, (kind, {}), path, threads=1, progress=lambda done: told.append((done, time.monotonic())))
    shares = [done for done, _ in told]
    assert shares == sorted(shares) and shares[-1] == 1.0 and len(shares) >= 8


def test_a_full_disk_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real one cannot be had here; fsync is where it would tell."""

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    v = vectors(clustered(1200, 16, 1), "l2")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        build(v, ("hnsw", {}), tmp_path / "index.faiss", threads=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", INDEXED)
@pytest.mark.parametrize("metric", METRICS)
def test_calibration_queries_were_not_in_it(
    kind: str, metric: Metric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looks into the index at the moment it is calibrated."""
    v = vectors(clustered(1200, 16, 1), metric)
    real, seen = sweep.calibrate, []

    def looking(index: Any, groups: Groups, *rest: Any) -> Calibration:
        queries = groups[0].queries
        widest = {"ef_search": 1200, "nprobe": 1200, "rerank": 64}
        slots = index.propose(queries, 80, widest)
        rows = slots if index._labels is None else index._labels[slots]
        seen.extend(np.unique(rows[slots >= 0]).tolist())
        calibration: Calibration = real(index, groups, *rest)
        return calibration

    monkeypatch.setattr(making, "calibrate", looking)
    meta = build(v, (kind, {}), tmp_path / "index.faiss", threads=1)
    asked = held_out(1200, 16)
    assert len(asked) == 120 and len(seen) > 700
    assert not set(seen) & set(asked.tolist())
    assert [f["queries"] for f in meta["calibration"]["fronts"]] == [60, 60, 60]
    # And afterwards they are.
    index = load(tmp_path / "index.faiss", meta, v)
    found = index.propose(v.rows[asked], 20, {"ef_search": 1200, "nprobe": 1200, "rerank": 16})
    assert np.isin(asked, found).mean() > (0.3 if metric == "dot" else 0.99)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_plain_faiss_opens_it(tmp_path: Path, metric: Metric, dtype: str) -> None:
    """The README's promise: with public tools alone."""
    v, path, _ = built(tmp_path, "ivf", metric, dtype)
    assert faiss.read_index(str(path)).ntotal == len(v.rows)
    v, path, _ = built(tmp_path, "hnsw", metric, dtype)
    graph = faiss.read_index(str(path))
    assert graph.ntotal == len(v.rows)
    # Nothing but float16 as it is stored is compared in place; these are not of norm 1.
    assert (graph.storage is None) == (metric == "l2" and dtype == "float16")


@pytest.mark.parametrize("dtype", DTYPES)
def test_views_copy_nothing(dtype: str) -> None:
    v = vectors(clustered(500, 16, 3).astype(dtype), "l2")
    flat = view(v.rows, faiss.METRIC_L2)
    near, rows = flat.search(v.rows[:20].astype(np.float32), 1)
    assert rows[:, 0].tolist() == list(range(20)) and near.max() < 1e-4
    address = faiss.rev_swig_ptr(flat.codes.data(), v.rows.nbytes).__array_interface__["data"][0]
    assert address == v.rows.__array_interface__["data"][0]


def test_private_memory_is_what_was_said(tmp_path: Path) -> None:
    """Measured in a fresh process, by the kernel's own count. (Clean pages are the file's, whoever maps it.)"""
    v = vectors(clustered(20_000, 32, 4), "l2")
    np.save(tmp_path / "rows.npy", v.rows)
    np.save(tmp_path / "norms.npy", v.norms)
    program = """
import json, re, sys
from pathlib import Path
import numpy as np
from index.contract import Vectors
from index.load import load
from index.memory import private_bytes
from index.truth import Groups, held_out
folder = Path(sys.argv[1])
def private():
    text = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * sum(int(n) for n in re.findall(r"Private_Dirty: +([0-9]+)", text))
meta = json.loads((folder / "meta.json").read_text())
v = Vectors(np.load(folder / "rows.npy", mmap_mode="r"), np.load(folder / "norms.npy", mmap_mode="r"), "l2")
before = private()
index = load(folder / "index.faiss", meta, v)
print(private() - before, private_bytes(meta))
"""
    for kind in INDEXED:
        path = tmp_path / "index.faiss"
        (tmp_path / "meta.json").write_text(json.dumps(build(v, (kind, {}), path, threads=1)))
        command = [sys.executable, "-c", program, str(tmp_path)]
        out = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60, text=True).stdout
        measured, said = map(int, out.split())
        assert measured < 1.3 * said + (1 << 20) and said < 2 * measured + (1 << 20)


class TestResolve:
    def test_small_is_flat(self) -> None:
        assert resolve("auto", {}, 2000, 100, "l2", 0.95) == ("flat", {})
        assert resolve("hnsw", {"m": 8}, MIN_ROWS - 1, 100, "l2", 0.95) == ("flat", {})

    def test_auto_goes_by_recall_and_dimension(self) -> None:
        assert resolve("auto", {}, 60_000, 784, "l2", 0.95)[0] == "ivf"
        assert resolve("auto", {}, 60_000, 784, "l2", 0.99)[0] == "hnsw"
        assert resolve("auto", {}, 1_000_000, 8, "l2", 0.9)[0] == "hnsw"
        assert resolve("auto", {}, 60_000, 784, "dot", 0.99)[0] == "ivf"

    def test_lists_have_enough_to_train_on(self) -> None:
        for rows in (256, 1000, 60_000, 1_000_000):
            _, params = resolve("ivf", {"nlist": 65_536}, rows, 100, "l2", 0.95)
            assert 1 <= params["nlist"] <= rows // 39
        assert resolve("ivf", {}, 1_000_000, 128, "l2", 0.95)[1] == {"nlist": 1000, "pq_m": 64}

    def test_what_was_asked_for_stands(self) -> None:
        assert resolve("hnsw", {"m": 8, "ef_construction": 50}, 5000, 9, "dot", 0.9) == (
            "hnsw",
            {"m": 8, "ef_construction": 50},
        )

    def test_faults_are_refused(self) -> None:
        with pytest.raises(ValueError, match="nlist"):
            resolve("hnsw", {"nlist": 8}, 5000, 9, "dot", 0.9)


def test_figures_in_the_documentation_are_the_constants() -> None:
    text = (ROOT / "docs" / "indexes.md").read_text()
    assert re.search(r"`m` \| 4 … 96", text) and re.search(r"`ef_construction` \| 16 … 1000", text)
    assert re.search(r"`nlist` \| 1 … 65536", text) and re.search(r"`pq_m` \| 1 … 8192", text)
    graph = {"kind": "hnsw", "rows": 1_000_000, "dimension": 128, "dtype": "float32", "metric": "l2", "params": {}}
    assert private_bytes(graph) == 14_000_000 + SMALL_THINGS
