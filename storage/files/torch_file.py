"""`.pt`, as `torch.save` writes it: one tensor; a dict of tensors with ids and metadata; a list of dicts, one an item.

The zip is checked before torch sees it, and torch is asked for outlines alone: `weights_only`, and on its `meta`
device, where a tensor has no numbers, so that nothing has to be mapped. Where a tensor's bytes lie in the file is all
that is needed to read them in constant memory. The one place of `storage` that imports torch.
"""

import math
from collections import OrderedDict
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch._utils import _rebuild_tensor_v2

from storage.files import foreign, zip_directory
from storage.files.contract import BadFile, Outline, Reader, ReadOptions, WriteOptions, Writer
from storage.files.numbers import BFLOAT16
from storage.files.options import only, plain
from storage.files.source import Part, Source, chunks, open_file
from storage.files.torch_items import read_dict, read_list, read_tensor
from storage.files.torch_tensor import Tensor
from storage.files.torch_write import PICKLE_BYTES_MAX, PtWriter, Stored, TensorPickler
from storage.files.zip_directory import STORED, Member, data_offset
from storage.files.zip_member import open_member

told = partial(foreign.told, "torch")
MEMBERS_MAX: Final = 200_000
"""Each tensor of a list of dicts is one."""
_LITTLE: Final = b"little"
_OLD: Final = "no file of torch.save, or one of before torch 1.6: load it and save it again"
_DTYPES: Final[dict[torch.dtype, np.dtype[Any] | str]] = {
    torch.bfloat16: BFLOAT16,
    **{
        getattr(torch, name): np.dtype(name).newbyteorder("<")
        for name in ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
    },
}
_STORAGES: Final = {
    "float16": torch.HalfStorage,
    "float32": torch.FloatStorage,
    "float64": torch.DoubleStorage,
    "int64": torch.LongStorage,
}
"""What pickles call the dtypes that are written."""


def read_pt(path: Path, options: ReadOptions) -> Reader:
    """vectors, ids, metadata: keys, of dicts inside dicts joined by `/`. Raises BadFile and OSError."""
    only(options, "vectors", "ids", "metadata", "flatten", of=".pt")
    with ExitStack() as files:
        archive = _Archive(files, path)
        with told(path.name):
            found = torch.load(path, map_location="meta", weights_only=True)
        if (tensor := archive.tensor(found)) is not None:
            reader = read_tensor(tensor, options)
        elif isinstance(found, dict):
            reader = read_dict(found, archive.tensor, options)
        elif isinstance(found, list | tuple):
            reader = read_list(found, archive.tensor, options)
        else:
            raise BadFile(f"{path.name}: holds a {type(found).__name__}, no tensor and nothing that holds some")
        reader.files = files.pop_all()
    return reader


def write_pt(path: Path, outline: Outline, options: WriteOptions) -> Writer:
    """A dict of `vectors`, `ids` (a tensor, or a list of str) and `metadata` (a list of dicts and None)."""
    plain(options, of=".pt")
    return PtWriter(path, outline, _Pickler)


class _Archive:
    """The zip, and where in it the tensors of its pickle lie. Raises BadFile for whatever torch.save does not write."""

    def __init__(self, files: ExitStack, path: Path) -> None:
        self._file = files.enter_context(open_file(path))
        self._whole = Part(self._file)
        head = bytearray(4)
        if self._whole.size > len(head):
            self._whole.read_into(memoryview(head), 0)
        if head != b"PK\x03\x04":
            raise BadFile(_OLD)
        members = zip_directory.members(self._whole, MEMBERS_MAX)
        # torch can be told to leave checksums out.
        self._checksums = any(member.crc for member in members.values())
        self._check(members)
        self._records = {
            data_offset(self._whole, name, member): (name, member)
            for name, member in members.items()
            if name.split("/")[1:2] == ["data"] and member.size
        }

    def tensor(self, value: object) -> Tensor | None:
        """What is known of a tensor that torch.load gave; None for anything else. Raises BadFile: of a kind that is not
        read, or bytes that are not there."""
        if not isinstance(value, torch.Tensor):
            return None
        if value.layout != torch.strided or value.dtype not in _DTYPES or value.is_quantized:
            raise BadFile(f"a tensor of {value.dtype}, {value.layout}: vectors are dense float16, 32, 64 or bfloat16")
        dtype = _DTYPES[value.dtype]
        shape, strides = tuple(value.shape), tuple(value.stride())
        if not value.numel():
            return Tensor(self._whole, 0, dtype, shape, strides)
        at = getattr(value.untyped_storage(), "_checkpoint_offset", None)
        record = None if at is None else self._records.get(at)
        if at is None or record is None or record[1].size < value.untyped_storage().nbytes():
            raise BadFile("a tensor's bytes are not where it says")
        source = self._source(*record)
        return Tensor(source, int(value.storage_offset()) * value.element_size(), dtype, shape, strides)

    def _check(self, members: dict[str, Member]) -> None:
        roots = {name.partition("/")[0] for name in members}
        if len(roots) != 1:
            raise BadFile(_OLD)
        root = roots.pop()
        pickled = members.get(f"{root}/data.pkl")
        if pickled is None or f"{root}/constants.pkl" in members:
            raise BadFile("no file of torch.save: TorchScript, or something else in a zip")
        if any(member.method != STORED for member in members.values()):
            raise BadFile("its members are compressed, which torch.save does not do")
        if pickled.size > PICKLE_BYTES_MAX:
            raise BadFile(
                f"what is not tensors takes {pickled.size:,} bytes, and would have to be in memory at once: at most "
                f"{PICKLE_BYTES_MAX:,} may; keep metadata beside it (.metadata.jsonl), or save in chunks"
            )
        order = members.get(f"{root}/byteorder")
        if order is not None and (order.size != len(_LITTLE) or self._text(f"{root}/byteorder", order) != _LITTLE):
            raise BadFile("written on a big-endian machine, which is not read")
        # Read once here, so that its checksum is looked at before torch believes it.
        self._text(f"{root}/data.pkl", pickled)

    def _text(self, name: str, member: Member) -> bytes:
        return b"".join(chunks(self._source(name, member)))

    def _source(self, name: str, member: Member) -> Source:
        if self._checksums:
            return open_member(self._file, self._whole, name, member)
        return Part(self._file, data_offset(self._whole, name, member), member.packed)


class _Storage:
    def __init__(self, tensor: Stored) -> None:
        self.tensor = tensor


class _Pickler(TensorPickler):
    """In the words in which torch.save speaks of tensors."""

    def persistent_id(self, value: object) -> tuple[object, ...] | None:
        if not isinstance(value, _Storage):
            return None
        kind = _STORAGES[value.tensor.dtype]
        return "storage", kind, value.tensor.key, "cpu", value.tensor.count

    def reducer_override(self, value: object) -> Any:
        if not isinstance(value, Stored):
            return NotImplemented
        strides = tuple(math.prod(value.shape[i + 1 :]) for i in range(len(value.shape)))
        # Storage, offset in it, size, strides, whether it wants a gradient, hooks.
        return _rebuild_tensor_v2, (_Storage(value), 0, value.shape, strides, False, OrderedDict())
