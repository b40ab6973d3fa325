"""A matrix that lies in a file as it would in memory, read by rows."""

import math
import re
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from storage.files.contract import DIMENSION_MAX, BadFile, StoredAs
from storage.files.source import Source

BFLOAT16: Final = "bfloat16"
DIMENSIONS_MAX: Final = 64
"""Of an array, as in NumPy. The product of millions of extents would take minutes."""
FLOATS: Final = ("float16", "float32", "float64")
_NUMPY_FLOAT: Final = re.compile(r"[<>=]?f([248])")
BFLOAT16_NOTE: Final = "bfloat16 is widened to float32, which holds each of its numbers exactly"


class Rows(Protocol):
    """What a matrix is to whoever reads it by rows; see Matrix."""

    rows: int
    width: int
    bfloat16: bool
    dtype: np.dtype[Any]

    def take(self, start: int, stop: int) -> NDArray[Any]: ...


class Matrix:
    """(n, width) numbers that begin at `offset` of the source, in C order; or `fortran`: column after column.

    dtype: as stored, byte order included, or BFLOAT16 (little-endian). item_shape: where a row was an array of more
    dimensions than one; only the order of its numbers in a Fortran matrix depends on it.
    Raises BadFile where the source is shorter, before anything is allocated.
    """

    def __init__(
        self,
        source: Source,
        offset: int,
        rows: int,
        item_shape: tuple[int, ...],
        dtype: np.dtype[Any] | str,
        fortran: bool = False,
    ) -> None:
        self.rows = rows
        self.width = math.prod(item_shape)
        self.bfloat16 = dtype == BFLOAT16
        self.dtype = np.dtype("<u2") if self.bfloat16 else np.dtype(dtype)
        self._source = source
        self._offset = offset
        self._item_shape = item_shape
        self.fortran = fortran
        need = rows * self.width * self.dtype.itemsize
        if offset + need > source.size:
            raise BadFile(f"{rows} x {self.width} numbers take {need:,} bytes, and {source.size - offset:,} are there")

    def take(self, start: int, stop: int) -> NDArray[Any]:
        """Rows start … stop as (stop - start, width), native and in C order; bfloat16 as float32."""
        out = self._columns(start, stop) if self.fortran and self.width > 1 else self._rows(start, stop)
        if self.bfloat16:
            wide = out.astype(np.uint32)
            wide <<= 16
            return wide.view(np.float32)
        return out if out.dtype.isnative else out.astype(out.dtype.newbyteorder("="))

    def _rows(self, start: int, stop: int) -> NDArray[Any]:
        out = np.empty((stop - start, self.width), self.dtype)
        self._fill(out, start * self.width)
        return out

    def _columns(self, start: int, stop: int) -> NDArray[Any]:
        out = np.empty((self.width, stop - start), self.dtype)
        for column in range(self.width):
            self._fill(out[column], column * self.rows + start)
        # The first index of an item runs fastest, as everything does in Fortran order.
        items = out.reshape(*reversed(self._item_shape), stop - start)
        return np.ascontiguousarray(items.transpose()).reshape(stop - start, self.width)

    def _fill(self, out: NDArray[Any], number: int) -> None:
        # As bytes: a memoryview knows no numbers in the other byte order, and none of no bytes.
        if out.nbytes:
            raw = out.reshape(-1).view(np.uint8).data
            self._source.read_into(raw, self._offset + number * self.dtype.itemsize)


def item_shape(shape: tuple[int, ...], flatten: bool) -> tuple[int, tuple[int, ...]]:
    """How many rows an array of that shape has, and the shape of one: one dimension is one row, and with `flatten`
    items may have several. Raises BadFile: another number of dimensions, no numbers, or too many in a row."""
    if len(shape) == 1:
        shape = (1, *shape)
    if len(shape) < 2 or (len(shape) > 2 and not flatten):
        hint = "" if len(shape) < 2 else " (flatten takes all numbers of an item as one vector)"
        raise BadFile(f"an array of {len(shape)} dimensions: vectors are (n, d) or one (d,){hint}")
    rows, *item = shape
    width = math.prod(item)
    if not 1 <= width <= DIMENSION_MAX:
        raise BadFile(f"a row has {_short(width)} numbers: 1 to {DIMENSION_MAX} can be a vector")
    if rows >= 2**63:
        raise BadFile("more rows than can be counted")
    return rows, tuple(item)


def float_dtype(name: str) -> np.dtype[Any]:
    """Of NumPy's own spelling (`<f4`). Raises BadFile for all but floats of 16, 32 and 64 bits."""
    if _NUMPY_FLOAT.fullmatch(name):
        return np.dtype(name)
    shown = name if len(name) < 40 else "something else"
    raise BadFile(f"vectors must be float16, float32 or float64, not {shown} (array.astype('float32'))")


def stored_as(matrix: Rows) -> StoredAs:
    """What the outline says of a matrix of floats."""
    return BFLOAT16 if matrix.bfloat16 else matrix.dtype.name  # type: ignore[return-value]


def _short(number: int) -> str:
    return f"{number:,}" if number < 2**63 else "more than 2^63"
