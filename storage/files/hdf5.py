"""HDF5: a dataset of any path, with ids and metadata in datasets beside it; sparse vectors as a CSR group; files of
ann-benchmarks with their queries and ground truth."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from storage.files import hdf5_csr
from storage.files.contract import (
    ID_BYTES_MAX,
    BadFile,
    Batch,
    GroundTruth,
    IdKind,
    Ids,
    Outline,
    Reader,
    ReadOptions,
    Sparse,
)
from storage.files.given import whole_numbers
from storage.files.hdf5_metadata import Fields, metadata_of
from storage.files.hdf5_open import Hdf5, told
from storage.files.hdf5_rows import Rows, open_rows
from storage.files.hdf5_texts import Texts
from storage.files.hdf5_truth import TRAIN, read_truth
from storage.files.hdf5_write import write_ann, write_hdf5
from storage.files.naming import IDS, METADATA, the_vectors
from storage.files.numbers import float_dtype, item_shape
from storage.files.options import only

__all__ = ["Hdf5Reader", "read_ann", "read_hdf5", "write_ann", "write_hdf5"]


class Vectors(NamedTuple):
    """Those of a file. outline: without ids and metadata."""

    outline: Outline
    take: Callable[[int, int], NDArray[Any]] | Callable[[int, int], Sparse]
    limit: Callable[[int, int], int]
    """How many of rows start … stop one batch may have: (start, stop) → the stop to keep to."""


class Hdf5Reader:
    """See `Reader`; `ground_truth` besides."""

    def __init__(
        self, file: Hdf5, vectors: Vectors, ids: "Hdf5Ids | None", fields: Fields | None, truth: GroundTruth | None
    ) -> None:
        self.outline = replace(vectors.outline, ids=ids.kind if ids else None, metadata=fields is not None)
        self.ground_truth = truth
        self._file = file
        self._vectors = vectors
        self._ids = ids
        self._fields = fields
        rows = self.outline.rows
        for what, count in (("ids", ids and ids.count), ("metadata", fields and fields.count)):
            if count is not None and count != rows:
                raise BadFile(f"there are {count} {what} and {rows} vectors")

    def batches(self, rows: int) -> Iterator[Batch]:
        total, start = self.outline.rows or 0, 0
        while start < total:
            stop = self._vectors.limit(start, min(start + rows, total))
            yield Batch(
                self._vectors.take(start, stop),
                self._ids.take(start, stop) if self._ids else None,
                self._fields.take(start, stop) if self._fields else None,
            )
            start = stop

    def close(self) -> None:
        self._file.close()


class Hdf5Ids:
    """Ids as a dataset of whole numbers or text."""

    def __init__(self, file: Hdf5, path: str) -> None:
        self.name = path
        dataset = file.dataset(path)
        with told(path):
            integers = dataset.id.get_type().get_class() == h5py.h5t.INTEGER
        self.kind: IdKind = "int" if integers else "str"
        self._numbers = open_rows(file, dataset) if integers else None
        self._texts = None if integers else Texts(file, dataset, ID_BYTES_MAX)
        shape = tuple(int(n) for n in dataset.shape)
        if len(shape) != 1:
            raise BadFile(f"{path} has {len(shape)} dimensions; ids have one")
        self.count = shape[0]

    def take(self, start: int, stop: int) -> Ids:
        if self._texts is not None:
            return self._texts.take_str(start, stop)
        assert self._numbers is not None
        return whole_numbers(self._numbers.rows(start, stop), self.name, start)


def read_hdf5(path: Path, options: ReadOptions) -> Reader:
    """vectors: a dataset of floats, or a group or dataset of sparse ones (`hdf5_csr`). Raises BadFile and OSError."""
    only(options, "vectors", "ids", "metadata", "flatten", "shape", of="HDF5")
    file = Hdf5(path)
    try:
        return _read(file, options)
    except BaseException:
        file.close()
        raise


def read_ann(path: Path, options: ReadOptions) -> Reader:
    """The same of a file of ann-benchmarks: it must have queries and their true nearest."""
    reader = read_hdf5(path, options)
    if not isinstance(reader, Hdf5Reader) or reader.ground_truth is None:
        reader.close()
        raise BadFile("no file of ann-benchmarks: it holds train, test and neighbors")
    return reader


def _read(file: Hdf5, options: ReadOptions) -> Hdf5Reader:
    root = file.group("/")
    held = [name for name, found in root.items() if _can_be_vectors(found)]
    usual = TRAIN if options.vectors is None and TRAIN in held and "vectors" not in held else options.vectors
    name = usual if usual is not None and "/" in usual else the_vectors(_all_of(held, root, usual), usual)
    found = file.find(name)
    sparse = hdf5_csr.open_sparse(file, name, found, options.shape)
    if sparse is None:
        vectors = _dense(file, name, options.flatten)
    else:
        vectors = Vectors(sparse.outline, sparse.take, sparse.limit)
    beside = name.rpartition("/")[0]
    ids = options.ids if options.ids is not None else _beside(file, beside, IDS)
    metadata = options.metadata if options.metadata is not None else _beside(file, beside, METADATA)
    truth = read_truth(file, root, vectors.outline) if name.strip("/") == TRAIN and sparse is None else None
    return Hdf5Reader(
        file,
        vectors,
        Hdf5Ids(file, ids) if ids is not None else None,
        metadata_of(file, metadata) if metadata is not None else None,
        truth,
    )


def _can_be_vectors(found: Any) -> bool:
    with told("the root group"):
        if isinstance(found, h5py.Dataset):
            kind = found.id.get_type().get_class()
            lists = kind == h5py.h5t.VLEN
            return lists or (kind == h5py.h5t.FLOAT and len(found.shape or ()) > 1)
        return isinstance(found, h5py.Group) and hdf5_csr.is_sparse(found)


def _all_of(held: list[str], root: dict[str, Any], asked: str | None) -> Sequence[str]:
    """What `asked` may name: whatever it is of the root, since it says itself what is wrong with it."""
    if asked is not None:
        return list(root)
    # The root itself can be the sparse group.
    return ["/"] if {hdf5_csr.INDICES, hdf5_csr.INDPTR} <= root.keys() else held


def _beside(file: Hdf5, group: str, name: str) -> str | None:
    return f"{group.rstrip('/')}/{name}" if name in file.group(group) else None


def _dense(file: Hdf5, name: str, flatten: bool) -> Vectors:
    dataset = file.dataset(name)
    with told(name):
        dtype, stored = dataset.dtype, dataset.id.get_type()
        if dtype.kind == "f":
            float_dtype(dtype.str)
        # Another layout of the bits (bfloat16, 80 bits) must not be read as the one NumPy thinks of.
        if dtype.kind != "f" or not h5py.h5t.py_create(dtype).equal(stored):
            raise BadFile(f"{name}: vectors must be float16, float32 or float64, not {dtype}")
    rows_of: Rows = open_rows(file, dataset)
    rows, item = item_shape(rows_of.shape, flatten)
    width = int(np.prod(item))
    one = len(rows_of.shape) == 1

    def take(start: int, stop: int) -> NDArray[Any]:
        # A dataset of one dimension is one row.
        found = rows_of.rows(0, width) if one else rows_of.rows(start, stop)
        return found.reshape(stop - start, width)

    return Vectors(Outline(width, dtype.name, rows), take, lambda _, stop: stop)
