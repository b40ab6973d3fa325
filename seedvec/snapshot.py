"""A collection as it stood when it was opened: live rows, pending ones too, in the order of their keys.

Which rows there are, their order and their vectors never change, whatever is written, merged or dropped meanwhile. A
snapshot can be pickled: the other process gets the same rows from the files that this one holds (`held.py`).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from seedvec.catalogue import Settings
from seedvec.filters.parse import parse_value
from seedvec.filters.row import compile_row, decode
from seedvec.metadata import Metadata
from seedvec.order import Order, Places
from seedvec.part import Ids, Part, Vectors
from seedvec.sparse import SparseRows, concatenate

BATCH_ROWS: Final = 4096
FORGET_BYTES: Final = 16 << 20
"""So much of what `batches` has passed may still count as this process's memory."""

Selection = slice | Sequence[int] | NDArray[Any]
"""Rows of a snapshot: a slice, numbers (from the end where negative), or a mask of booleans."""


class Row(NamedTuple):
    """vector: (d,) in the collection's dtype, or sparse (1 row); metadata: the decoded object, None: it has none."""

    vector: Vectors
    id: int | str
    metadata: dict[str, Any] | None


class Rows(NamedTuple):
    """vectors: (n, d) in the collection's dtype, or sparse; ids: (n,) int64, or n str; metadata: n."""

    vectors: Vectors
    ids: Ids
    metadata: list[dict[str, Any] | None]


class RawRows(NamedTuple):
    """As `Rows`, the metadata as it is stored: JSON objects in UTF-8."""

    vectors: Vectors
    ids: Ids
    metadata: list[bytes | None]


@dataclass(frozen=True)
class Snapshot:
    """`len`, and by number, slice (steps and negatives too), list or array: the rows. What is gathered is a copy; a
    slice that lies in one segment is a view of the file, which is read-only. For one thread at a time or for many."""

    name: str
    settings: Settings
    parts: Sequence[Part]
    order: Order
    kept_metadata: Metadata

    @property
    def dimension(self) -> int:
        return self.settings.dimension

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float16."""
        return self.settings.dtype

    @property
    def metric(self) -> str:
        return self.settings.metric

    @property
    def id_type(self) -> str:
        """ "int" or "str"; "auto" where nothing was ever written."""
        return self.settings.id_type

    @property
    def sparse(self) -> bool:
        return self.settings.sparse

    @property
    def has_metadata(self) -> bool:
        """Whether any item may have some."""
        return len(self.kept_metadata) > 0

    def __len__(self) -> int:
        return len(self.order)

    def __repr__(self) -> str:
        return f"<{self.name}: {len(self)} × {self.dimension} {self.dtype.name}, {self.metric}>"

    @overload
    def __getitem__(self, rows: int) -> Row: ...
    @overload
    def __getitem__(self, rows: Selection) -> Rows: ...
    def __getitem__(self, rows: int | Selection) -> Row | Rows:
        """Raises IndexError."""
        if isinstance(rows, int | np.integer):
            vectors, ids, metadata = self[[int(rows)]]
            vector = vectors if isinstance(vectors, SparseRows) else vectors[0]
            return Row(vector, ids[0] if isinstance(ids, list) else int(ids[0]), metadata[0])
        return Rows(self.vectors(rows), self.ids(rows), [_decoded(raw) for raw in self.metadata(rows)])

    def __iter__(self) -> Iterator[Row]:
        for vectors, ids, metadata in self.batches():
            for i, raw in enumerate(metadata):
                vector = vectors[i : i + 1] if isinstance(vectors, SparseRows) else vectors[i]
                yield Row(vector, ids[i] if isinstance(ids, list) else int(ids[i]), _decoded(raw))

    def vectors(self, rows: Selection = slice(None)) -> Vectors:
        """(n, d) in the collection's dtype; sparse where the collection is."""
        view = self.view(rows) if isinstance(rows, slice) else None
        return self.vectors_at(self.places(rows)) if view is None else view

    def view(self, rows: slice, *, writable: bool = False) -> Vectors | None:
        """The vectors of rows that lie evenly in one segment, without a copy; None: they do not.

        writable (dense alone): what is written to them is this process's own, and stays until it ends."""
        start, stop, step = rows.indices(len(self))
        count = len(range(start, stop, step))
        low, high = sorted((start, start + (count - 1) * step))
        stretches = self._stretches(low, high + 1) if count else []
        if len(stretches) != 1:
            return None
        part, begin, _ = stretches[0]
        source = self.parts[part].writable if writable else self.parts[part].vectors
        first = begin + start - low
        last = first + count * step
        return source[first : last if last >= 0 else None : step]

    def ids(self, rows: Selection = slice(None)) -> Ids:
        """(n,) int64, or a list of n str."""
        if isinstance(rows, slice) and rows.indices(len(self))[2] == 1:
            start, stop, _ = rows.indices(len(self))
            return self._joined_ids([self.parts[p].ids_between(b, e) for p, b, e in self._stretches(start, stop)])
        return self.ids_at(self.places(rows))

    def metadata(self, rows: Selection = slice(None)) -> list[bytes | None]:
        """The JSON object of each row in UTF-8, as it stood when the snapshot was made; None: the item has none."""
        return self.metadata_at(self.places(rows))

    def batches(self, rows: int = BATCH_ROWS) -> Iterator[RawRows]:
        """All rows in order, at most so many at a time, in constant memory. Vectors may be views of the file."""
        forgotten = 0
        width = max(1, self.dimension * self.dtype.itemsize)
        for start in range(0, len(self), rows):
            stop = min(start + rows, len(self))
            batch = slice(start, stop)
            yield RawRows(self.vectors(batch), self.ids(batch), self.metadata(batch))
            if (stop - forgotten) * width >= FORGET_BYTES or stop == len(self):
                self.forget(forgotten, stop)
                forgotten = stop

    def where(self, filter: Mapping[str, Any]) -> "Snapshot":
        """The rows alone that match a filter of docs/filters.md. Asks each item's metadata: some seconds for a million.

        Raises FilterError."""
        matches = compile_row(parse_value(dict(filter)))
        kept: list[Places] = []
        for start in range(0, len(self), BATCH_ROWS):
            metadata = self.metadata(slice(start, start + BATCH_ROWS))
            found = [matches(None if raw is None else decode(raw)) for raw in metadata]
            kept.append(np.flatnonzero(found) + start)
        return self.chosen(np.concatenate(kept) if kept else np.empty(0, np.int64))

    def forget(self, start: int, stop: int) -> None:
        """The vectors of these rows, having been read, no longer count as this process's memory; the page cache keeps
        them as it sees fit."""
        for part, begin, end in self._stretches(start, stop):
            self.parts[part].forget(begin, end)

    def chosen(self, places: Places) -> "Snapshot":
        """The rows at these places alone, in that order."""
        return Snapshot(self.name, self.settings, self.parts, self.order.chosen(places), self.kept_metadata)

    def places(self, rows: Selection) -> Places:
        """(n,) int64, each within 0 … len − 1. Raises IndexError."""
        if isinstance(rows, slice):
            return np.arange(*rows.indices(len(self)))
        places = np.asarray(rows)
        kind, n = places.dtype.kind, len(self)
        if kind == "b":
            if places.shape != (n,):
                raise IndexError(f"a mask of shape {places.shape} for {n} rows")
            return np.flatnonzero(places)
        if places.ndim != 1 or (kind not in "iu" and places.size):
            raise IndexError(f"rows are numbers in one dimension, not {places.dtype} {places.shape}")
        places = places.astype(np.int64, copy=False)
        # As unsigned numbers the negative ones are the largest: one look settles the usual case.
        if not places.size or int(places.view(np.uint64).max()) < n:
            return places
        low, high = int(places.min()), int(places.max())
        if low < -n or high >= n:
            raise IndexError(f"row {low if low < -n else high} of {n}")
        return np.where(places < 0, places + n, places)

    # -- of places as `places` gives them

    def vectors_at(self, places: Places) -> Vectors:
        """A copy of these rows' vectors."""
        part, rows = self.order.locate(places)
        if isinstance(part, int):
            return self._rows_of(part, rows)
        return self._gathered(part, rows)

    def ids_at(self, places: Places) -> Ids:
        part, rows = self.order.locate(places)
        if isinstance(part, int):
            return self.parts[part].ids_at(rows)
        out: Ids = [""] * len(rows) if self.id_type == "str" else np.empty(len(rows), np.int64)
        for p in _used(part):
            of = np.flatnonzero(part == p)
            found = self.parts[p].ids_at(rows[of])
            if isinstance(out, list):
                for at, text in zip(of.tolist(), found, strict=True):
                    out[at] = text
            else:
                out[of] = found
        return out

    def metadata_at(self, places: Places) -> list[bytes | None]:
        return self.kept_metadata.of(self._keys(places)) if self.has_metadata else [None] * len(places)

    # -- where they lie

    def _stretches(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        return self.order.stretches(start, stop) if start < stop else []

    def _gathered(self, part: NDArray[np.int32], rows: Places) -> Vectors:
        """Of several parts."""
        used = _used(part)
        if self.sparse:
            if not used:
                return SparseRows(np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, self.dtype), self.dimension)
            groups = [np.flatnonzero(part == p) for p in used]
            joined = _joined([self._rows_of(p, rows[g]) for p, g in zip(used, groups, strict=True)])
            return joined[np.argsort(np.concatenate(groups), kind="stable")]
        out = np.empty((len(rows), self.dimension), self.dtype)
        for p in used:
            of = part == p
            out[of] = self._rows_of(p, rows[of])
        return out

    def _rows_of(self, part: int, rows: Places) -> Vectors:
        vectors = self.parts[part].vectors
        return vectors.take(rows, 0) if isinstance(vectors, np.ndarray) else vectors[rows]

    def _joined_ids(self, ids: list[Ids]) -> Ids:
        if len(ids) == 1:
            return ids[0]
        if self.id_type == "str":
            return [text for part in ids for text in part]
        return np.concatenate(ids) if ids else np.empty(0, np.int64)

    def _keys(self, places: Places) -> Places:
        part, rows = self.order.locate(places)
        if isinstance(part, int):
            return self.parts[part].keys.at(rows)
        out = np.empty(len(rows), np.int64)
        for p in _used(part):
            of = part == p
            out[of] = self.parts[p].keys.at(rows[of])
        return out


def _used(part: NDArray[np.int32]) -> list[int]:
    """The parts that some row is of."""
    return sorted(set(part.tolist()))


def _decoded(raw: bytes | None) -> dict[str, Any] | None:
    return None if raw is None else json.loads(raw)


def _joined(vectors: Sequence[Vectors]) -> Vectors:
    """One behind the other; all dense, or all sparse."""
    sparse = [part for part in vectors if isinstance(part, SparseRows)]
    return concatenate(sparse) if sparse else np.concatenate([np.asarray(part) for part in vectors])
