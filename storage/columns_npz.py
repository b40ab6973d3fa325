"""An uncompressed .npz whose members begin at multiples of 64 bytes: numpy.load reads it, and one mapping serves us.

Each member is an array of one dimension; its .npy header is always HEADER_BYTES long. Where the array begins follows
from the zip's directory, and what the header must say follows from dtype and length: so nothing of it is parsed, and
what is not just so is no file of ours.
"""

import mmap
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

ALIGNMENT: Final = 64
HEADER_BYTES: Final = 1024
"""Of each member's .npy header; the longest is that of the table, with a name for each column."""
_PADDING_ID: Final = 0xD935
"""The extra field that Android's zipalign pads with; readers pass over it."""
_ZIP64_ABOVE: Final = 1 << 30
_LOCAL_BYTES: Final = 30
_ZIP64_EXTRA_BYTES: Final = 20


class NotAligned(Exception):
    """The file is not one that `write_arrays` wrote."""


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Raises OSError; what is left of the file then is not to be used. Neither synced nor renamed: the caller's."""
    with open(path, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            info = zipfile.ZipInfo(f"{name}.npy")
            info.file_size = HEADER_BYTES + array.nbytes
            large = info.file_size > _ZIP64_ABOVE
            used = _LOCAL_BYTES + len(info.filename) + (_ZIP64_EXTRA_BYTES if large else 0) + 4
            padding = -(file.tell() + used) % ALIGNMENT
            info.extra = _PADDING_ID.to_bytes(2, "little") + padding.to_bytes(2, "little") + bytes(padding)
            with archive.open(info, "w", force_zip64=large) as member:
                member.write(_header(array.dtype, len(array)))
                member.write(array.view(np.uint8).data if array.nbytes else b"")


def map_arrays(path: Path, dtypes: Mapping[str, np.dtype[Any]]) -> dict[str, NDArray[Any]]:
    """The arrays of those names and dtypes, read-only views of one mapping that lives as long as any of them.

    Raises OSError, and NotAligned where the file does not hold exactly these.
    """
    with open(path, "rb") as file:
        try:
            members = {info.filename: info for info in zipfile.ZipFile(file).infolist()}
        except (zipfile.BadZipFile, struct.error, NotImplementedError, ValueError) as e:
            raise NotAligned(str(e)) from e
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if members.keys() != {f"{name}.npy" for name in dtypes}:
        raise NotAligned("holds other arrays")
    return {name: _view(mapped, members[f"{name}.npy"], dtype) for name, dtype in dtypes.items()}


def _view(mapped: mmap.mmap, info: zipfile.ZipInfo, dtype: np.dtype[Any]) -> NDArray[Any]:
    local = mapped[info.header_offset : info.header_offset + _LOCAL_BYTES]
    if len(local) < _LOCAL_BYTES or info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise NotAligned(f"{info.filename} is cut or compressed")
    start = info.header_offset + _LOCAL_BYTES + int.from_bytes(local[26:28], "little")
    start += int.from_bytes(local[28:30], "little")
    count, rest = divmod(info.file_size - HEADER_BYTES, dtype.itemsize)
    whole = not rest and count >= 0 and start % ALIGNMENT == 0 and start + info.file_size <= len(mapped)
    if not whole or mapped[start : start + HEADER_BYTES] != _header(dtype, count):
        raise NotAligned(f"{info.filename} is not the array that it should be")
    return np.frombuffer(mapped, dtype, count, start + HEADER_BYTES)


def _header(dtype: np.dtype[Any], count: int) -> bytes:
    """Version 1.0 of the .npy format."""
    descr = repr(dtype.descr) if dtype.names else repr(dtype.str)
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': ({count},), }}"
    length = HEADER_BYTES - 10
    return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + text.ljust(length - 1).encode() + b"\n"
