"""The data folder read without the server, with h5py, NumPy, Faiss and SQLite alone, as docs/formats.md says."""

import itertools
import json
from pathlib import Path
from typing import Any

import apsw
import faiss
import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from index.memory import SMALL_THINGS
from tests.harness import SMALL, Server
from tests.oracle import distances

DIMENSION = 24
ROWS = 4000
QUERIES = 50
K = 10


def drawn(n: int, seed: int = 1) -> NDArray[np.float32]:
    centres = np.random.default_rng(7).standard_normal((40, DIMENSION))
    rng = np.random.default_rng(seed)
    rows: NDArray[np.float32] = (centres[rng.integers(0, 40, n)] + 0.4 * rng.standard_normal((n, DIMENSION))).astype(
        np.float32
    )
    return rows


def filled(folder: Path, metric: str, dtype: str, index: str, kind: str) -> dict[Any, NDArray[Any]]:
    """A collection written through the API and settled, its server stopped. Returns what it holds."""
    ids: list[Any] = [f"id ü {i}" if kind == "str" else 7 * i for i in range(ROWS)]
    vectors = drawn(ROWS)
    with Server(folder, env=SMALL) as server:
        words = server.collection("words")
        words.create(DIMENSION, metric=metric, dtype=dtype, id_type=kind, index={"kind": index})
        for begin in range(0, ROWS, 1000):
            words.add(ids[begin : begin + 1000], vectors[begin : begin + 1000])
        words.wait_ready()
        words.delete(ids[:20])
        words.upsert(ids[20:25], vectors[:5])
        # Codes, links and vectors are mapped: a worker has marks of its own alone, a few bytes a row.
        least, most = (2, 8) if index == "ivf" else (8, 15)
        private = words.wait_ready()["index"]["private_bytes_per_worker"]
        assert least * ROWS < private - SMALL_THINGS < most * ROWS
    held = dict(zip(ids, vectors.astype(dtype), strict=True))
    held |= dict(zip(ids[20:25], vectors[:5].astype(dtype), strict=True))
    return {id: row for id, row in held.items() if id not in ids[:20]}


def catalogue(folder: Path) -> tuple[Path, apsw.Connection]:
    registry = apsw.Connection(str(folder / "registry.db"), flags=apsw.SQLITE_OPEN_READONLY)
    uuid = str(registry.execute("SELECT uuid FROM collections WHERE name = 'words'").get)
    registry.close()
    home = folder / "c" / uuid
    return home, apsw.Connection(str(home / "catalog.db"), flags=apsw.SQLITE_OPEN_READONLY)


def ids_in(file: h5py.File) -> list[Any]:
    if "ids" in file:
        return list(file["ids"][:].tolist())
    raw, offsets = file["id_bytes"][:].tobytes(), file["id_offsets"][:].tolist()
    return [raw[a:b].decode() for a, b in itertools.pairwise(offsets)]


CASES = [
    ("l2", "float32", "hnsw", "int"),
    ("l2", "float32", "ivf", "str"),
    ("cosine", "float16", "hnsw", "str"),
    ("dot", "float16", "ivf", "int"),
    ("dot", "float32", "hnsw", "str"),
]


@pytest.mark.parametrize(("metric", "dtype", "index", "kind"), CASES)
def test_folder_is_read_without_the_server(tmp_path: Path, metric: str, dtype: str, index: str, kind: str) -> None:
    held = filled(tmp_path / "data", metric, dtype, index, kind)
    home, db = catalogue(tmp_path / "data")
    assert rows_without_the_server(home, db, np.dtype(dtype)).keys() == held.keys()
    for id, row in rows_without_the_server(home, db, np.dtype(dtype)).items():
        assert row.tobytes() == held[id].tobytes(), f"vector of {id!r}"
    largest = db.execute(
        "SELECT s.file, i.file, i.meta FROM segments s JOIN indexes i USING (seq) ORDER BY s.rows DESC"
    )
    segment, index_file, meta = next(largest)
    assert recall_of(home / "segments" / index_file, home / "segments" / segment, metric, json.loads(meta)) > 0.8
    db.close()


def rows_without_the_server(home: Path, db: apsw.Connection, dtype: np.dtype[Any]) -> dict[Any, NDArray[Any]]:
    """Live rows by id: those of the segments and of `pending` whose key is the one that `items` gives the id."""
    live = dict(db.execute("SELECT id, key FROM items"))
    found: dict[Any, NDArray[Any]] = {}
    for file_name, base_key in db.execute("SELECT file, base_key FROM segments"):
        path = home / "segments" / file_name
        with h5py.File(path) as file:
            assert bytes(file.attrs["format"]) == b"seedvec-segment"
            vectors, ids = file["vectors"][:], ids_in(file)
            keys = file["keys"][:].astype(np.int64) + base_key
            offset, shape = file["vectors"].id.get_offset(), file["vectors"].shape
        mapped = np.memmap(path, dtype, "r", offset=offset, shape=shape)
        assert offset % 4096 == 0
        assert mapped.tobytes() == vectors.tobytes()
        for row, (id, key) in enumerate(zip(ids, keys.tolist(), strict=True)):
            if live.get(id) == key:
                found[id] = vectors[row]
    for id, key, blob in db.execute("SELECT id, key, vector FROM pending"):
        assert live[id] == key
        found[id] = np.frombuffer(blob, dtype)
    return found


def recall_of(index_file: Path, segment: Path, metric: str, meta: dict[str, Any]) -> float:
    """Plain Faiss on the index file: its ids are row numbers of the segment."""
    index: Any = faiss.read_index(str(index_file))
    with h5py.File(segment) as file:
        rows = file["vectors"][:].astype(np.float32)
    assert index.ntotal == len(rows), meta
    asked = drawn(QUERIES, seed=2)
    queries = asked / np.linalg.norm(asked, axis=1, keepdims=True) if metric == "cosine" else asked
    queries = np.pad(queries, ((0, 0), (0, index.d - DIMENSION)))
    if metric == "l2" and hasattr(index, "hnsw") and index.storage is not None:
        queries = queries / 2.0 ** np.frexp(np.linalg.norm(rows, axis=1).max())[1]
    kept = attach(index, rows) if hasattr(index, "hnsw") else None
    if hasattr(index, "hnsw"):
        index.hnsw.efSearch = 128
        candidates = index.search(queries, K)[1]
    else:
        index.nprobe = 16
        candidates = index.search(queries, 20 * K)[1]
    hits = 0
    for query, near in zip(asked, candidates, strict=True):
        true = distances(metric, query, rows.astype(np.float64))
        near = near[near >= 0]
        best = near[np.argsort(true[near], kind="stable")][:K]
        hits += int((true[best] <= np.sort(true)[K - 1] + 1e-9).sum())
    del kept
    return hits / (QUERIES * K)


def attach(index: Any, rows: NDArray[np.float32]) -> Any:
    """A graph without vectors gets the segment's own; one with its normalised copy is complete.

    What is returned must live as long as the index: Faiss does not count references.
    """
    if index.storage is not None:
        return None
    flat = faiss.IndexFlat(index.d, index.metric_type)
    flat.add(rows)
    index.own_fields = False
    index.storage = flat
    return flat
