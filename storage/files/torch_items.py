"""Which tensors, lists and dicts of a `.pt` are the vectors, the ids and the metadata."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from storage.files.columns import reader_of
from storage.files.contract import BadFile, IdKind, Ids, ReadOptions
from storage.files.given import texts
from storage.files.ids import IdColumn
from storage.files.naming import IDS, METADATA, beside_them, the_vectors
from storage.files.numbers import Matrix, item_shape
from storage.files.parts import IdRows, Parts
from storage.files.torch_tensor import AsTensor, Tensor
from storage.files.torch_values import Metadata, Values, constant, nested, of_list, of_tensor, plain_value

DEPTH_MAX: Final = 16
NAMES_MAX: Final = 10_000
"""How many keys are looked at."""
ID: Final = "id"
_VECTOR: Final = ("vector", "embedding")
"""What one item's is usually called."""


def read_tensor(tensor: Tensor, options: ReadOptions) -> Parts:
    """The vectors alone."""
    for asked in (options.vectors, options.ids, options.metadata):
        if asked is not None:
            raise BadFile(f"holds one tensor, and no {asked!r}")
    return reader_of(_matrix(tensor, options.flatten))


def read_dict(held: dict[Any, Any], as_tensor: AsTensor, options: ReadOptions) -> Parts:
    """Vectors: a tensor of floats, (n, d). Metadata: of the key asked for, else of `metadata`, a list of n dicts or a
    dict of what is n long; else whatever else is n long at the top."""
    values = dict(_walk(held, 0))
    tensors = {name: tensor for name, value in values.items() if (tensor := as_tensor(value)) is not None}
    dense = [name for name, tensor in tensors.items() if tensor.is_float and len(tensor.shape) > 1]
    top = [name for name in dense if name in held] or dense
    name = the_vectors(tensors if options.vectors is not None else top, options.vectors)
    vectors = _matrix(tensors[name], options.flatten)
    ids_name = beside_them(values, options.ids, IDS)
    used = {name, ids_name}
    columns, left = _metadata(held, values, used, vectors.rows, as_tensor, options.metadata)
    notes = (f"left out, being no value for each row: {', '.join(left)[:200]}",) if left else ()
    ids = None if ids_name is None else _ids(values[ids_name], as_tensor, ids_name)
    return reader_of(vectors, ids, None if columns is None else Metadata(columns), notes)


def read_list(held: Sequence[Any], as_tensor: AsTensor, options: ReadOptions) -> Parts:
    """One dict an item: its vector a tensor of one dimension, all else its metadata. Or one tensor an item."""
    items = [item if isinstance(item, dict) else {_VECTOR[0]: item} for item in held]
    if not items:
        raise BadFile("an empty list, so that nobody knows how long a vector is")
    first = {key: tensor for key, value in items[0].items() if (tensor := as_tensor(value)) is not None}
    able = [key for key, tensor in first.items() if isinstance(key, str) and tensor.is_float and tensor.shape]
    usual = next((key for key in _VECTOR if key in able), None)
    name = the_vectors(able, options.vectors if options.vectors is not None else usual)
    vectors = Scattered([_item_tensor(item, name, as_tensor, row) for row, item in enumerate(items)], options.flatten)
    ids_name = options.ids or next((key for key in (ID, IDS) if key in items[0]), None)
    ids = None
    if ids_name is not None:
        ids = _ids([_id(item.get(ids_name), as_tensor) for item in items], as_tensor, ids_name)
    asked = None if options.metadata is None else [key.strip() for key in options.metadata.split(",")]
    rest = {key for item in items for key in item} - {name, ids_name} if asked is None else set(asked)

    def take(start: int, stop: int) -> list[Any]:
        return [_fields(item, rest, as_tensor) for item in items[start:stop]]

    return reader_of(vectors, ids, Metadata(take) if rest else None)


class Scattered:
    """n vectors that lie anywhere in the file. Raises BadFile where they do not agree."""

    def __init__(self, tensors: list[Tensor], flatten: bool) -> None:
        first = tensors[0]
        _, item = item_shape((1, *first.shape), flatten)
        for row, tensor in enumerate(tensors):
            if tensor.shape != first.shape or tensor.dtype != first.dtype or not tensor.is_plain():
                raise BadFile(
                    f"a tensor of {tensor.dtype} {tensor.shape}, the first is {first.dtype} {first.shape}", row
                )
        one = Matrix(first.source, first.offset, 1, item, first.dtype)
        self.rows = len(tensors)
        self.width = one.width
        self.bfloat16 = one.bfloat16
        self.dtype = one.dtype
        self._tensors = tensors
        self._item = item

    def take(self, start: int, stop: int) -> NDArray[Any]:
        rows = [
            Matrix(tensor.source, tensor.offset, 1, self._item, tensor.dtype).take(0, 1)
            for tensor in self._tensors[start:stop]
        ]
        return np.concatenate(rows)


class ListedIds:
    """n ids of one kind, as a list."""

    def __init__(self, found: Sequence[Any], name: str) -> None:
        self.rows = len(found)
        self.kind: IdKind = "int" if self.rows and type(found[0]) is int else "str"
        self._found: Ids
        if self.kind == "str":
            self._found = texts(found, name, 0)
            return
        for row, number in enumerate(found):
            if type(number) is not int or not 0 <= number < 2**63:
                raise BadFile(f"{name}: an id is no whole number in 0 … 2^63-1", row)
        self._found = np.array(found, np.int64)

    def take(self, start: int, stop: int) -> Ids:
        return self._found[start:stop]


def _matrix(tensor: Tensor, flatten: bool) -> Matrix:
    if not tensor.is_float:
        raise BadFile(f"a tensor of {tensor.dtype}: vectors are float16, 32, 64 or bfloat16")
    return tensor.matrix(flatten)


def _ids(found: object, as_tensor: AsTensor, name: str) -> IdRows:
    tensor = as_tensor(found)
    if tensor is not None:
        if len(tensor.shape) != 1:
            raise BadFile(f"{name}: a tensor of {len(tensor.shape)} dimensions; ids have one")
        return IdColumn(tensor.by_row(), name)
    if not isinstance(found, list | tuple):
        raise BadFile(f"{name}: ids are a tensor of whole numbers, or a list of them or of str")
    return ListedIds(found, name)


def _id(value: object, as_tensor: AsTensor) -> object:
    tensor = as_tensor(value)
    return value if tensor is None else tensor.value()


def _item_tensor(item: Mapping[Any, Any], name: str, as_tensor: AsTensor, row: int) -> Tensor:
    tensor = as_tensor(item.get(name))
    if tensor is None:
        raise BadFile(f"has no tensor {name!r}", row)
    return tensor


def _fields(item: Mapping[Any, Any], wanted: set[Any], as_tensor: AsTensor) -> Any:
    """A dict called `metadata` is the item's, and what else there is joins it."""
    found = {key: plain_value(value, as_tensor) for key, value in item.items() if key in wanted}
    inside = found.get(METADATA)
    if isinstance(inside, dict) or (inside is None and METADATA in found):
        del found[METADATA]
        return {**(inside or {}), **found} or None
    return found


def _metadata(
    held: dict[Any, Any],
    values: dict[str, Any],
    used: set[str | None],
    rows: int,
    as_tensor: AsTensor,
    asked: str | None,
) -> tuple[Values | None, list[str]]:
    """What gives each row its own, and the names of what is left out."""
    if asked is None and METADATA not in held:
        able = {name: held[name] for name in held if isinstance(name, str) and name not in used}
        columns = {name: found for name, value in able.items() if (found := _column(value, rows, as_tensor, 0))}
        left = [name for name in able if name not in columns]
        return (nested(columns) if columns else None), left
    names = [METADATA] if asked is None else [name.strip() for name in asked.split(",")]
    if len(names) == 1 and names[0] in values and (whole := _whole(values[names[0]], rows, as_tensor)):
        return whole, []
    columns = {}
    for name in names:
        if name not in values or (found := _column(values[name], rows, as_tensor, 0)) is None:
            raise BadFile(f"metadata: there is no {name!r} that has {rows} values")
        columns[name.rpartition("/")[2]] = found
    return nested(columns), []


def _whole(value: object, rows: int, as_tensor: AsTensor) -> Values | None:
    """Of a list of dicts, each an item's metadata; or of a dict, whose own values are the fields: those that are not
    as long as there are rows are the same for all."""
    if (
        isinstance(value, list | tuple)
        and len(value) == rows
        and all(item is None or isinstance(item, dict) for item in value)
    ):
        return of_list(value, as_tensor)
    if isinstance(value, dict):
        return nested({key: _column(v, rows, as_tensor, 0) or constant(v, as_tensor) for key, v in value.items()})
    return None


def _column(value: object, rows: int, as_tensor: AsTensor, depth: int) -> Values | None:
    """A value for each row; None where there is not one for each."""
    tensor = as_tensor(value)
    if tensor is not None:
        return of_tensor(tensor) if tensor.shape[:1] == (rows,) else None
    if isinstance(value, list | tuple):
        return of_list(value, as_tensor) if len(value) == rows else None
    if isinstance(value, dict) and value and depth < DEPTH_MAX:
        inside = {key: _column(v, rows, as_tensor, depth + 1) for key, v in value.items()}
        if any(column is not None for column in inside.values()):
            return nested({key: inside[key] or constant(v, as_tensor) for key, v in value.items()})
    return None


def _walk(held: dict[Any, Any], depth: int, before: str = "") -> Iterator[tuple[str, Any]]:
    """What stands in dicts, and dicts in them, by its keys joined by `/`."""
    for seen, (key, value) in enumerate(held.items()):
        if seen >= NAMES_MAX:
            raise BadFile(f"a dict of more than {NAMES_MAX:,} keys")
        if isinstance(key, str):
            yield before + key, value
            if isinstance(value, dict) and depth < DEPTH_MAX:
                yield from _walk(value, depth + 1, f"{before}{key}/")
