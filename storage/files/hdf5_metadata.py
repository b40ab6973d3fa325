"""Metadata in an HDF5 file: a dataset of JSON objects, or datasets that are each a field."""

import math
from collections.abc import Callable
from typing import Any, Final

import h5py

from storage.files import fields
from storage.files.contract import METADATA_BYTES_MAX, BadFile
from storage.files.hdf5_open import Hdf5, told
from storage.files.hdf5_rows import open_rows
from storage.files.hdf5_texts import Texts
from storage.files.lines import TAKEN_BYTES_MAX
from storage.files.naming import METADATA

FIELDS_MAX: Final = 1_000
FIELD_BYTES_MAX: Final = 64 << 10
"""Of one row in one field."""


class Fields:
    """n items of metadata."""

    def __init__(self, count: int, take: Callable[[int, int], list[bytes | None]]) -> None:
        self.count = count
        self._take = take

    def take(self, start: int, stop: int) -> list[bytes | None]:
        """Of rows start … stop, or where they are long of the first of them. Raises BadFile with the row."""
        return self._take(start, stop)

    def finish(self, rows: int) -> None:
        """There are as many as rows: that was compared."""


def metadata_of(file: Hdf5, named: str) -> Fields:
    """named: paths joined by commas. A dataset of text that is called `metadata` holds JSON objects; a group's datasets
    are fields, and so is every other dataset, by the last part of its path. Raises BadFile."""
    paths = [path.strip() for path in named.split(",") if path.strip()]
    if len(paths) == 1 and paths[0].rpartition("/")[2] == METADATA and isinstance(file.find(paths[0]), h5py.Dataset):
        return _json(file, paths[0])
    columns: dict[str, _Column] = {}
    for path in paths:
        if isinstance(file.find(path), h5py.Group):
            inside = file.group(path)
            members = [f"{path}/{name}" for name, found in inside.items() if isinstance(found, h5py.Dataset)]
        else:
            members = [path]
        columns.update((member.rpartition("/")[2], _Column(file, member)) for member in members)
    if not columns or len(columns) > FIELDS_MAX:
        raise BadFile(f"{named}: {len(columns)} fields of metadata, should be 1 to {FIELDS_MAX}")
    counts = {column.count for column in columns.values()}
    if len(counts) > 1:
        raise BadFile(f"{named}: the fields are not as long as each other")

    def take(start: int, stop: int) -> list[bytes | None]:
        return fields.objects({name: column.take(start, stop) for name, column in columns.items()}, start)

    return Fields(counts.pop(), take)


def _json(file: Hdf5, path: str) -> Fields:
    texts = Texts(file, file.dataset(path), METADATA_BYTES_MAX)

    def take(start: int, stop: int) -> list[bytes | None]:
        return [fields.item(text, path, row) for row, text in enumerate(texts.take(start, stop), start)]

    return Fields(texts.count, take)


class _Column:
    """One field: text, or numbers and truth values, of which a row may have an array."""

    def __init__(self, file: Hdf5, path: str) -> None:
        dataset = file.dataset(path)
        with told(path):
            text = dataset.id.get_type().get_class() == h5py.h5t.STRING
            if not dataset.shape:
                raise BadFile(f"{path} is a single value, not one for each row")
            if not text and dataset.dtype.kind not in "iufb":
                raise BadFile(f"{path}: a field holds numbers, truth values or text, not {dataset.dtype}")
        self.count = int(dataset.shape[0])
        if text:
            self.take: Callable[[int, int], list[Any]] = Texts(file, dataset, FIELD_BYTES_MAX).take_str
        else:
            numbers = open_rows(file, dataset)
            row_bytes = math.prod(numbers.shape[1:]) * numbers.dtype.itemsize
            if not 0 < row_bytes <= FIELD_BYTES_MAX:
                raise BadFile(f"{path}: {row_bytes:,} bytes a row, at most {FIELD_BYTES_MAX:,} may be")
            most = TAKEN_BYTES_MAX // row_bytes
            self.take = lambda start, stop: numbers.rows(start, min(stop, start + most)).tolist()
