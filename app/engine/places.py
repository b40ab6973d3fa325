"""Where rows of an answer lie in a view, kept by part, so that ids, keys and vectors cost one look-up a part."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.engine.gathering import gathered
from app.engine.types import Vectors
from app.engine.view import View

Place = tuple[int | None, int]
"""(number of the part in the view, or None: the pending rows; row there)."""


class Group(NamedTuple):
    """Rows of one part. rows: (m,) int64; at: which rows of the answer they are, None where they are all of it."""

    part: int | None
    rows: NDArray[np.int64]
    at: NDArray[np.int64] | None


class Places(NamedTuple):
    """n rows of an answer, in its order."""

    view: View
    n: int
    groups: tuple[Group, ...]

    @staticmethod
    def of(view: View, places: Sequence[Place]) -> "Places":
        parts = list(dict.fromkeys(part for part, _ in places))
        groups = []
        for part in parts:
            at = [i for i, place in enumerate(places) if place[0] == part]
            rows = np.array([places[i][1] for i in at], np.int64)
            groups.append(Group(part, rows, None if len(parts) == 1 else np.array(at, np.int64)))
        return Places(view, len(places), tuple(groups))

    def take(self, keep: NDArray[np.int64]) -> "Places":
        """Those rows of the answer, in the order given."""
        if len(self.groups) == 1:
            group = self.groups[0]
            return Places(self.view, len(keep), (Group(group.part, group.rows[keep], None),))
        groups = []
        for group in self.groups:
            rows = np.full(self.n, -1, np.int64)
            rows[group.at] = group.rows
            kept = rows[keep]
            at = np.flatnonzero(kept >= 0)
            if len(at):
                groups.append(Group(group.part, kept[at], at))
        return Places(self.view, len(keep), tuple(groups))

    def ids(self) -> list[Any]:
        found = [self._ids(group) for group in self.groups]
        return self._spread(found)

    def keys(self) -> list[int]:
        found = [self._keys(group) for group in self.groups]
        return self._spread(found)

    def vectors(self) -> Vectors:
        """n in the collection's dtype, bit for bit as stored."""
        return gathered(self.view.settings, self.n, ((self.source(g), g.rows, g.at) for g in self.groups))

    def source(self, group: Group) -> Vectors:
        if group.part is None:
            return self.view.pending.vectors.rows
        return self.view.parts[group.part].segment.vectors.rows

    def _ids(self, group: Group) -> list[Any]:
        if group.part is None:
            return [self.view.pending.ids[row] for row in group.rows.tolist()]
        return self.view.parts[group.part].segment.ids_at(group.rows)

    def _keys(self, group: Group) -> list[int]:
        if group.part is None:
            pending: list[int] = self.view.pending.keys[group.rows].tolist()
            return pending
        return self.view.parts[group.part].segment.keys_at(group.rows)

    def _spread(self, found: list[list[Any]]) -> list[Any]:
        if len(found) == 1:
            return found[0]
        out: list[Any] = [None] * self.n
        for group, values in zip(self.groups, found, strict=True):
            assert group.at is not None
            for position, value in zip(group.at.tolist(), values, strict=True):
                out[position] = value
        return out


def locate(view: View, key: int) -> Place | None:
    """Where a live key is in the view."""
    row = view.pending.find(key)
    if row >= 0:
        return (None, row) if view.pending.is_alive(row) else None
    for number, part in enumerate(view.parts):
        row = part.segment.find(key)
        if row >= 0:
            return (number, row) if part.is_alive(row) else None
    return None
