"""The rows that are acknowledged and not sealed yet, as one worker keeps them in memory.

A buffer that only grows: views hold slices of it, so a new view costs no copy and an old one never changes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.engine.fields import Documents, Kept
from app.engine.growing import Growing, GrowingDense, GrowingSparse
from index.contract import Alive, Metric
from index.stored import ExactSearch, Stored, exact_search
from seedvec.filters.ast import Filter
from storage.catalogue import PendingRows


@dataclass(frozen=True, slots=True)
class Pending:
    """keys: (n,) int64 ascending; ids: at least n; exact: the search over the n vectors. alive: None while all are.

    documents: of all n rows, counted from `first`; None where they are not known here.
    """

    keys: NDArray[np.int64]
    ids: list[Any]
    exact: ExactSearch
    alive: Alive | None
    documents: Documents | None
    first: int
    kept: Kept[Alive]

    @property
    def vectors(self) -> Stored:
        return self.exact.vectors

    @property
    def live(self) -> int:
        return len(self.keys) if self.alive is None else self.alive.count

    def find(self, key: int) -> int:
        """Row of a key, or -1."""
        if not len(self.keys):
            return -1
        row = int(self.keys.searchsorted(key))
        return row if row < len(self.keys) and int(self.keys[row]) == key else -1

    def is_alive(self, row: int) -> bool:
        return self.alive is None or bool(self.alive.mask[row])

    def matching(self, filter: Filter) -> Alive:
        """The live rows that match. `documents` must be known."""
        assert self.documents is not None
        found = self.kept.get(filter)
        if found is None:
            mask = np.zeros(len(self.keys), bool)
            self.documents.lay(mask, filter, self.first)
            found = self.kept.put(filter, Alive.of(mask if self.alive is None else mask & self.alive.mask))
        return found


class PendingBuffer:
    def __init__(self, dimension: int, dtype: np.dtype[Any], metric: Metric, sparse: bool = False) -> None:
        self._grown = Growing(np.int64)
        self._keys: NDArray[np.int64] = self._grown.present()
        self._ids: list[Any] = []
        self._vectors = (GrowingSparse if sparse else GrowingDense)(dimension, dtype, metric)
        self._dead: set[int] = set()
        """Rows. A set: while rows pend, few of them die."""
        self._first = 0
        """Rows dropped so far: documents are counted from the first row that ever pended here."""
        self._documents: Documents | None = None
        """None until somebody filters."""
        self._described = 0
        """Rows with a document, counted as `_first`."""

    def append(self, new: PendingRows) -> None:
        if not len(new.keys):
            return
        self._grown.extend(new.keys)
        self._keys = self._grown.present()
        self._vectors.extend(new.vectors)
        self._ids.extend(new.ids)

    def bury(self, keys: NDArray[np.int64]) -> None:
        mine = self._keys
        rows = np.searchsorted(mine, keys)
        for row, key in zip(rows.tolist(), keys.tolist(), strict=True):
            if row < len(self._keys) and int(mine[row]) == key:
                self._dead.add(row)

    def drop_below(self, key: int) -> None:
        """Forgets the rows that have been sealed. Old views keep the old arrays."""
        cut = int(np.searchsorted(self._keys, key))
        if not cut:
            return
        self._grown.drop(cut)
        self._keys = self._grown.present()
        self._vectors.drop(cut)
        self._ids = self._ids[cut:]
        self._dead = {row - cut for row in self._dead if row >= cut}
        self._first += cut
        if self._documents is not None:
            self._documents = self._documents.from_(self._first)

    def undescribed(self, all_again: bool, new: NDArray[np.int64]) -> NDArray[np.int64]:
        """Keys of the rows whose documents are to be given next: what is not known yet, and those about to be added.

        all_again: nothing is known any more."""
        known = 0 if all_again or self._documents is None else self._described - self._first
        return np.concatenate((self._keys[max(0, known) : len(self._keys)], new))

    def describe(self, documents: Sequence[bytes | None]) -> None:
        """documents: of what was `undescribed`, in that order."""
        ends = self._first + len(self._keys)
        self._documents = (self._documents or Documents()).and_(range(ends - len(documents), ends), documents)
        self._described = ends

    def patch(self, documents: Mapping[int, bytes | None] | None) -> None:
        """documents: by key; those of rows that pend here take the place of the old ones. None: all are unknown."""
        if self._documents is None or documents is None:
            self._documents = None
            return
        rows = {key: self._find(key) for key in documents}
        mine = {key: row for key, row in rows.items() if row >= 0}
        self._documents = self._documents.and_(
            (self._first + row for row in mine.values()), (documents[key] for key in mine)
        )

    def _find(self, key: int) -> int:
        row = int(np.searchsorted(self._keys, key))
        return row if row < len(self._keys) and int(self._keys[row]) == key else -1

    def view(self) -> Pending:
        n = len(self._keys)
        exact = exact_search(self._vectors.stored(self._ids))
        alive = None
        if self._dead:
            mask = np.ones(n, bool)
            mask[list(self._dead)] = False
            alive = Alive.of(mask)
        return Pending(self._keys, self._ids, exact, alive, self._documents, self._first, Kept[Alive](n))
