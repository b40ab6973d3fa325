"""The `.npy` format, read from an untrusted client: numbers alone, never a pickle, no allocation that it asks for."""

import io
import re
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from app.api.refusals import one
from app.engine.errors import Invalid, Malformed
from seedvec import npy_header

_FLOAT = re.compile(r"[<>]f[248]")


def parse(body: bytes | bytearray) -> NDArray[Any]:
    """A (n, d) matrix, or (d,) where the array has one dimension, in float16, 32 or 64 as sent.

    In native byte order and C order; read-only where it is the body's own memory. Raises Malformed (no .npy, size
    and header disagree, pickled objects) and Invalid (numbers of another type, other than 1 or 2 dimensions, empty).
    """
    dtype, fortran, shape, start = _header(body)
    count = 1
    for extent in shape:
        count *= extent
    if len(body) - start != count * dtype.itemsize:
        raise Malformed(
            f".npy: the header says {' x '.join(map(str, shape))} numbers of {dtype.itemsize} bytes, "
            f"the body holds {len(body) - start} bytes of them"
        )
    if count == 0:
        raise one(Invalid, "shape", f"{shape} holds no vector")
    flat = np.frombuffer(body, dtype=dtype, count=count, offset=start)
    array = flat.reshape(shape, order="F" if fortran else "C")
    if dtype.isnative and not fortran and flat.flags.aligned:
        return array
    # Everything after this reads rows: one conversion here, off the event loop, where the body is not that already.
    return np.require(array, dtype=dtype.newbyteorder("="), requirements=("C", "A"))


def matrix(body: bytes | bytearray) -> NDArray[Any]:
    """The same as (n, d): an array of one dimension is one row."""
    array = parse(body)
    return array.reshape(1, -1) if array.ndim == 1 else array


def dump(array: NDArray[Any]) -> bytes:
    """The array as a `.npy` file."""
    out = io.BytesIO()
    npy_format.write_array(out, np.ascontiguousarray(array), allow_pickle=False)
    return out.getvalue()


def _header(body: bytes | bytearray) -> tuple[np.dtype[Any], bool, tuple[int, ...], int]:
    try:
        header = npy_header.parse(bytes(body[: npy_header.PREFIX_BYTES_MAX + npy_header.BYTES_MAX]))
    except npy_header.NotNpy as e:
        raise Malformed(f".npy: {e}") from None
    return _dtype(header.descr), header.fortran, _rank(header.shape), header.start


def _dtype(descr: object) -> np.dtype[Any]:
    if isinstance(descr, str) and _FLOAT.fullmatch(descr):
        return np.dtype(descr)
    if isinstance(descr, str) and "O" in descr:
        raise Malformed(".npy: it holds pickled Python objects, which are never read: save an array of floats")
    shown = descr if isinstance(descr, str) and len(descr) < 40 else "a structure"
    raise one(Invalid, "dtype", f"must be float16, float32 or float64, not {shown} (array.astype('float32'))")


def _rank(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) not in (1, 2):
        raise one(Invalid, "shape", f"must be (n, d) or (d,), the array has {len(shape)} dimensions")
    return shape
