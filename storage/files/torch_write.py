"""Writes what `torch.load` opens, mapped too, front to back in constant memory: the numbers first, the pickle last."""

import io
import json
import math
import pickle
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Final

from storage.files.contract import Batch, Outline
from storage.files.naming import IDS, METADATA, VECTORS
from storage.files.output import as_bytes
from storage.files.zip_output import ZipWriter

PICKLE_BYTES_MAX: Final = 64 << 20
"""Of what is not tensors: whoever reads it needs several times that in memory."""
ALIGNMENT: Final = 64
"""Of a tensor in the file, as torch.save has it: mapped numbers then lie as the processor wants them."""
_ROOT: Final = "archive"
_PADDING_ID: Final = 0xD935
"""The extra field that Android's zipalign pads with; readers pass over it."""
_LOCAL_BYTES: Final = 30
_ZIP64_EXTRA_BYTES: Final = 20
_PIECES: Final = 1_000
"""Items that are given to a list at a time."""


class Stored:
    """A tensor that lies in the zip, as pickle is told of it."""

    def __init__(self, key: str, dtype: str, shape: tuple[int, ...]) -> None:
        self.key = key
        self.dtype = dtype
        self.shape = shape

    @property
    def count(self) -> int:
        return math.prod(self.shape)


class PtWriter(ZipWriter):
    """A dict: `vectors`, `ids` (a tensor, or a list of str), `metadata` (a list of dicts and None)."""

    def __init__(self, path: Path, outline: Outline, pickler: "type[TensorPickler]") -> None:
        self._pickler = pickler
        self._pickled = 0
        super().__init__(path, outline)

    def _begin_vectors(self) -> IO[bytes]:
        return self._begin("data/0")

    def write(self, batch: Batch) -> None:
        if self._outline.ids == "str":
            self._reserve(sum(map(len, batch.ids if batch.ids is not None else ())))
        self._reserve(sum(len(item or b"") for item in batch.metadata or ()))
        super().write(batch)

    def _put_rest(self) -> None:
        rows, ids = self._count.rows, self._aside.ids
        held: dict[str, Any] = {VECTORS: Stored("0", self._outline.dtype, (rows, self._outline.dimension))}
        if ids is not None and ids.is_int:
            with self._begin("data/1") as member:
                member.writelines(map(as_bytes, ids.arrays(ids.dtype)))
            held[IDS] = Stored("1", "int64", (rows,))
        elif ids is not None:
            held[IDS] = (text.decode() for block in ids.arrays(ids.utf8) for text in block.tolist())
        if self._aside.lines is not None:
            held[METADATA] = map(json.loads, _lines(self._aside.lines.chunks()))
        with self._begin("data.pkl") as member:
            for piece in self._pickler.pieces(held):
                member.write(piece)
        for name, text in (("byteorder", b"little"), ("version", b"3\n")):
            with self._begin(name) as member:
                member.write(text)

    def _reserve(self, more: int) -> None:
        self._pickled += more
        if self._pickled > PICKLE_BYTES_MAX:
            raise ValueError(
                f"ids and metadata take more than {PICKLE_BYTES_MAX:,} bytes, which torch would have to have in memory "
                "at once: export to Parquet, .npz or safetensors"
            )

    def _begin(self, name: str) -> IO[bytes]:
        info = zipfile.ZipInfo(f"{_ROOT}/{name}")
        used = _LOCAL_BYTES + len(info.filename) + _ZIP64_EXTRA_BYTES + 4
        padding = -(self._zip.fp.tell() + used) % ALIGNMENT  # type: ignore[union-attr]
        info.extra = _PADDING_ID.to_bytes(2, "little") + padding.to_bytes(2, "little") + bytes(padding)
        return self._zip.open(info, "w", force_zip64=True)


class TensorPickler(pickle.Pickler):
    """Pickles for torch.load; what is of torch is said by whoever knows torch."""

    @classmethod
    def pieces(cls, held: dict[str, Any]) -> Iterator[bytes]:
        """A dict of tensors, and of lists given as iterators, of which only some items are in memory."""
        yield pickle.PROTO + b"\x02" + pickle.EMPTY_DICT
        for name, value in held.items():
            yield cls._piece(name)
            if isinstance(value, Stored):
                yield cls._piece(value)
            else:
                yield pickle.EMPTY_LIST
                yield from cls._items(value)
            yield pickle.SETITEM
        yield pickle.STOP

    @classmethod
    def _items(cls, found: Iterable[Any]) -> Iterator[bytes]:
        waiting: list[bytes] = []
        for item in found:
            waiting.append(cls._piece(item))
            if len(waiting) == _PIECES:
                yield pickle.MARK + b"".join(waiting) + pickle.APPENDS
                waiting = []
        if waiting:
            yield pickle.MARK + b"".join(waiting) + pickle.APPENDS

    @classmethod
    def _piece(cls, value: object) -> bytes:
        """What leaves the value on the pickle's stack."""
        out = io.BytesIO()
        pickler = cls(out, protocol=2)
        # Without memo, which would number things as if each piece were alone.
        pickler.fast = True
        pickler.dump(value)
        return out.getvalue()[2:-1]


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
