"""Metadata in a `.pt`: Python's own values and small tensors, by row, as what JSON can say."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from storage.files import fields
from storage.files.contract import BadFile
from storage.files.torch_tensor import AsTensor, Tensor

Values = Callable[[int, int], list[Any]]
"""(start, stop) → one value for each of these rows."""
PARTS_MAX: Final = 10_000
"""Of one value: a pickle can hold a list in a list in a list a million times over, and be small."""
DEPTH_MAX: Final = 64


class Metadata:
    """Rows of dicts, or None, as JSON."""

    def __init__(self, values: Values) -> None:
        self._values = values

    def take(self, start: int, stop: int) -> list[bytes | None]:
        """Raises BadFile with the row."""
        found = self._values(start, stop)
        return fields.until_long(
            None if item is None else fields.encoded(item, row) for row, item in enumerate(found, start)
        )

    def finish(self, rows: int) -> None:
        """There are as many values as rows, or it would not be here."""


def nested(columns: dict[Any, Values]) -> Values:
    """A dict for each row."""

    def take(start: int, stop: int) -> list[Any]:
        rows = zip(*(column(start, stop) for column in columns.values()), strict=True)
        return [dict(zip(columns, values, strict=True)) for values in rows] if columns else [{}] * (stop - start)

    return take


def constant(value: object, as_tensor: AsTensor) -> Values:
    plain = plain_value(value, as_tensor)
    return lambda start, stop: [plain] * (stop - start)


def of_list(found: Sequence[Any], as_tensor: AsTensor) -> Values:
    return lambda start, stop: [plain_value(value, as_tensor) for value in found[start:stop]]


def of_tensor(tensor: Tensor) -> Values:
    """Of one of more dimensions, a list a row."""
    rows = tensor.by_row()
    item = tensor.shape[1:]
    return lambda start, stop: rows.take(start, stop).reshape(stop - start, *item).tolist()


def plain_value(value: object, as_tensor: AsTensor) -> Any:
    """Of lists, dicts, numbers, text. Raises BadFile for what else a pickle may hold, and for too much."""
    left = [PARTS_MAX]

    def plain(value: Any, depth: int) -> Any:
        left[0] -= 1
        if left[0] < 0 or depth > DEPTH_MAX:
            raise BadFile(f"a value of metadata has more than {PARTS_MAX:,} parts, or is nested too deep")
        if value is None or isinstance(value, str | int | float | bytes | bool):
            return value
        if isinstance(value, dict):
            return {_key(key): plain(inside, depth + 1) for key, inside in value.items()}
        if isinstance(value, list | tuple | set):
            return [plain(inside, depth + 1) for inside in value]
        tensor = as_tensor(value)
        if tensor is None:
            raise BadFile(f"metadata of type {type(value).__name__} cannot be written as JSON")
        return tensor.value()

    return plain(value, 0)


def _key(key: object) -> str:
    if not isinstance(key, str | int):
        raise BadFile(f"a key of metadata is a {type(key).__name__}, not text")
    return str(key)
