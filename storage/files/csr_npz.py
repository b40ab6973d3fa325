"""SciPy's sparse matrices: `.npz` of `data`, `indices`, `indptr`, `shape` and `format`, in CSR. Ids and metadata go
along as in a dense `.npz`; SciPy passes over them."""

import re
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np

from seedvec import npy_header
from storage.files import csr, npy_part
from storage.files.contract import BadFile, Batch, Outline, Reader, ReadOptions, Sparse, WriteOptions, Writer
from storage.files.lines import Lines
from storage.files.naming import IDS, METADATA, beside_them
from storage.files.numbers import Matrix
from storage.files.options import only, plain
from storage.files.output import Count, Output, as_bytes
from storage.files.parts import Parts, Vectors
from storage.files.source import Part, Source, open_file, read
from storage.files.spilled import Spilled
from storage.files.zip_directory import members
from storage.files.zip_member import open_member
from storage.files.zip_output import put_aside

DATA: Final = "data"
INDICES: Final = "indices"
INDPTR: Final = "indptr"
SHAPE: Final = "shape"
FORMAT: Final = "format"
DEFLATE: Final = "deflate"
MARKS: Final = frozenset({f"{INDICES}.npy", f"{INDPTR}.npy"})
"""By which one is known."""
_NUMBERS: Final = re.compile(r"[<>|=]?(?:[iu][1248]|f[248]|b1)")
_COPY_ITEMS: Final = 1 << 18


def read_csr(path: Path, options: ReadOptions) -> Reader:
    """Without `data` all numbers are ones. Raises BadFile and OSError."""
    only(options, "ids", "metadata", "shape", of="a sparse .npz")
    with ExitStack() as files:
        file = files.enter_context(open_file(path))
        whole = Part(file)
        held = members(whole)

        def part(name: str) -> Source:
            if name not in held:
                raise BadFile(f"no sparse matrix of SciPy: there is no {name}")
            return open_member(file, whole, name, held[name])

        arrays = {name.removesuffix(".npy") for name in held if name.endswith(".npy")}
        texts = {name.removesuffix(".jsonl"): name for name in held if name.endswith(".jsonl")}
        ids, metadata = beside_them(arrays, options.ids, IDS), beside_them(texts, options.metadata, METADATA)
        found = _matrix(part, arrays, options.shape)
        reader = Parts(
            Vectors(found.outline, found.take, found.limit),
            None if ids is None else npy_part.ids(part(f"{ids}.npy"), ids),
            None if metadata is None else Lines(part(texts[metadata]), texts[metadata]),
        )
        reader.files = files.pop_all()
    return reader


def write_csr(path: Path, outline: Outline, options: WriteOptions) -> Writer:
    """Stored, or with compression `deflate`."""
    plain(options, DEFLATE, of="a sparse .npz")
    if not outline.sparse:
        raise ValueError("csr: sparse vectors are written, and these are dense")
    return CsrWriter(path, outline, zipfile.ZIP_STORED if options.compression is None else zipfile.ZIP_DEFLATED)


def _matrix(part: Callable[[str], Source], arrays: set[str], asked: tuple[int, ...] | None) -> csr.Csr:
    if FORMAT in arrays:
        raw = part(f"{FORMAT}.npy")
        said = read(raw, 0, min(raw.size, 1024)).replace(b"\0", b"").strip()
        if not said.endswith(b"csr"):
            raise BadFile(f"a sparse matrix of another kind than CSR: {csr.SAVE_HINT}")
    indptr, indices = _array(part, INDPTR), _array(part, INDICES)
    data = _array(part, DATA) if DATA in arrays else None
    for name, found in ((INDPTR, indptr), (INDICES, indices)):
        if found.dtype.kind not in "iu":
            raise BadFile(f"{name} is of {found.dtype}, should be whole numbers")
    if indptr.rows < 1 or (data is not None and data.rows != indices.rows):
        raise BadFile(f"{INDPTR}, {INDICES} and {DATA} do not belong to each other")
    rows = indptr.rows - 1
    if SHAPE in arrays:
        shape = _array(part, SHAPE)
        if shape.rows != 2 or shape.dtype.kind not in "iu":
            raise BadFile(f"{SHAPE} is not of two whole numbers")
        said_rows, dimension = shape.take(0, 2).reshape(-1).tolist()
        if said_rows != rows:
            raise BadFile(f"{SHAPE} says {said_rows} rows, {INDPTR} {rows}")
    elif asked:
        dimension = asked[-1]
    else:
        raise BadFile("it does not say how many columns there are; say it: shape=-1,1000")
    take = None if data is None else _flat(data)
    dtype = "float32" if data is None else data.dtype.name
    return csr.Csr(rows, dimension, indices.rows, _flat(indptr), _flat(indices), take, dtype)


def _array(part: Callable[[str], Source], name: str) -> Matrix:
    """One dimension of numbers, as a matrix of one column."""
    source = part(f"{name}.npy")
    try:
        header = npy_header.parse(read(source, 0, min(source.size, npy_header.PREFIX_BYTES_MAX + npy_header.BYTES_MAX)))
    except npy_header.NotNpy as e:
        raise BadFile(f"{name}.npy: {e}") from None
    if len(header.shape) != 1 or not isinstance(header.descr, str) or not _NUMBERS.fullmatch(header.descr):
        raise BadFile(f"{name}.npy: not one row of numbers")
    return Matrix(source, header.start, header.shape[0], (1,), np.dtype(header.descr))


def _flat(matrix: Matrix) -> csr.Take:
    return lambda start, stop: matrix.take(start, stop).reshape(-1)


class CsrWriter:
    """What the header of each array must say is known at the end: until then they are kept in unnamed files."""

    def __init__(self, path: Path, outline: Outline, method: int) -> None:
        self._outline = outline
        self._count = Count(outline, sparse=True)
        self._method = method
        self._stored = 0
        with ExitStack() as files:
            self._aside = Spilled(outline, path.parent)
            files.callback(self._aside.close)
            self._values, self._indices, self._ends = (
                files.enter_context(tempfile.TemporaryFile(dir=path.parent)) for _ in range(3)
            )
            self._output = Output(path)
            self._files = files.pop_all()
        self._ends.write(np.zeros(1, "<i8").tobytes())

    def write(self, batch: Batch) -> None:
        if not isinstance(batch.vectors, Sparse):
            raise ValueError("the batch holds no sparse vectors")
        self._count.add(batch.rows)
        self._aside.add(batch)
        self._values.write(as_bytes(batch.vectors.values.astype("<f4", copy=False)))
        self._indices.write(as_bytes(batch.vectors.indices.astype("<i8", copy=False)))
        self._ends.write(as_bytes((batch.vectors.indptr[1:] + self._stored).astype("<i8", copy=False)))
        self._stored += len(batch.vectors.values)

    def finish(self) -> None:
        self._count.finish()
        rows = self._count.rows
        # SciPy keeps both in the narrower type where it can, and converts them otherwise.
        places = "<i4" if self._stored < 2**31 else "<i8"
        with zipfile.ZipFile(self._output.file, "w", self._method) as archive:
            self._put(archive, INDICES, self._indices, "<i8", places, self._stored)
            self._put(archive, INDPTR, self._ends, "<i8", places, rows + 1)
            self._put(archive, DATA, self._values, "<f4", "<f4", self._stored)
            archive.writestr(f"{FORMAT}.npy", npy_header.build("|S3", ()) + b"csr")
            shape = np.array([rows, self._outline.dimension], "<i8")
            archive.writestr(f"{SHAPE}.npy", npy_header.build("<i8", (2,)) + shape.tobytes())
            put_aside(self._aside, rows, lambda name, size: archive.open(name, "w", force_zip64=True))
        self._output.close()
        self._files.close()

    def abort(self) -> None:
        with suppress(OSError):
            self._files.close()
        self._output.abort()

    def _put(self, archive: zipfile.ZipFile, name: str, file: BinaryIO, stored: str, dtype: str, count: int) -> None:
        file.seek(0)
        with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
            member.write(npy_header.build(dtype, (count,)))
            while raw := file.read(_COPY_ITEMS * np.dtype(stored).itemsize):
                member.write(as_bytes(np.frombuffer(raw, stored).astype(dtype, copy=False)))
