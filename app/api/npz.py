"""A `.npz` as `np.savez` writes it, for small arrays at a tenth of its price: Python's zipfile takes 58 µs to write the
answer of a search, and twice that between two searches.

A zip archive without compression is the members behind one another, each with a header of its own, and a directory of
them at the end (APPNOTE 6.3.9 of PKWARE, 4.3.7, 4.3.12 and 4.3.16).
"""

import io
import struct
import zlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from seedvec import npy_header

SMALL: Final = 1 << 20
"""Bytes of numbers from which on it makes no difference who writes them."""
_MEMBER: Final = struct.Struct("<4s5H3L2H")
_ENTRY: Final = struct.Struct("<4s6H3L5H2L")
_END: Final = struct.Struct("<4s4H2LH")
_VERSION, _DATE = 20, 1 << 5 | 1
"""2.0, and the first day that the format knows: 1980-01-01."""


def dump(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """By name; of dtypes without structure, in C order."""
    if sum(array.nbytes for array in arrays.values()) > SMALL:
        out = io.BytesIO()
        np.savez(out, **arrays)  # type: ignore[arg-type]  # NumPy's stub takes the names for its own parameters
        return out.getvalue()
    members, entries, at = [], [], 0
    for key, array in arrays.items():
        data = npy_header.build(array.dtype.str, array.shape) + array.tobytes()
        name = f"{key}.npy".encode("ascii")
        facts = (0, 0, 0, _DATE, zlib.crc32(data), len(data), len(data), len(name), 0)
        members += [_MEMBER.pack(b"PK\3\4", _VERSION, *facts), name, data]
        entries += [_ENTRY.pack(b"PK\1\2", _VERSION, _VERSION, *facts, 0, 0, 0, 0, at), name]
        at += _MEMBER.size + len(name) + len(data)
    directory = b"".join(entries)
    end = _END.pack(b"PK\5\6", 0, 0, len(arrays), len(arrays), len(directory), at, 0)
    return b"".join((*members, directory, end))
