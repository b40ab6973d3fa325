"""The hits of all queries of a search, brought together from the parts of a view and put in order of (distance, id).

They stand one query after the other in one row of arrays, so that what is asked of them (ids, keys, vectors, metadata)
is asked once for all queries. Query by query, a thousand of them took half as long again as the index did.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.engine.places import Group, Places
from app.engine.view import View
from index.contract import Found


class Ranked(NamedTuple):
    """n hits of q queries, each query's nearest first. ids, places: n; distances: (n,) float32; starts: q + 1 numbers,
    query i has those from starts[i] up to starts[i + 1]."""

    ids: list[Any]
    distances: NDArray[np.float32]
    places: Places
    starts: list[int]

    def of(self, first: int, last: int) -> "Ranked":
        """Those of the queries from first up to last."""
        begin, end = self.starts[first], self.starts[last]
        starts = [start - begin for start in self.starts[first : last + 1]]
        return Ranked(self.ids[begin:end], self.distances[begin:end], self.places.take(np.arange(begin, end)), starts)

    def within(self, distance: float) -> "Ranked":
        """Those that lie no farther than that."""
        kept = np.flatnonzero(self.distances <= np.float32(distance))
        if len(kept) == len(self.ids):
            return self
        return self._taken(kept, np.searchsorted(kept, self.starts).tolist())

    def _taken(self, order: NDArray[np.int64], starts: list[int]) -> "Ranked":
        ids = [self.ids[i] for i in order.tolist()]
        return Ranked(ids, self.distances[order], self.places.take(order), starts)

    def first_by_id(self, k: int) -> "Ranked":
        """The first k of each query, what ties in order of its ids. Until then they are in order of distance alone, and
        where there are more than k of a query, all from the k-th on tie."""
        starts = np.array(self.starts)
        ties = self.distances[1:] == self.distances[:-1]
        firsts = starts[1:-1]
        ties[firsts[(firsts > 0) & (firsts < len(self.ids))] - 1] = False
        if not ties.any():
            return self
        order, kept = np.arange(len(self.ids)), np.ones(len(self.ids), bool)
        for query in np.unique(np.searchsorted(starts, np.flatnonzero(ties), side="right") - 1).tolist():
            begin, end = self.starts[query], self.starts[query + 1]
            near, ids = self.distances[begin:end].tolist(), self.ids[begin:end]
            order[begin:end] = sorted(range(begin, end), key=lambda i: (near[i - begin], ids[i - begin]))
            kept[begin + k : end] = False
        return self._taken(order[kept], _starts(np.minimum(np.diff(starts), k)))


def ranked(view: View, found: Sequence[tuple[int | None, Found]], queries: int, k: int) -> Ranked:
    """found: by part, what it answered to so many queries. → at most k hits of each."""
    if not found:
        return Ranked([], np.empty(0, np.float32), Places(view, 0, ()), [0] * (queries + 1))
    rows = np.concatenate([hits.rows for _, hits in found], axis=1)
    distances = np.concatenate([hits.distances for _, hits in found], axis=1)
    number = np.repeat(np.arange(len(found)), [hits.rows.shape[1] for _, hits in found])
    of_part = np.broadcast_to(number, rows.shape)
    if len(found) > 1:
        order = np.argsort(distances, axis=1, kind="stable")
        rows, distances, of_part = (np.take_along_axis(a, order, 1) for a in (rows, distances, of_part))
    kept = rows >= 0
    if rows.shape[1] > k:
        kept &= distances <= distances[:, k - 1 : k]
    rows, distances, of_part = rows[kept], distances[kept], of_part[kept]
    places = Places(view, len(rows), _groups([part for part, _ in found], rows, of_part))
    return Ranked(places.ids(), distances, places, _starts(kept.sum(axis=1))).first_by_id(k)


def _groups(parts: Sequence[int | None], rows: NDArray[np.int64], of_part: NDArray[np.int64]) -> tuple[Group, ...]:
    """of_part: which of the parts each of the rows is of."""
    if len(parts) == 1:
        return (Group(parts[0], rows, None),)
    places = [np.flatnonzero(of_part == number) for number in range(len(parts))]
    return tuple(Group(part, rows[at], at) for part, at in zip(parts, places, strict=True) if len(at))


def _starts(counts: NDArray[np.int64]) -> list[int]:
    return [0, *np.cumsum(counts).tolist()]
