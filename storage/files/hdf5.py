"""HDF5: a dataset of any path, with ids and metadata in datasets beside it; sparse vectors as a CSR group; files of
ann-benchmarks with their queries and ground truth."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from storage.files import hdf5_csr
from storage.files.contract import ID_BYTES_MAX, BadFile, IdKind, Ids, Outline, Reader, ReadOptions
from storage.files.given import whole_numbers
from storage.files.ground_truth import ground_truth
from storage.files.hdf5_metadata import metadata_of
from storage.files.hdf5_open import Hdf5, told
from storage.files.hdf5_rows import Rows, open_rows
from storage.files.hdf5_texts import Texts, whole
from storage.files.hdf5_truth import TRAIN, read_truth
from storage.files.hdf5_write import write_ann, write_hdf5
from storage.files.naming import IDS, METADATA, VECTORS, the_vectors
from storage.files.numbers import float_dtype, item_shape
from storage.files.options import only
from storage.files.parts import Parts, Vectors

__all__ = ["read_ann", "read_hdf5", "write_ann", "write_hdf5"]


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
        self.rows = shape[0]

    def take(self, start: int, stop: int) -> Ids:
        if self._texts is not None:
            return whole(self._texts.take_str, start, stop)
        assert self._numbers is not None
        return whole_numbers(self._numbers.rows(start, stop), self.name, start)


def read_hdf5(path: Path, options: ReadOptions) -> Reader:
    """vectors: a dataset of floats, or a group or dataset of sparse ones (`hdf5_csr`). Raises BadFile and OSError."""
    only(options, "vectors", "ids", "metadata", "flatten", "shape", of="HDF5")
    with ExitStack() as files:
        file = Hdf5(path)
        files.callback(file.close)
        reader = _read(file, options)
        reader.files = files.pop_all()
    return reader


def read_ann(path: Path, options: ReadOptions) -> Reader:
    """The same of a file of ann-benchmarks: it must have queries and their true nearest."""
    reader = read_hdf5(path, options)
    if ground_truth(reader) is None:
        reader.close()
        raise BadFile("no file of ann-benchmarks: it holds train, test and neighbors")
    return reader


def _read(file: Hdf5, options: ReadOptions) -> Parts:
    root = file.group("/")
    name = options.vectors if options.vectors is not None else _usual(root)
    found = file.find(name)
    vectors = hdf5_csr.open_sparse(file, name, found, options.shape) or _dense(file, name, options.flatten)
    beside = name.rpartition("/")[0]
    ids = options.ids if options.ids is not None else _beside(file, beside, IDS)
    metadata = options.metadata if options.metadata is not None else _beside(file, beside, METADATA)
    fields = metadata_of(file, metadata) if metadata is not None else None
    judged = name.strip("/") == TRAIN and not vectors.outline.sparse
    return Parts(
        vectors,
        Hdf5Ids(file, ids) if ids is not None else None,
        fields,
        fields.count if fields else None,
        read_truth(file, root, vectors.outline) if judged else None,
    )


def _usual(root: dict[str, Any]) -> str:
    if {hdf5_csr.INDICES, hdf5_csr.INDPTR} <= root.keys():
        return "/"  # The root itself is the sparse group.
    held = [name for name, found in root.items() if _can_be_vectors(found)]
    return TRAIN if TRAIN in held and VECTORS not in held else the_vectors(held, None)


def _can_be_vectors(found: Any) -> bool:
    with told("the root group"):
        if isinstance(found, h5py.Dataset):
            kind = found.id.get_type().get_class()
            lists = kind == h5py.h5t.VLEN
            return lists or (kind == h5py.h5t.FLOAT and len(found.shape or ()) > 1)
        return isinstance(found, h5py.Group) and hdf5_csr.is_sparse(found)


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

    return Vectors(Outline(width, dtype.name, rows), take)
