"""NumPy arrays in requests, where NumPy is installed. The wheel alone does not ask for it: vectors then are lists."""

import io
import itertools
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


def plain(values: Any) -> Any:
    """Tensors and what else can be had as an array as a NumPy array; other values as they are.

    torch is never imported: a tensor says of itself that it can leave its graph and its device. bfloat16, which NumPy
    has not, becomes float32."""
    if numpy is None or is_array(values):
        return values
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        return (values.float() if "bfloat16" in str(values.dtype) else values).numpy()
    return numpy.asarray(values) if hasattr(values, "__array__") or hasattr(values, "__dlpack__") else values


def listed(values: Any) -> list[Any]:
    """Values as JSON can write them: an array's numbers with no more digits than its type has; rows of a sparse matrix
    (SciPy's CSR) as `{"indices", "values"}`."""
    values = plain(values)
    if is_array(values):
        return _short(values).tolist() if values.dtype.name in DIGITS else values.tolist()  # type: ignore[no-any-return]
    if hasattr(values, "indptr"):
        return _sparse_rows(values)
    return [listed(value) if hasattr(value, "__array__") else value for value in values]


def filled(rows: list[list[Any]], empty: Any, dtype: str | None = None) -> Any:
    """Rows of different length as a matrix, `empty` behind the shorter ones."""
    width = max(map(len, rows), default=0)
    rows = [row + [empty] * (width - len(row)) for row in rows]
    if numpy is None:
        return rows
    kind = dtype or ("int64" if empty is not None else object)
    return numpy.array(rows, kind).reshape(len(rows), width)


def stacked(rows: list[Any]) -> Any:
    """(n, d) float32."""
    return rows if numpy is None else numpy.array(rows, numpy.float32)


def is_run(ids: Any) -> bool:
    """Whether ids are whole numbers one after the other, of which the first says all."""
    if isinstance(ids, range):
        return ids.step == 1
    return is_array(ids) and ids.dtype.kind in "iu" and ids.ndim == 1 and bool((ids[1:] == ids[:-1] + 1).all())


def npy(array: Any) -> bytes:
    """The array as a `.npy` file."""
    buffer = io.BytesIO()
    numpy.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _sparse_rows(matrix: Any) -> list[Any]:
    bounds = matrix.indptr.tolist()
    indices, values = matrix.indices.tolist(), listed(matrix.data)
    return [{"indices": indices[a:b], "values": values[a:b]} for a, b in itertools.pairwise(bounds)]


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
