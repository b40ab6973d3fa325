"""safetensors: `vectors` (n, d); `ids`, (n,) I64, or for strings (n, w) U8, UTF-8 padded with zeros; `metadata`, U8,
the bytes of JSON Lines, one object or `null` a row. What other programs call otherwise is read by asking for it.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from storage.files import safetensors_header
from storage.files.columns import opened, reader_of
from storage.files.contract import BadFile, Batch, Outline, Reader, ReadOptions, WriteOptions, Writer
from storage.files.ids import IdColumn
from storage.files.lines import Lines
from storage.files.naming import IDS, METADATA, VECTORS, beside_them, the_vectors
from storage.files.numbers import BFLOAT16, Matrix, item_shape
from storage.files.options import only, plain
from storage.files.output import Count, Output, dense
from storage.files.parts import Parts
from storage.files.safetensors_header import Tensor
from storage.files.source import Part, open_file
from storage.files.spilled import INT, Spilled, SpilledIds

_BEGIN: Final = 1024
"""Where the tensors begin in files written here. The header is padded to there with spaces: so the vectors are written
before it is known how long what follows them is."""
_FLOATS: Final[dict[str, np.dtype[Any] | str]] = {
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "BF16": BFLOAT16,
}
_INTEGERS: Final = {f"{kind}{8 * n}": np.dtype(f"<{kind.lower()}{n}") for kind in "IU" for n in (1, 2, 4, 8)}
_WRITTEN: Final = {"float16": "F16", "float32": "F32", "float64": "F64"}


def read_safetensors(path: Path, options: ReadOptions) -> Reader:
    """The vectors are the tensor asked for, `vectors`, or the only one of floats."""
    only(options, "vectors", "ids", "metadata", "flatten", of="safetensors")

    def made(files: ExitStack) -> Parts:
        file = files.enter_context(open_file(path))
        tensors = safetensors_header.parse(Part(file))
        ids = beside_them(tensors, options.ids, IDS)
        metadata = beside_them(tensors, options.metadata, METADATA)
        floats = {name for name, tensor in tensors.items() if tensor.dtype in _FLOATS and name not in (ids, metadata)}
        return reader_of(
            _vectors(file, tensors[the_vectors(floats, options.vectors)], options.flatten),
            None if ids is None else _ids(file, tensors[ids], ids),
            None if metadata is None else _lines(file, tensors[metadata], metadata),
        )

    return opened(made)


def write_safetensors(path: Path, outline: Outline, options: WriteOptions) -> Writer:
    """A file, not a pipe: the header is written last."""
    plain(options, of="safetensors")
    return _Safetensors(path, outline)


def _vectors(file: BinaryIO, tensor: Tensor, flatten: bool) -> Matrix:
    rows, item = item_shape(tensor.shape, flatten)
    return Matrix(Part(file, tensor.offset, tensor.size), 0, rows, item, _FLOATS[tensor.dtype])


def _ids(file: BinaryIO, tensor: Tensor, name: str) -> IdColumn:
    source = Part(file, tensor.offset, tensor.size)
    if len(tensor.shape) == 1 and tensor.dtype in _INTEGERS:
        return IdColumn(Matrix(source, 0, tensor.shape[0], (1,), _INTEGERS[tensor.dtype]), name)
    if len(tensor.shape) == 2 and tensor.dtype == "U8":
        rows, width = tensor.shape
        return IdColumn(Matrix(source, 0, rows, (1,), np.dtype(f"S{width}")), name)
    raise BadFile(f"{name}: ids are (n,) whole numbers, or (n, w) U8: UTF-8 padded with zeros")


def _lines(file: BinaryIO, tensor: Tensor, name: str) -> Lines:
    if tensor.dtype != "U8" or len(tensor.shape) != 1:
        raise BadFile(f"{name}: metadata are U8 of one dimension: the bytes of JSON Lines")
    return Lines(Part(file, tensor.offset, tensor.size), name)


class _Safetensors:
    """Room for the header and for int ids, the vectors, what was put aside meanwhile; then what room was left for.

    Int ids come first because 8 bytes each keep everything after them aligned; float16 before them would not.
    """

    def __init__(self, path: Path, outline: Outline) -> None:
        self._outline = outline
        self._count = Count(outline)
        self._aside = Spilled(outline, path.parent)
        try:
            self._output = Output(path)
            self._output.file.seek(_BEGIN + (INT.itemsize * self._count.rows if outline.ids == "int" else 0))
        except BaseException:
            self._aside.close()
            raise

    def write(self, batch: Batch) -> None:
        vectors = dense(batch, self._outline)
        self._count.add(len(vectors))
        self._aside.add(batch)
        self._output.array(vectors)

    def finish(self) -> None:
        self._count.finish()
        rows = self._count.rows
        tensors = [(VECTORS, _WRITTEN[self._outline.dtype], [rows, self._outline.dimension])]
        ids, lines, file = self._aside.ids, self._aside.lines, self._output.file
        if ids is not None and not ids.is_int:
            self._write_ids(ids, ids.utf8)
            tensors.append((IDS, "U8", [rows, ids.utf8.itemsize]))
        if lines is not None:
            file.writelines(lines.chunks())
            tensors.append((METADATA, "U8", [lines.bytes]))
        if ids is not None and ids.is_int:
            file.seek(_BEGIN)
            self._write_ids(ids, ids.dtype)
            tensors.insert(0, (IDS, "I64", [rows]))
        file.seek(0)
        file.write(safetensors_header.build(tensors, _BEGIN))
        self._aside.close()
        self._output.close()

    def _write_ids(self, ids: SpilledIds, dtype: np.dtype[Any]) -> None:
        for array in ids.arrays(dtype):
            self._output.array(array)

    def abort(self) -> None:
        self._aside.close()
        self._output.abort()
