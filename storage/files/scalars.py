"""Fields of one number a row as the metadata of that row: `{"price": 1.5, "sold": true}`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.files.contract import BadFile
from storage.files.fields import objects
from storage.files.numbers import Matrix


class Scalars:
    """Whole numbers, floats and booleans by name. A float that JSON cannot hold (NaN, infinity) is left out."""

    def __init__(self, fields: dict[str, Matrix]) -> None:
        """Each (n, 1). Raises BadFile for others."""
        for name, matrix in fields.items():
            if matrix.width != 1:
                raise BadFile(f"{name[:60]!r}: {matrix.width} numbers a row cannot be metadata")
        self._fields = fields

    def take(self, start: int, stop: int) -> list[bytes | None]:
        """Of rows start … stop."""
        columns = {name: _values(matrix.take(start, stop).reshape(-1)) for name, matrix in self._fields.items()}
        return objects(columns, start, absent=True)

    def finish(self, rows: int) -> None:
        """Nothing can follow: a field has as many rows as there are."""


def _values(column: NDArray[Any]) -> list[Any]:
    if column.dtype.kind != "f":
        values: list[Any] = column.tolist()
        return values
    # By way of text: the shortest that reads back, not all the digits that a float32 has in float64.
    return [
        float(text) if finite else None
        for text, finite in zip(column.astype(np.str_), np.isfinite(column), strict=True)
    ]
