"""Queries and their true nearest from files: `.npy`, and `.hdf5` as ann-benchmarks lays it out, where h5py is there."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    import h5py
except ImportError:
    h5py = None

HDF5 = (".hdf5", ".h5")


class QueryFileError(Exception):
    """The file cannot be read, or does not hold what is wanted."""


def read_queries(path: Path) -> NDArray[np.float32]:
    """(q, d) float32: the array, or the dataset `test`. Raises QueryFileError."""
    queries = _read(path, "test")
    if queries.ndim != 2 or not len(queries) or queries.dtype.kind not in "fiu":
        raise QueryFileError(f"{path}: the queries must be a matrix of numbers, it holds {_shape(queries)}")
    return np.ascontiguousarray(queries, np.float32)


def read_truth(path: Path) -> list[list[Any]]:
    """Ids of the nearest of each query, nearest first: the array's rows, or those of the dataset `neighbors`.

    Raises QueryFileError."""
    truth = _read(path, "neighbors")
    if truth.ndim != 2 or truth.dtype.kind not in "iuUS":
        raise QueryFileError(f"{path}: the truth must be a matrix of ids, it holds {_shape(truth)}")
    if truth.dtype.kind == "S":
        truth = np.char.decode(truth, "utf-8")
    rows: list[list[Any]] = truth.tolist()
    return rows


def holds_truth(path: Path) -> bool:
    """Whether a file of queries brings their nearest with it. Raises QueryFileError."""
    if path.suffix not in HDF5:
        return False
    with _opened(path) as file:
        return "neighbors" in file


def _read(path: Path, dataset: str) -> NDArray[Any]:
    if path.suffix in HDF5:
        with _opened(path) as file:
            if dataset not in file:
                raise QueryFileError(f"{path} has no dataset {dataset}")
            return np.asarray(file[dataset])
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError) as error:
        raise QueryFileError(f"{path} cannot be read as .npy: {error}") from None


def _opened(path: Path) -> Any:
    if h5py is None:
        raise QueryFileError(f"{path}: h5py reads such files (pip install 'seedvec[files]'); .npy needs NumPy alone")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise QueryFileError(f"{path} cannot be read as HDF5: {error}") from None


def _shape(array: NDArray[Any]) -> str:
    return f"{' x '.join(map(str, array.shape)) or 'one value'} of {array.dtype}"
