"""Sparse vectors in an HDF5 file: a CSR group, as AnnData and h5sparse write it; or a dataset of
variable length, in each row the columns that are not zero."""

from typing import Any, Final

import h5py
import numpy as np

from storage.files import csr
from storage.files.contract import BadFile, Outline, Sparse
from storage.files.hdf5_open import Hdf5, told
from storage.files.hdf5_rows import Rows, open_rows
from storage.files.hdf5_texts import Lists
from storage.files.parts import Vectors

DATA: Final = "data"
INDICES: Final = "indices"
INDPTR: Final = "indptr"
SHAPE: Final = "shape"
_SHAPES: Final = (SHAPE, "h5sparse_shape")
_KINDS: Final = ("encoding-type", "h5sparse_format")


def is_sparse(group: h5py.Group) -> bool:
    return INDICES in group and INDPTR in group


def open_sparse(file: Hdf5, path: str, found: Any, shape: tuple[int, ...] | None) -> Vectors | None:
    """None where what was found is not sparse. shape: what was asked for; its last number is the dimension where the
    file does not say. Raises BadFile."""
    if isinstance(found, h5py.Group):
        return _group(file, path, shape)
    with told(path):
        lists = found.id.get_type().get_class() == h5py.h5t.VLEN
    return _lists(file, path, shape) if lists else None


def _group(file: Hdf5, path: str, asked: tuple[int, ...] | None) -> Vectors:
    inside = file.group(path)
    if not {INDICES, INDPTR} <= inside.keys():
        raise BadFile(f"{path} is a group without {INDICES} and {INDPTR}; vectors are a dataset, or a CSR group")
    _check_kind(inside[INDPTR].parent, path)

    def one(name: str) -> Rows:
        rows = open_rows(file, file.dataset(f"{path}/{name}"))
        if len(rows.shape) != 1:
            raise BadFile(f"{path}/{name} has {len(rows.shape)} dimensions, should have one")
        return rows

    indptr, indices = one(INDPTR), one(INDICES)
    data = one(DATA) if DATA in inside else None
    if indices.dtype.kind not in "iu" or (data is not None and data.shape != indices.shape) or indptr.shape[0] < 1:
        raise BadFile(f"{path}: {INDICES}, {INDPTR} and {DATA} do not belong to each other")
    rows, dimension = _shape(file, path, inside, indptr.shape[0] - 1, asked)
    if rows != indptr.shape[0] - 1:
        raise BadFile(f"{path}: {SHAPE} says {rows} rows, {INDPTR} {indptr.shape[0] - 1}")
    found = csr.Csr(
        rows,
        dimension,
        indices.shape[0],
        indptr.rows,
        indices.rows,
        data.rows if data is not None else None,
        data.dtype.name if data is not None else "float32",
    )
    return Vectors(found.outline, found.take, found.limit)


def _check_kind(group: h5py.Group, path: str) -> None:
    with told(path):
        for name in _KINDS:
            said = str(group.attrs[name]) if name in group.attrs and group.attrs.get_id(name).shape == () else "csr"
            if "csr" not in said:
                raise BadFile(f"{path} is {said[:40]}: only CSR is read (matrix.tocsr())")


def _shape(file: Hdf5, path: str, inside: dict[str, Any], rows: int, asked: tuple[int, ...] | None) -> tuple[int, int]:
    found: list[int] | None = None
    if isinstance(inside.get(SHAPE), h5py.Dataset):
        numbers = open_rows(file, file.dataset(f"{path}/{SHAPE}"))
        if numbers.shape == (2,) and numbers.dtype.kind in "iu":
            found = numbers.rows(0, 2).tolist()
    else:
        with told(path):
            attributes = inside[INDPTR].parent.attrs
            for name in _SHAPES:
                if name in attributes and attributes.get_id(name).shape == (2,):
                    found = np.asarray(attributes[name]).astype(np.int64).tolist()
    if found is not None:
        return int(found[0]), int(found[1])
    return rows, _asked(path, asked)


def _asked(path: str, asked: tuple[int, ...] | None) -> int:
    if not asked:
        raise BadFile(f"{path} does not say how many columns there are; say it: shape=-1,1000")
    return asked[-1]


def _lists(file: Hdf5, path: str, asked: tuple[int, ...] | None) -> Vectors:
    dimension = _asked(path, asked)
    csr.check_dimension(dimension)
    lists = Lists(file, file.dataset(path), csr.ROW_MAX)
    outline = Outline(dimension, "float32", lists.count, sparse=True)

    def take(start: int, stop: int) -> Sparse:
        found = lists.take(start, stop)
        counts = np.array([len(columns) for columns in found], np.int64)
        return csr.of_counts(counts, np.concatenate([*found, np.empty(0, np.int64)]), None, dimension, start)

    # So few fit into what a batch may hold, however long they are.
    most = csr.NUMBERS_MAX // csr.ROW_MAX
    return Vectors(outline, take, lambda start, stop: min(stop, start + most))
