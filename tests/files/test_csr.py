"""Sparse matrices as SciPy saves them, and as nobody should."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse as scipy_sparse

from seedvec import npy_header
from storage.files import csr
from storage.files.contract import BadFile, Batch, ReadOptions, Sparse
from storage.files.csr import NUMBERS_MAX, ROW_MAX, canonical
from storage.files.formats import FORMATS
from tests.files.tripping import read, sparse

MATRIX = scipy_sparse.random(300, 40, 0.1, "csr", np.float32, np.random.default_rng(4))


def back(path: Path, **options: Any) -> Any:
    return read("npz", path, ReadOptions(**options)).vectors


def saved(path: Path, **arrays: Any) -> Path:
    """An `.npz` of SciPy's arrays, some of them others."""
    usual: dict[str, Any] = {
        "indices": MATRIX.indices,
        "indptr": MATRIX.indptr,
        "data": MATRIX.data,
        "shape": np.array(MATRIX.shape),
        "format": np.array("csr", dtype="S3"),
    }
    kept = {name: array for name, array in (usual | arrays).items() if array is not None}
    with open(path, "wb") as file:
        np.savez(file, **kept)
    return path


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool"])
def test_scipys_own(dtype: str, compressed: bool, tmp_path: Path) -> None:
    wanted = (MATRIX * 100).astype(dtype)
    scipy_sparse.save_npz(tmp_path / "m.npz", wanted, compressed=compressed)
    reader = FORMATS["npz"].read([tmp_path / "m.npz"], ReadOptions())
    said = reader.outline.notes
    reader.close()
    assert (back(tmp_path / "m.npz") != wanted.astype(np.float32)).nnz == 0
    assert said == (() if dtype == "float32" else (f"{dtype} values are brought to float32",))


def test_scipy_opens_what_is_written(tmp_path: Path) -> None:
    for name in ("npz", "csr"):
        made = sparse(300, "str", True)
        found = scipy_sparse.load_npz(made.write(name, tmp_path / "m.npz"))
        assert isinstance(made.batch.vectors, Sparse)
        assert found.shape == (300, 500) and found.data.tobytes() == made.batch.vectors.values.tobytes()
        assert found.indices.dtype == found.indptr.dtype == np.int32 and found.has_canonical_format
        with np.load(tmp_path / "m.npz") as arrays:
            assert arrays["ids"].tolist() == made.batch.ids


def test_what_is_there_twice_is_summed_and_columns_ascend(tmp_path: Path) -> None:
    """As SciPy itself understands it. Zeros that are stored stay."""
    path = saved(
        tmp_path / "m.npz",
        indptr=np.array([0, 4, 4, 6]),
        indices=np.array([3, 1, 3, 0, 2, 2]),
        data=np.array([1, 2, 0.5, 0, 4, -4], np.float32),
        shape=np.array([3, 40]),
    )
    wanted = scipy_sparse.load_npz(path)
    reader = FORMATS["npz"].read([path], ReadOptions())
    (batch,) = reader.batches(3)
    reader.close()
    assert isinstance(batch.vectors, Sparse)
    assert [array.tolist() for array in batch.vectors] == [[0, 3, 3, 4], [0, 1, 3, 2], [0, 2, 1.5, 0]]
    assert (scipy_sparse.csr_matrix(batch.vectors[::-1], shape=(3, 40)) != wanted).nnz == 0


def test_canonical_is_scipys_at_random() -> None:
    rng = np.random.default_rng(5)
    for _ in range(50):
        rows, d, count = (int(n) for n in rng.integers(1, 9, 3))
        owners = np.sort(rng.integers(0, rows, count))
        indptr = np.searchsorted(owners, np.arange(rows + 1)).astype(np.int64)
        indices, values = rng.integers(0, d, count), rng.integers(-3, 4, count).astype(np.float32)
        found = canonical(indptr, indices, values, d)
        wanted = scipy_sparse.csr_matrix((values, indices, indptr), shape=(rows, d))
        wanted.sum_duplicates()
        assert found.indptr.tolist() == wanted.indptr.tolist()
        assert found.indices.tolist() == wanted.indices.tolist() and found.values.tolist() == wanted.data.tolist()


def test_without_values_all_are_ones(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.npz", data=None, shape=None, format=None)
    assert (back(path, shape=(-1, 40)) != (MATRIX != 0).astype(np.float32)).nnz == 0
    with pytest.raises(BadFile, match="say it: shape="):
        back(path)


def test_batches_of_full_rows_are_smaller(tmp_path: Path) -> None:
    rows, d = 80, ROW_MAX
    full = Sparse(
        np.arange(rows + 1, dtype=np.int64) * d,
        np.tile(np.arange(d, dtype=np.int64), rows),
        np.ones(rows * d, np.float32),
    )
    made = sparse(rows, None, False)
    made.batch, made.outline = Batch(full), made.outline.__class__(d, "float32", rows, sparse=True)
    reader = FORMATS["csr"].read([made.write("csr", tmp_path / "m.npz")], ReadOptions())
    counts = [batch.rows for batch in reader.batches(rows)]
    reader.close()
    assert sum(counts) == rows and max(counts) * d <= NUMBERS_MAX


LIES: dict[str, tuple[dict[str, Any], str, int | None]] = {
    "another kind": ({"format": np.array("csc", dtype="S3")}, "another kind than CSR", None),
    "no indices": ({"indices": np.zeros(3)}, "indices is of float64", None),
    "text as values": ({"data": np.array(["a"] * MATRIX.nnz)}, "data.npy: not one row of numbers", None),
    "complex values": ({"data": MATRIX.data.astype(complex)}, "data.npy: not one row of numbers", None),
    "two dimensions": ({"indptr": MATRIX.indptr.reshape(1, -1)}, "indptr.npy: not one row", None),
    "fewer values": ({"data": MATRIX.data[:-1]}, "do not belong to each other", None),
    "rows": ({"shape": np.array([301, 40])}, "shape says 301 rows, indptr 300", None),
    "no shape": ({"shape": np.array([300])}, "two whole numbers", None),
    "no columns": ({"shape": np.array([300, 0])}, "0 columns", None),
    "too many columns": ({"shape": np.array([300, 2**31])}, "2147483648 columns", None),
    "too few columns": ({"shape": np.array([300, 30])}, "and there are 30", -1),
    "a negative column": ({"indices": -MATRIX.indices}, "a column of -", -1),
    "no end": ({"indptr": np.zeros(0, np.int64), "shape": None}, "do not belong", None),
    "a first that is not 0": ({"indptr": MATRIX.indptr + 1}, "does not ascend from 0", -1),
    "beyond the end": ({"indptr": np.array([*MATRIX.indptr[:-1], 2**40])}, "does not ascend", -1),
    "up and down": ({"indptr": np.array([0, 9, 3, *MATRIX.indptr[3:]])}, "does not ascend", 2),
    "a long row": (
        {
            "indptr": np.array([0, ROW_MAX + 1]),
            "indices": np.zeros(ROW_MAX + 1, np.int8),
            "data": np.ones(ROW_MAX + 1, np.int8),
            "shape": np.array([1, 40]),
        },
        "more than 65,536 numbers in a row",
        0,
    ),
    "pickles": ({"data": np.array([{}] * MATRIX.nnz)}, "data.npy: not one row of numbers", None),
}


@pytest.mark.parametrize("name", LIES)
def test_lies(name: str, tmp_path: Path) -> None:
    arrays, words, row = LIES[name]
    with pytest.raises(BadFile, match=words) as e:
        back(saved(tmp_path / "m.npz", **arrays))
    assert e.value.row == row or (row == -1 and e.value.row is not None)


def test_a_header_that_claims_more(tmp_path: Path) -> None:
    """2^40 indices in a few bytes: before they are allocated."""
    path = tmp_path / "m.npz"
    with zipfile.ZipFile(saved(path)) as old:
        members = {name: old.read(name) for name in old.namelist()}
    for name in ("indices.npy", "indptr.npy", "data.npy"):
        with zipfile.ZipFile(path, "w") as new:
            for member, data in members.items():
                new.writestr(member, npy_header.build("<i4", (2**40,)) + bytes(99) if member == name else data)
        with pytest.raises(BadFile, match="are there"):
            back(path)


def test_numbers_too_large_for_float32_are_told_where_they_are_stored(tmp_path: Path) -> None:
    """Not here, and without a warning: they become infinite."""
    found = csr.of_counts(np.array([1]), np.array([0]), np.array([1e300]), 1, 0)
    assert np.isinf(found.values).all()
