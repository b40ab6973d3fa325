"""The rows that are acknowledged and not sealed yet, as one worker keeps them in memory.

A buffer that only grows: views hold slices of it, so a new view costs no copy and an old one never changes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.contract import Alive, Metric, Vectors
from index.distance import norms
from index.exact import Exact
from storage.catalogue import PendingRows

FIRST_CAPACITY = 256


@dataclass(frozen=True, slots=True)
class Pending:
    """keys: (n,) int64 ascending; ids: at least n; exact: the search over the n vectors. alive: None while all are."""

    keys: NDArray[np.int64]
    ids: list[Any]
    exact: Exact
    alive: Alive | None

    @property
    def vectors(self) -> Vectors:
        return self.exact.vectors

    @property
    def live(self) -> int:
        return len(self.keys) if self.alive is None else self.alive.count

    def find(self, key: int) -> int:
        """Row of a key, or -1."""
        row = int(np.searchsorted(self.keys, key))
        return row if row < len(self.keys) and int(self.keys[row]) == key else -1

    def is_alive(self, row: int) -> bool:
        return self.alive is None or bool(self.alive.mask[row])


class PendingBuffer:
    def __init__(self, dimension: int, dtype: np.dtype[Any], metric: Metric) -> None:
        self._metric = metric
        self._n = 0
        self._keys = np.empty(FIRST_CAPACITY, np.int64)
        self._ids: list[Any] = []
        self._vectors = np.empty((FIRST_CAPACITY, dimension), dtype)
        self._norms = np.empty(FIRST_CAPACITY, np.float32)
        self._dead: set[int] = set()
        """Rows. A set: while rows pend, few of them die."""

    def append(self, new: PendingRows) -> None:
        n = len(new.keys)
        if not n:
            return
        self._grow(self._n + n)
        part = slice(self._n, self._n + n)
        self._keys[part] = new.keys
        self._vectors[part] = new.vectors
        self._norms[part] = norms(new.vectors)
        self._ids.extend(new.ids)
        self._n += n

    def _grow(self, wanted: int) -> None:
        capacity = len(self._keys)
        if wanted <= capacity:
            return
        capacity = max(wanted, 2 * capacity)
        for name in ("_keys", "_vectors", "_norms"):
            old = getattr(self, name)
            new = np.empty((capacity, *old.shape[1:]), old.dtype)
            new[: self._n] = old[: self._n]
            setattr(self, name, new)

    def bury(self, keys: NDArray[np.int64]) -> None:
        mine = self._keys[: self._n]
        rows = np.searchsorted(mine, keys)
        for row, key in zip(rows.tolist(), keys.tolist(), strict=True):
            if row < self._n and int(mine[row]) == key:
                self._dead.add(row)

    def drop_below(self, key: int) -> None:
        """Forgets the rows that have been sealed. Old views keep the old arrays."""
        cut = int(np.searchsorted(self._keys[: self._n], key))
        if not cut:
            return
        rest = slice(cut, self._n)
        self._keys = self._keys[rest].copy()
        self._vectors = self._vectors[rest].copy()
        self._norms = self._norms[rest].copy()
        self._ids = self._ids[cut : self._n]
        self._dead = {row - cut for row in self._dead if row >= cut}
        self._n -= cut

    def view(self) -> Pending:
        n = self._n
        vectors = Vectors(self._vectors[:n], self._norms[:n], self._metric)
        alive = None
        if self._dead:
            mask = np.ones(n, bool)
            mask[list(self._dead)] = False
            alive = Alive.of(mask)
        return Pending(self._keys[:n], self._ids, Exact(vectors), alive)
