"""Writes HDF5: contiguous datasets at disk speed, or chunked and compressed ones.

As for a segment, HDF5 lays the contiguous ones out and the numbers go to their offsets with pwrite, past HDF5. Text,
and whatever is compressed, goes through HDF5.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from storage.files.contract import Batch, GroundTruth, Outline, Sparse, WriteOptions, Writer
from storage.files.hdf5_csr import DATA, INDICES, INDPTR, SHAPE
from storage.files.hdf5_truth import DISTANCE, DISTANCES, METRICS, NEIGHBORS, TEST, TRAIN
from storage.files.naming import IDS, METADATA, VECTORS
from storage.files.options import plain
from storage.files.output import Count, dense, little_endian, remove_file

COMPRESSIONS: Final = ("gzip", "lzf", "blosc")
CHUNK_BYTES: Final = 1 << 20
CACHE_BYTES: Final = 16 << 20
"""Of chunks that are not full yet."""
ALIGNMENT: Final = 4096
"""Of what is at least 64 KiB, so that others can map it page by page."""
CSR_ATTRIBUTES: Final = {"encoding-type": "csr_matrix", "encoding-version": "0.1.0"}
"""By which AnnData knows one."""


def write_hdf5(path: Path, outline: Outline, options: WriteOptions) -> Writer:
    """`/vectors`, contiguous or compressed; a group of that name where they are sparse; `/ids`, `/metadata`."""
    plain(options, *COMPRESSIONS, of="HDF5")
    return Hdf5Writer(path, VECTORS, outline, options)


def write_ann(path: Path, outline: Outline, options: WriteOptions) -> Writer:
    """`/train`, and the ground truth in the options as `/test`, `/neighbors`, `/distances`. Raises ValueError where the
    options have none: what such a file is for would be missing."""
    plain(options, *COMPRESSIONS, of="ann")
    if options.ground_truth is None or outline.sparse:
        raise ValueError("ann-benchmarks: dense vectors with queries and their true nearest, and there are none")
    return Hdf5Writer(path, TRAIN, outline, options)


class Hdf5Writer:
    """The vectors under `name`, ids and metadata beside them."""

    def __init__(self, path: Path, name: str, outline: Outline, options: WriteOptions) -> None:
        self._path = path
        self._outline = outline
        self._count = Count(outline, sparse=True)
        self._fd = -1
        self._file = h5py.File(
            path,
            "w",
            libver=("v110", "v110"),  # From 1.10 on HDF5 puts checksums on its own headers.
            locking=False,
            rdcc_nbytes=CACHE_BYTES,
            alignment_threshold=1 << 16,
            alignment_interval=ALIGNMENT,
        )
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            self._compression = options.compression
            rows = self._count.rows
            self._vectors: Column = (
                _Csr(self._file, name, outline, rows, options.compression)
                if outline.sparse
                else self._column(name, (rows, outline.dimension), little_endian(outline))
            )
            self._ids: Column | None = None
            if outline.ids is not None:
                text = outline.ids == "str"
                self._ids = _Texts(self._file, IDS, rows) if text else self._column(IDS, (rows,), np.dtype("<i8"))
            self._metadata = _Texts(self._file, METADATA, rows) if outline.metadata else None
            if name == TRAIN and options.ground_truth is not None:
                _put_truth(self._file, options.ground_truth)
        except BaseException:
            self.abort()
            raise

    def write(self, batch: Batch) -> None:
        start = self._count.done
        self._count.add(batch.rows)
        sparse = self._outline.sparse and isinstance(batch.vectors, Sparse)
        self._vectors.put(start, batch.vectors if sparse else dense(batch, self._outline))
        if self._ids is not None and batch.ids is not None:
            self._ids.put(start, batch.ids)
        if self._metadata is not None and batch.metadata is not None:
            self._metadata.put(start, [item or b"" for item in batch.metadata])

    def finish(self) -> None:
        self._count.finish()
        self._close()

    def abort(self) -> None:
        self._close()
        remove_file(self._path)

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._file.close()

    def _column(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> "Column":
        if self._compression is None:
            return _Contiguous(self._file, self._fd, name, shape, dtype)
        row_bytes = dtype.itemsize * (shape[1] if len(shape) > 1 else 1)
        chunk = (min(max(1, CHUNK_BYTES // row_bytes), max(1, shape[0])), *shape[1:])
        how = _filters(self._compression)
        return _Slices(self._file.create_dataset(name, shape, dtype, chunks=chunk, **how))


class Column(Protocol):
    """One dataset being filled."""

    def put(self, start: int, values: Any) -> None: ...


class _Contiguous:
    def __init__(self, file: h5py.File, fd: int, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        how.set_layout(h5py.h5d.CONTIGUOUS)
        how.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        how.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple(shape)
        dataset = h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(dtype), space, how)
        # None where there are no rows: then nothing is put.
        self._offset = dataset.get_offset() or 0
        self._row_bytes = dtype.itemsize * (shape[1] if len(shape) > 1 else 1)
        self._dtype = dtype
        self._fd = fd

    def put(self, start: int, values: NDArray[Any]) -> None:
        left, at = (
            np.ascontiguousarray(values, self._dtype).reshape(-1).view(np.uint8).data,
            self._offset + start * self._row_bytes,
        )
        while left:
            n = os.pwrite(self._fd, left, at)
            left, at = left[n:], at + n


class _Slices:
    def __init__(self, dataset: h5py.Dataset) -> None:
        self._dataset = dataset

    def put(self, start: int, values: NDArray[Any]) -> None:
        self._dataset[start : start + len(values)] = values


class _Texts:
    """Text of variable length in UTF-8; bytes are put as they are."""

    def __init__(self, file: h5py.File, name: str, rows: int) -> None:
        self._dataset = file.create_dataset(name, (rows,), h5py.string_dtype())

    def put(self, start: int, values: Sequence[str | bytes]) -> None:
        self._dataset[start : start + len(values)] = np.array(values, dtype=object)


class _Csr:
    """A CSR group whose arrays grow: how many numbers there are is known at the end."""

    def __init__(self, file: h5py.File, name: str, outline: Outline, rows: int, compression: str | None) -> None:
        group = file.create_group(name)
        how = _filters(compression) if compression else {}
        chunk = CHUNK_BYTES // 4
        self._data = group.create_dataset(DATA, (0,), "<f4", chunks=(chunk,), maxshape=(None,), **how)
        self._indices = group.create_dataset(INDICES, (0,), "<i8", chunks=(chunk // 2,), maxshape=(None,), **how)
        self._indptr = group.create_dataset(INDPTR, (rows + 1,), "<i8")
        self._indptr[0] = 0
        group.attrs.update(CSR_ATTRIBUTES)
        group.attrs[SHAPE] = np.array([rows, outline.dimension], "<i8")
        self._stored = 0

    def put(self, start: int, values: Sparse) -> None:
        end = self._stored + len(values.values)
        for dataset, numbers in ((self._data, values.values), (self._indices, values.indices)):
            dataset.resize((end,))
            dataset[self._stored : end] = numbers
        self._indptr[start + 1 : start + len(values.indptr)] = values.indptr[1:] + self._stored
        self._stored = end


def _filters(compression: str) -> dict[str, Any]:
    if compression == "blosc":
        return dict(hdf5plugin.Blosc(cname="zstd", clevel=5, shuffle=hdf5plugin.Blosc.SHUFFLE))
    # Bytes of the same place in each number are more alike than the bytes of a number.
    return {"compression": compression, "shuffle": True}


def _put_truth(file: h5py.File, truth: GroundTruth) -> None:
    file[TEST] = np.ascontiguousarray(truth.queries, "<f4")
    file[NEIGHBORS] = np.ascontiguousarray(truth.neighbors, "<i8")
    if truth.distances is not None:
        file[DISTANCES] = np.ascontiguousarray(truth.distances, "<f4")
    if truth.metric is not None:
        file.attrs[DISTANCE] = next(name for name, metric in METRICS.items() if metric == truth.metric)
