"""HDF5, Parquet, Arrow, `.pt` and sparse `.npz`: what is written is read again, to the bit."""

import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from storage.files.contract import GroundTruth, Outline, ReadOptions, WriteOptions
from storage.files.formats import FORMATS
from storage.files.ground_truth import ground_truth
from tests.files.tripping import assert_same, compare, dense, part, read, sparse

COMPRESSIONS = {
    "hdf5": (None, "gzip", "lzf", "blosc"),
    "parquet": (None, "zstd", "snappy", "gzip", "lz4", "brotli"),
    "arrow": (None, "zstd", "lz4"),
    "pt": (None,),
}
SPARSE = {"hdf5": (None, "gzip"), "parquet": (None, "zstd"), "arrow": (None,), "npz": (None, "deflate"), "csr": (None,)}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(("name", "compression"), [(n, c) for n, cs in COMPRESSIONS.items() for c in cs])
def test_dense(name: str, compression: str | None, dtype: str, tmp_path: Path) -> None:
    kind = {"float16": "int", "float32": "str", "float64": None}[dtype]
    assert_same(dense(300, dtype, kind, kind is not None, compression), name, tmp_path / "file")


@pytest.mark.parametrize("kind", ["int", "str", None])
@pytest.mark.parametrize(("name", "compression"), [(n, c) for n, cs in SPARSE.items() for c in cs])
def test_sparse(name: str, compression: str | None, kind: str | None, tmp_path: Path) -> None:
    assert_same(sparse(300, kind, kind == "str", compression), name, tmp_path / "file")


@pytest.mark.parametrize("name", [*COMPRESSIONS, "csr"])
def test_no_row_and_one(name: str, tmp_path: Path) -> None:
    for rows in (0, 1):
        made = sparse(rows, "str", True) if name == "csr" else dense(rows, "float32", "str", True)
        assert_same(made, name, tmp_path / f"{rows}")


@pytest.mark.parametrize("name", [n for n in (*COMPRESSIONS, "csr") if FORMATS[n].streams])
def test_through_a_pipe(name: str, tmp_path: Path) -> None:
    """What says that it streams is written without a seek, and the same bytes come as in a file."""
    made = sparse(300, "str", True) if name == "csr" else dense(300, "float32", "str", True)
    pipe, copy = tmp_path / "pipe", tmp_path / "copy"
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: copy.write_bytes(pipe.read_bytes()))
    reader.start()
    made.write(name, pipe)
    reader.join()
    found, wanted = read(name, copy), read(name, made.write(name, tmp_path / "file"))
    assert found.ids == wanted.ids and found.metadata == wanted.metadata
    assert (found.vectors != wanted.vectors).sum() == 0


@pytest.mark.parametrize("name", [*COMPRESSIONS, "ann", "csr"])
def test_wrong_counts_and_aborting(name: str, tmp_path: Path) -> None:
    made = sparse(300, "int", True) if name == "csr" else dense(300, "float32", "int", True)
    options = WriteOptions(ground_truth=TRUTH)
    path = tmp_path / "file"
    writer = FORMATS[name].write(path, made.outline, options)
    writer.write(made.batch)
    with pytest.raises(ValueError, match="rows came"):
        writer.write(made.batch)
    writer.abort()
    assert not path.exists()
    writer = FORMATS[name].write(path, made.outline, options)
    with pytest.raises(ValueError, match="rows came"):
        writer.finish()
    writer.abort()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["hdf5", "parquet", "arrow", "pt", "csr", "npz", "ann"])
def test_an_unknown_compression_is_refused(name: str, tmp_path: Path) -> None:
    outline = Outline(3, "float32", 1, sparse=name == "csr")
    with pytest.raises(ValueError, match="not offered"):
        FORMATS[name].write(tmp_path / "file", outline, WriteOptions("sheer will", TRUTH))
    assert list(tmp_path.iterdir()) == []


TRUTH = GroundTruth(
    np.arange(66, dtype=np.float32).reshape(2, 33),
    np.array([[4, 2, 0], [1, 2, 3]], np.int64),
    np.array([[0.1, 0.2, 0.3], [0, 1, 2]], np.float32),
    "cosine",
)


def test_ground_truth_goes_along(tmp_path: Path) -> None:
    made = dense(300, "float32", "str", True)
    made.options = WriteOptions(ground_truth=TRUTH)
    path = made.write("ann", tmp_path / "file.hdf5")
    for name in ("ann", "hdf5"):
        reader = FORMATS[name].read([path], ReadOptions())
        found = ground_truth(reader)
        assert found is not None and found.metric == "cosine" and found.distances is not None
        assert (found.queries == TRUTH.queries).all() and (found.neighbors == TRUTH.neighbors).all()
        assert (found.distances == TRUTH.distances).all()
        (batch,) = reader.batches(300)
        compare(made.batch, batch)
        reader.close()


def test_a_folder_of_chunks_is_read_in_order(tmp_path: Path) -> None:
    """As people count: chunk 2 before chunk 10."""
    wanted = []
    for number in (10, 2, 1):
        made = dense(50 + number, "float32", None, False)
        made.write("pt", tmp_path / f"chunk-{number}.pt")
        wanted.insert(0, made.batch.vectors)
    assert (read("pt", tmp_path).vectors == np.concatenate(wanted)).all()


@pytest.mark.parametrize(("name", "compression"), [("hdf5", None), ("parquet", "zstd"), ("arrow", None), ("pt", None)])
def test_long_metadata_makes_short_batches(name: str, compression: str | None, tmp_path: Path) -> None:
    """Else the rows of a batch, whose vectors are short, could hold gigabytes."""
    made = dense(60, "float32", "str", False, compression)
    texts: list[bytes | None] = [b'{"a":"' + bytes([65 + i % 26]) * 500_000 + b'"}' for i in range(60)]
    made.outline, made.batch = replace(made.outline, metadata=True), made.batch._replace(metadata=texts)
    reader = FORMATS[name].read([made.write(name, tmp_path / "file")], ReadOptions())
    at = 0
    for batch in reader.batches(60):
        compare(part(made.batch, at, at + batch.rows), batch)
        assert batch.rows < 20
        at += batch.rows
    reader.close()
    assert at == 60
