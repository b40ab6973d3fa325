"""The files of a tensorblob folder: what they say, held against what is there.

A *blob*: `.conf` (JSON: dtype, shape of an item, block_size), `.stat` (JSON: `len`, and `bds`, the names of the blocks
in order), and for each block a file of block_size items, the last of them filled with zeros. A *database* (TensorDB):
`.conf` with a schema, `.stat` with the number of rows that count, and a blob for each field in a folder of its name.
"""

import json
import math
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeGuard

import numpy as np

from storage.files.contract import BadFile
from storage.files.numbers import BFLOAT16, DIMENSIONS_MAX, Matrix
from storage.files.source import Part, open_file, read

CONF: Final = ".conf"
STAT: Final = ".stat"
BLOB: Final = "tensorblob._blob.TensorBlob"
DATABASE: Final = "tensorblob._db.TensorDB"
"""Which of the two it is: the package looks at nothing else, and neither do we."""
JSON_BYTES_MAX: Final = 4 << 20
"""Of `.stat`: 100,000 blocks, 800 million rows as the package writes them."""
NAME_BYTES_MAX: Final = 255
"""What a file system takes."""
DTYPES: Final[dict[str, np.dtype[Any] | str]] = {
    **{name: np.dtype(name).newbyteorder("<") for name in ("float16", "float32", "float64")},
    **{name: np.dtype(name).newbyteorder("<") for name in ("int8", "int16", "int32", "int64", "uint8", "bool")},
    BFLOAT16: BFLOAT16,
}
"""As torch names them."""
_OTHER_NAMES: Final = {"half": "float16", "float": "float32", "double": "float64", "long": "int64", "int": "int32"}


@dataclass(frozen=True, slots=True)
class Blob:
    """One blob, as its files say."""

    folder: Path
    dtype: str
    shape: tuple[int, ...]
    block_rows: int
    rows: int
    blocks: tuple[str, ...]

    def matrix(self, files: ExitStack, rows: int, item: tuple[int, ...]) -> Matrix:
        """The first so many rows; item: the shape of one, or what it is taken for. Raises BadFile."""
        if self.dtype not in DTYPES:
            raise BadFile(f"{self.folder.name}: holds {self.dtype[:20]!r}, which is not known here")
        return Matrix(_Blocks(files, self), 0, rows, item, DTYPES[self.dtype])


def kind(folder: Path) -> str:
    """BLOB or DATABASE. Raises BadFile."""
    notes = _json(folder / CONF).get("__notes__")
    name = notes.get("class_name") if isinstance(notes, dict) else None
    if name not in (BLOB, DATABASE):
        raise BadFile(f"{folder.name}: {CONF} is not that of a tensorblob folder")
    return str(name)


def read_blob(folder: Path) -> Blob:
    """Raises BadFile: not a blob, or fewer blocks than its rows need."""
    if kind(folder) != BLOB:
        raise BadFile(f"{folder.name}: is no blob")
    conf, stat = _json(folder / CONF), _json(folder / STAT)
    dtype, shape, block_rows = conf.get("dtype"), conf.get("shape"), conf.get("block_size")
    rows, blocks = stat.get("len"), stat.get("bds")
    if not isinstance(dtype, str) or not isinstance(shape, list) or not isinstance(blocks, list):
        raise BadFile(f"{folder.name}: {CONF} or {STAT} does not say what it must")
    if (
        len(shape) > DIMENSIONS_MAX
        or not all(map(_is_size, shape))
        or not _is_size(block_rows)
        or not _is_size(rows)
        or not block_rows
    ):
        raise BadFile(f"{folder.name}: {CONF} or {STAT} holds what is no size")
    if -(-rows // block_rows) > len(blocks):
        raise BadFile(f"{folder.name}: {rows} rows do not lie in {len(blocks)} blocks of {block_rows}")
    if not all(map(_is_own_name, blocks)):
        raise BadFile(f"{folder.name}: {STAT} names what can be no block")
    return Blob(folder, _OTHER_NAMES.get(dtype, dtype), tuple(shape), block_rows, rows, tuple(blocks))


def read_database(folder: Path) -> tuple[dict[str, Blob], int]:
    """The fields by name, and how many rows of each count. Raises BadFile."""
    schema, rows = _json(folder / CONF).get("schema"), _json(folder / STAT).get("len")
    if not isinstance(schema, dict) or not schema or not _is_size(rows):
        raise BadFile(f"{folder.name}: {CONF} or {STAT} does not say what it must")
    if not all(map(_is_own_name, schema)):
        raise BadFile(f"{folder.name}: {CONF} names what can be no field")
    fields = {name: read_blob(folder / name) for name in schema}
    return fields, min(rows, *(blob.rows for blob in fields.values()))


def dump(value: dict[str, Any]) -> bytes:
    """As both files have it."""
    return json.dumps(value).encode()


class _Blocks:
    """The rows of all blocks as one run of bytes; one block is open at a time."""

    def __init__(self, files: ExitStack, blob: Blob) -> None:
        row_bytes = math.prod(blob.shape) * _item_bytes(blob.dtype)
        self.size = blob.rows * row_bytes
        self._block_bytes = blob.block_rows * row_bytes
        self._paths = [blob.folder / name for name in blob.blocks[: -(-blob.rows // blob.block_rows)]]
        self._open = files.enter_context(ExitStack())
        self._at = -1
        self._part: Part | None = None
        for path in self._paths:
            if path.is_symlink() or not path.is_file() or path.stat().st_size != self._block_bytes:
                raise BadFile(f"{blob.folder.name}: the block {path.name[:60]} is not there, or is cut")

    def read_into(self, buffer: memoryview, offset: int) -> None:
        done = 0
        while done < len(buffer):
            block, at = divmod(offset + done, self._block_bytes)
            n = min(len(buffer) - done, self._block_bytes - at)
            self._block(block).read_into(buffer[done : done + n], at)
            done += n

    def _block(self, number: int) -> Part:
        if self._part is None or number != self._at:
            self._open.close()
            self._part = Part(self._open.enter_context(open_file(self._paths[number])))
            self._at = number
        return self._part


def _is_own_name(name: object) -> bool:
    """Whether it can be something in the same folder and nothing else: these names may come from anybody."""
    if not isinstance(name, str) or not name.isprintable() or name[:1] in ("", "."):
        return False
    return name == Path(name).name and len(name.encode()) <= NAME_BYTES_MAX


def _is_size(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 2**63


def _item_bytes(dtype: str) -> int:
    found = DTYPES[dtype]
    return 2 if isinstance(found, str) else found.itemsize


def _json(path: Path) -> dict[str, Any]:
    if path.is_symlink() or path.parent.is_symlink():
        raise BadFile(f"{path.name}: is a link")
    with open_file(path) as file:
        source = Part(file)
        if source.size > JSON_BYTES_MAX:
            raise BadFile(f"{path.name}: {source.size:,} bytes are too many")
        text = read(source, 0, source.size)
    try:
        value = json.loads(text.decode())
    except (ValueError, RecursionError):
        raise BadFile(f"{path.name}: is no JSON") from None
    if not isinstance(value, dict):
        raise BadFile(f"{path.name}: is no JSON object")
    return value
