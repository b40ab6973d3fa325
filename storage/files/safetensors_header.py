"""The header of a safetensors file: JSON that names tensors and says where each lies. Read without the package."""

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

from storage.files.contract import BadFile
from storage.files.numbers import DIMENSIONS_MAX
from storage.files.source import Source, read

BYTES_MAX: Final = 4 << 20
"""Of a file of embeddings. The package takes 100 MB, which as JSON is a gigabyte of memory."""
LENGTH_BYTES: Final = 8
"""Of the number that stands before it."""
_INFO: Final = "__metadata__"
_ITEM_BYTES: Final = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


class Tensor(NamedTuple):
    """One tensor of the file."""

    dtype: str
    """By the format's name (`F32`)."""
    shape: tuple[int, ...]
    offset: int
    """In the file."""
    size: int
    """In bytes; what dtype and shape make it."""


def parse(source: Source) -> dict[str, Tensor]:
    """All tensors by name. They fill the file to its end without gaps, as the format asks: so each lies within it.

    Raises BadFile.
    """
    if source.size < LENGTH_BYTES:
        raise BadFile("no safetensors file: it is cut")
    length = int.from_bytes(read(source, 0, LENGTH_BYTES), "little")
    if not 2 <= length <= BYTES_MAX or LENGTH_BYTES + length > source.size:
        raise BadFile(f"no safetensors file: it says that its header has {length:,} bytes")
    fields = _json(read(source, LENGTH_BYTES, length))
    fields.pop(_INFO, None)
    begin = LENGTH_BYTES + length
    tensors = {name: _tensor(name, field, begin) for name, field in fields.items()}
    ends = [begin, *(end for t in sorted(tensors.values(), key=_place) for end in (t.offset, t.offset + t.size))]
    ends.append(source.size)
    if any(before != after for before, after in list(pairwise(ends))[::2]):
        raise BadFile("no safetensors file: its tensors are not the bytes that it has, one after the other")
    return tensors


def build(tensors: Sequence[tuple[str, str, Sequence[int]]], begin: int) -> bytes:
    """For tensors (name, dtype, shape) that lie one after the other from byte `begin` of the file on."""
    fields, at = {}, 0
    for name, dtype, shape in tensors:
        size = math.prod(shape) * _ITEM_BYTES[dtype]
        fields[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    length = begin - LENGTH_BYTES
    return length.to_bytes(LENGTH_BYTES, "little") + json.dumps(fields).encode().ljust(length)


def _place(tensor: Tensor) -> tuple[int, int]:
    return tensor.offset, tensor.size


def _tensor(name: str, field: Any, begin: int) -> Tensor:
    bad = BadFile(f"no safetensors file: what it says of {name[:60]!r} makes no sense")
    if not isinstance(field, dict) or field.keys() != {"dtype", "shape", "data_offsets"}:
        raise bad
    dtype, shape, offsets = field["dtype"], field["shape"], field["data_offsets"]
    if not isinstance(dtype, str) or not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise bad
    if dtype not in _ITEM_BYTES:
        raise BadFile(f"{name[:60]!r} is of {dtype[:20]!r}, which is not known here")
    if offsets[1] - offsets[0] != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise bad
    return Tensor(dtype, tuple(shape), begin + offsets[0], offsets[1] - offsets[0])


def _are_sizes(values: Any) -> bool:
    return (
        isinstance(values, list)
        and len(values) <= DIMENSIONS_MAX
        and all(type(value) is int and 0 <= value < 2**63 for value in values)
    )


def _json(text: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise BadFile("no safetensors file: its header is no JSON") from None
    if not isinstance(fields, dict):
        raise BadFile("no safetensors file: its header is no JSON object")
    return fields


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name comes twice")
    return fields


def _no_constant(text: str) -> Any:
    raise ValueError(text)
