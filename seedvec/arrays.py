"""NumPy arrays in requests, where NumPy is installed. The wheel alone does not ask for it: vectors then are lists."""

import io
from typing import Any

try:
    import numpy
except ImportError:
    numpy = None  # type: ignore[assignment]

DIGITS = {"float16": 5, "float32": 9}
"""Significant decimal digits from which any number of the type reads back the same."""

MAX_EXACT_POWER = 22
"""10**22 is the largest power of ten that is exact in float64."""


def is_array(values: Any) -> bool:
    """Whether these are a NumPy array."""
    return numpy is not None and isinstance(values, numpy.ndarray)


def listed(values: Any) -> list[Any]:
    """Values as JSON can write them: an array's numbers with no more digits than its type has."""
    if not is_array(values):
        return list(values)
    return _short(values).tolist() if values.dtype.name in DIGITS else values.tolist()  # type: ignore[no-any-return]


def npy(array: Any) -> bytes:
    """The array as a `.npy` file."""
    buffer = io.BytesIO()
    numpy.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _short(array: Any) -> Any:
    """float64 of which each number reads back to the array's and is written with few digits.

    A float16 converted as it is has up to 24 digits in JSON, all but 5 of them saying nothing: twice the body.
    """
    exact = array.astype(numpy.float64)
    with numpy.errstate(all="ignore"):
        power = DIGITS[array.dtype.name] - 1 - numpy.floor(numpy.log10(numpy.abs(exact)))
        # A quotient of two exact numbers is the float64 nearest to the decimal, which is written as that decimal.
        scale = 10.0 ** numpy.clip(power, 0, MAX_EXACT_POWER)
        short = numpy.round(exact * scale) / scale
        same = short.astype(array.dtype) == array
    return numpy.where(same, short, exact)
