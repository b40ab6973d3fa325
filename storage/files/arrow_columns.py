"""Columns of Arrow's as vectors, ids and metadata, whatever file they came from."""

import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.types as kinds
from numpy.typing import NDArray

from storage.files import csr, fields
from storage.files.contract import BadFile, Ids, Sparse
from storage.files.given import texts, whole_numbers

INDICES: Final = "indices"
VALUES: Final = "values"
DIMENSION: Final = b"dimension"
"""In the metadata of a field of sparse vectors: how many columns there are."""
_FLOATS: Final = (kinds.is_float16, kinds.is_float32, kinds.is_float64)
_LISTS: Final = (kinds.is_list, kinds.is_large_list, kinds.is_fixed_size_list)


def is_dense(kind: pa.DataType) -> bool:
    """Whether a column of that type can be vectors: lists of floats."""
    kind = stored_type(kind)
    return _any(_LISTS, kind) and _any(_FLOATS, kind.value_type)


def is_sparse(kind: pa.DataType) -> bool:
    """Likewise, where only some numbers are there: an object of the lists `indices` and `values`, or a list of
    indices alone."""
    if kinds.is_struct(kind):
        if {field.name for field in kind} != {INDICES, VALUES}:
            return False
        found = kind.field(VALUES).type
        lists = _any(_LISTS, found) and (_any(_FLOATS, found.value_type) or kinds.is_integer(found.value_type))
        return lists and is_sparse(kind.field(INDICES).type)
    return _any((kinds.is_list, kinds.is_large_list), kind) and bool(kinds.is_integer(kind.value_type))


def is_ids(kind: pa.DataType) -> bool:
    kind = kind.value_type if kinds.is_dictionary(kind) else kind
    return bool(kinds.is_integer(kind)) or is_text(kind)


def is_text(kind: pa.DataType) -> bool:
    return _any((kinds.is_string, kinds.is_large_string, kinds.is_string_view), kind)


def stored_type(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def item_shape(kind: pa.DataType) -> tuple[int, ...] | None:
    """Of one vector, where the type says so; None for lists that may be of any length."""
    if isinstance(kind, pa.FixedShapeTensorType):
        return tuple(kind.shape)
    return (kind.list_size,) if kinds.is_fixed_size_list(stored_type(kind)) else None


def dense(column: pa.Array, d: int, first: int) -> NDArray[Any]:
    """(n, d), without a copy where Arrow can. first: the number of the first row. Raises BadFile with the row."""
    column = _storage(column)
    _no_nulls(column, "a vector", first)
    counts = _counts(column)
    if (counts != d).any():
        at = int(np.argmax(counts != d))
        raise BadFile(f"a vector of {int(counts[at])} numbers, the first has {d}", first + at)
    values = column.flatten()
    if values.null_count:
        at = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
        raise BadFile("a number in a vector is missing (null)", first + at // d)
    found: NDArray[Any] = values.to_numpy().reshape(len(column), d)
    return found


def sparse(column: pa.Array, d: int, first: int) -> Sparse:
    """Raises BadFile with the row."""
    _no_nulls(column, "a vector", first)
    indices, values = column, None
    if kinds.is_struct(column.type):
        indices, values = column.field(INDICES), column.field(VALUES)
        # A struct that begins inside its children gives them whole.
        indices, values = (
            part.slice(column.offset, len(column)) if len(part) != len(column) else part for part in (indices, values)
        )
        _no_nulls(values, "the values of a vector", first)
    _no_nulls(indices, "the indices of a vector", first)
    counts = _counts(indices)
    if values is not None and (differ := _counts(values) != counts).any():
        raise BadFile("a vector has not as many values as indices", first + int(np.argmax(differ)))
    flat = [part.flatten() for part in (indices, values) if part is not None]
    if any(part.null_count for part in flat):
        raise BadFile("a number in a vector is missing (null)", first)
    numbers = [part.to_numpy() for part in flat]
    return csr.of_counts(counts, numbers[0], numbers[1] if values is not None else None, d, first)


def ids(column: pa.Array, name: str, first: int) -> Ids:
    """Raises BadFile with the row."""
    if kinds.is_dictionary(column.type):
        column = column.dictionary_decode()
    _no_nulls(column, f"{name}: an id", first)
    if is_text(column.type):
        return texts(column.to_pylist(), name, first)
    return whole_numbers(column.to_numpy(), name, first)


def metadata(batch: pa.RecordBatch, whole: str | None, names: Sequence[str], first: int) -> list[bytes | None]:
    """One object a row of the columns `names`; `whole`: a column of JSON objects, or of structs, which is the object
    that the others join. A null is a field that the row does not have. Raises BadFile with the row."""
    columns = {name: _values(batch.column(name), name) for name in names}
    if whole is None:
        return fields.objects(columns, first, absent=True)
    items = _values(batch.column(whole), whole)
    if not columns and not kinds.is_struct(batch.column(whole).type):
        return fields.until_long(
            None if text is None else fields.item(text.encode(), whole, row) for row, text in enumerate(items, first)
        )
    return fields.until_long(
        _joined(_object(item, whole, first + at), {name: values[at] for name, values in columns.items()}, first + at)
        for at, item in enumerate(items)
    )


def _joined(item: dict[str, Any] | None, others: dict[str, Any], row: int) -> bytes | None:
    found = {name: value for name, value in ((item or {}) | others).items() if value is not None}
    return fields.encoded(found, row) if found or item is not None else None


def _object(item: Any, name: str, row: int) -> dict[str, Any] | None:
    if isinstance(item, str):
        try:
            item = msgspec.json.decode(item)
        except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
            raise BadFile(f"{name}: not JSON", row) from None
    if item is not None and not isinstance(item, dict):
        raise BadFile(f"{name}: neither a JSON object nor null", row)
    return item


def _values(column: pa.Array, name: str) -> list[Any]:
    """Python's own, one a row."""
    if column.type != pa.uuid():  # Which Python has a type for.
        wanted = _plain(column.type, name)
        column = column if column.type == wanted else column.cast(wanted, safe=False)
    found: list[Any] = column.to_pylist(maps_as_pydicts="strict")
    return found


def _plain(kind: pa.DataType, name: str) -> pa.DataType:
    """The nearest type whose values Python can hold: times to the microsecond, no codes, no extensions."""
    kind = stored_type(kind)
    if kinds.is_dictionary(kind):
        return _plain(kind.value_type, name)
    if kinds.is_float16(kind):
        return pa.float32()
    if kinds.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    if kinds.is_time64(kind):
        return pa.time64("us")
    if kinds.is_duration(kind):
        return pa.duration("us")
    if kinds.is_struct(kind):
        return pa.struct([field.with_type(_plain(field.type, name)) for field in kind])
    if kinds.is_fixed_size_list(kind):
        return pa.list_(_plain(kind.value_type, name), kind.list_size)
    if kinds.is_list(kind) or kinds.is_large_list(kind):
        make = pa.list_ if kinds.is_list(kind) else pa.large_list
        return make(kind.value_field.with_type(_plain(kind.value_type, name)))
    if kinds.is_map(kind):
        return pa.map_(_plain(kind.key_type, name), _plain(kind.item_type, name))
    if kinds.is_nested(kind) or kinds.is_interval(kind) or kinds.is_run_end_encoded(kind):
        raise BadFile(f"the column {name!r} is of type {kind}, which JSON cannot say; leave it out (metadata=)")
    return kind


def _storage(column: pa.Array) -> pa.Array:
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def _counts(column: pa.Array) -> NDArray[np.int64]:
    """How long each list is."""
    if kinds.is_fixed_size_list(column.type):
        return np.full(len(column), column.type.list_size, np.int64)
    offsets: NDArray[Any] = column.offsets.to_numpy()
    return np.diff(offsets).astype(np.int64)


def _no_nulls(column: pa.Array, what: str, first: int) -> None:
    if column.null_count:
        at = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise BadFile(f"{what} is missing (null)", first + at)


def _any(tests: Sequence[Any], kind: pa.DataType) -> bool:
    return any(test(kind) for test in tests)


def dense_dtype(kind: pa.DataType) -> str:
    """As NumPy calls it."""
    return str(np.dtype(stored_type(kind).value_type.to_pandas_dtype()).name)


def width(shape: tuple[int, ...]) -> int:
    return math.prod(shape)
