"""Walking a graph on the rows that may be answered with, where Faiss' own search would find none of them.

Faiss walks towards the query whatever matches, and keeps what does by the way. Where a filter goes with the vectors
(a cluster's rows only, asked from outside; all but a cluster's, asked from inside) nothing that matches lies by that
way. So the walk here goes over matching rows alone: it starts from the nearest of a sample of them, and crosses a row
that does not match only to reach those behind it. In NumPy, a beam of rows at a time: a round takes about 0.1 ms.
"""

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from index.links import Links

BEAM = 48
"""Rows whose neighbours are looked at in one round."""
BRIDGES = 192
"""Neighbours that do not match, crossed in one round."""
SPARSE = 0.4
"""They are crossed where a smaller share of the neighbours matches."""
MAX_ROUNDS = 64

Nearness = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""How near rows (m,) are to the query, smaller nearer."""


class Walk:
    """Over one graph's lowest level. Thread-safe."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._local = threading.local()

    def search(
        self, near: Nearness, entries: NDArray[np.int64], mask: NDArray[np.bool_], ef: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The ef nearest matching rows that were found, nearest first, and how near. entries: where to start, matching
        rows, each once."""
        seen = self._seen(len(mask))
        touched = [entries]
        seen[entries] = True
        rows, nearness = entries, near(entries)
        expanded = np.zeros(len(rows), bool)
        for _ in range(MAX_ROUNDS):
            order = np.argsort(nearness, kind="stable")[:ef]
            rows, nearness, expanded = rows[order], nearness[order], expanded[order]
            open_ = np.flatnonzero(~expanded)[:BEAM]
            if not len(open_):
                break
            expanded[open_] = True
            new = self._unseen(rows[open_], mask, seen, touched)
            if len(new):
                rows = np.concatenate([rows, new])
                nearness = np.concatenate([nearness, near(new)])
                expanded = np.concatenate([expanded, np.zeros(len(new), bool)])
        for part in touched:
            seen[part] = False
        return rows[:ef], nearness[:ef]

    def _unseen(
        self,
        rows: NDArray[np.int64],
        mask: NDArray[np.bool_],
        seen: NDArray[np.bool_],
        touched: list[NDArray[np.int64]],
    ) -> NDArray[np.int64]:
        """Matching neighbours that were not met before; those of neighbours that do not match where few do."""
        around = self._around(rows)
        matching = mask[around]
        new = around[matching]
        if len(new) < SPARSE * len(around):
            bridges = around[~matching]
            bridges = np.unique(bridges[~seen[bridges]])[:BRIDGES]
            seen[bridges] = True
            touched.append(bridges)
            behind = self._around(bridges)
            new = np.concatenate([new, behind[mask[behind]]])
        new = np.unique(new[~seen[new]])
        seen[new] = True
        touched.append(new)
        return new

    def _around(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        around = self._links.around(rows, 0).ravel()
        return around[around >= 0].astype(np.int64)

    def _seen(self, n: int) -> NDArray[np.bool_]:
        """A byte a row, all False between searches of a thread: clearing what was touched is cheaper than making it."""
        seen = getattr(self._local, "seen", None)
        if seen is None:
            seen = self._local.seen = np.zeros(n, bool)
        return np.asarray(seen)
