"""One field of the metadata of all rows as an array: what a model is trained to say."""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seedvec.errors import FolderError
from seedvec.snapshot import BATCH_ROWS, Snapshot

Targets = NDArray[Any] | list[str]


class TargetError(FolderError):
    """A row has no such field, or the rows have fields of several kinds."""


def read_targets(snapshot: Snapshot, field: str) -> Targets:
    """field: a dotted path. (n,) int64 or bool where all are, float64 where all are numbers, else n str.

    Raises TargetError."""
    path = field.split(".")
    found: list[Any] = []
    for start in range(0, len(snapshot), BATCH_ROWS):
        for raw in snapshot.metadata(slice(start, start + BATCH_ROWS)):
            value = _reached(None if raw is None else json.loads(raw), path)
            if value is None or isinstance(value, dict | list):
                raise TargetError(_lacking(snapshot, len(found), field, value))
            found.append(value)
    kinds = {type(value) for value in found}
    if kinds <= {str}:
        return found if found else np.empty(0, np.int64)
    if kinds == {bool}:
        return np.array(found, np.bool_)
    if kinds <= {int, float}:
        try:
            return np.array(found, np.float64 if float in kinds else np.int64)
        except OverflowError as e:
            raise TargetError(f"{field}: a number is beyond 64 bits") from e
    raise TargetError(f"{field} is of several kinds: {', '.join(sorted(kind.__name__ for kind in kinds))}")


def _reached(value: Any, path: list[str]) -> Any:
    for key in path:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def _lacking(snapshot: Snapshot, row: int, field: str, value: Any) -> str:
    what = "no" if value is None else "an array or object as"
    (id_,) = snapshot.ids([row])
    return f'item {id_} has {what} {field}; filter={{"{field}": {{"$exists": True}}}} leaves out what has none'
