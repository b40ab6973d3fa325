"""What is known of a tensor in a file without its numbers."""

import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np

from storage.files.contract import BadFile
from storage.files.numbers import BFLOAT16, Matrix, item_shape
from storage.files.source import Source

VALUES_MAX: Final = 10_000
"""Numbers of a tensor that is one value of metadata."""


class Tensor(NamedTuple):
    """strides: in numbers, as torch has them."""

    source: Source
    """Its storage."""
    offset: int
    """Where it begins in that, in bytes."""
    dtype: np.dtype[Any] | str
    """Or BFLOAT16."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def is_float(self) -> bool:
        return self.dtype == BFLOAT16 or np.dtype(self.dtype).kind == "f"

    def is_plain(self) -> bool:
        """Whether its numbers lie one behind the other, in C order."""
        step = 1
        for extent, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if extent > 1 and stride != step:
                return False
            step *= extent
        return True

    def matrix(self, flatten: bool) -> Matrix:
        """As vectors. Raises BadFile: no (n, d), a view that leaves numbers out, or not all there."""
        rows, item = item_shape(self.shape, flatten)
        fortran = not self.is_plain() and len(self.shape) == 2 and self.strides == (1, self.shape[0])
        if not fortran:
            self._must_be_plain()
        return Matrix(self.source, self.offset, rows, item, self.dtype, fortran)

    def by_row(self) -> Matrix:
        """What is behind its first dimension, of any type of numbers."""
        self._must_be_plain()
        if math.prod(self.shape[1:]) > VALUES_MAX:
            raise BadFile(f"a tensor of {self.shape} is too large to be metadata")
        return Matrix(self.source, self.offset, self.shape[0], self.shape[1:], self.dtype)

    def value(self) -> Any:
        """Its numbers as Python's own, a list in a list for each dimension. Raises BadFile where they are too many."""
        found = Tensor(self.source, self.offset, self.dtype, (1, *self.shape), (0, *self.strides)).by_row()
        return found.take(0, 1).reshape(self.shape).tolist()

    def _must_be_plain(self) -> None:
        if not self.is_plain():
            raise BadFile("a tensor that is a view of another: save tensor.contiguous(), or tensor.clone()")


AsTensor = Callable[[object], Tensor | None]
"""What is known of a tensor of torch's; None for whatever is none."""
