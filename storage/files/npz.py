"""`.npz`: a zip of `.npy` files. `vectors.npy`, `ids.npy` (int64, or `U`) and `metadata.jsonl`, one JSON object or
`null` a row, are what is written here; `numpy.load` gives the last as bytes. Members that are not asked for are not
touched.
"""

import math
import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Final

from seedvec import npy_header
from storage.files import csr_npz, npy_part, zip_directory
from storage.files.columns import opened, reader_of
from storage.files.contract import BadFile, Outline, Reader, ReadOptions, WriteOptions, Writer
from storage.files.lines import Lines
from storage.files.naming import IDS, METADATA, VECTORS, beside_them, the_vectors
from storage.files.numbers import Matrix
from storage.files.options import only, plain
from storage.files.output import little_endian
from storage.files.parts import Parts
from storage.files.source import Held, Part, chunks, open_file
from storage.files.zip_member import ALWAYS_BYTES, RATIO_MAX, Inflated, Stored, open_member
from storage.files.zip_output import ZipWriter, put_aside

_NPY: Final = ".npy"
_LINES: Final = ".jsonl"
_ZIP64_ABOVE: Final = 1 << 30
DEFLATE: Final = "deflate"


def read_npz(path: Path, options: ReadOptions) -> Reader:
    """The vectors are the array asked for, `vectors`, or the only one besides ids; or a sparse matrix of SciPy."""
    with open_file(path) as file:
        sparse = csr_npz.MARKS <= zip_directory.members(Part(file)).keys()
    if sparse:
        return csr_npz.read_csr(path, options)
    only(options, "vectors", "ids", "metadata", "flatten", of=".npz")

    def made(files: ExitStack) -> Parts:
        file = files.enter_context(open_file(path))
        whole = Part(file)
        members = zip_directory.members(whole)
        arrays = {_without(name, _NPY): name for name in members if name.endswith(_NPY)}
        texts = {_without(name, _LINES): name for name in members if name.endswith(_LINES)}
        ids = beside_them(arrays, options.ids, IDS)
        metadata = beside_them(texts, options.metadata, METADATA)
        vectors = arrays[the_vectors(arrays.keys() - {ids}, options.vectors)]

        def part(name: str, ratio_max: float = RATIO_MAX) -> Stored | Inflated:
            return open_member(file, whole, name, members[name], ratio_max)

        return reader_of(
            _vectors(part(vectors), options.flatten),
            None if ids is None else npy_part.ids(part(arrays[ids]), ids),
            None if metadata is None else Lines(part(texts[metadata], math.inf), texts[metadata]),
        )

    return opened(made)


def write_npz(path: Path, outline: Outline, options: WriteOptions) -> Writer:
    """Stored, or with compression `deflate`; sparse vectors as SciPy has them."""
    if outline.sparse:
        return csr_npz.write_csr(path, outline, options)
    plain(options, DEFLATE, of=".npz")
    return _Npz(path, outline, zipfile.ZIP_STORED if options.compression is None else zipfile.ZIP_DEFLATED)


def _without(name: str, ending: str) -> str:
    return name[: -len(ending)]


def _vectors(source: Stored | Inflated, flatten: bool) -> Matrix:
    matrix = npy_part.vectors(source, flatten)
    if not matrix.fortran:
        return matrix
    # Read column by column, which neither passes by every byte in order, as the checksum wants it, nor can be unpacked.
    if isinstance(source, Stored):
        for _ in chunks(source):
            pass
        return matrix
    if source.size > ALWAYS_BYTES:
        raise BadFile("a compressed array in Fortran order cannot be read by rows: save it in C order, or uncompressed")
    return npy_part.vectors(Held(b"".join(chunks(source))), flatten)


class _Npz(ZipWriter):
    def __init__(self, path: Path, outline: Outline, method: int) -> None:
        self._method = method
        super().__init__(path, outline)

    def _begin_vectors(self) -> IO[bytes]:
        dtype, shape = little_endian(self._outline), (self._count.rows, self._outline.dimension)
        member = self._begin(VECTORS + _NPY, math.prod(shape) * dtype.itemsize)
        member.write(npy_header.build(dtype.str, shape))
        return member

    def _put_rest(self) -> None:
        put_aside(self._aside, self._count.rows, self._begin)

    def _begin(self, name: str, size: int) -> IO[bytes]:
        info = zipfile.ZipInfo(name)
        info.compress_type = self._method
        return self._zip.open(info, "w", force_zip64=size > _ZIP64_ABOVE)
