"""Which row of which part stands at which place of a snapshot: live rows in the order of their keys, as runs.

A run is a stretch of rows that lie one behind the other in one part. A collection that nothing was deleted from is one
run a segment, however many rows it has; every dead row in the middle adds one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of a part's rows: `base + relative[row]`. relative: (n,) int64 ascending; None: 0 … n − 1."""

    base: int
    rows: int
    relative: Places | None = None

    def at(self, rows: Places) -> Places:
        return self.base + (rows if self.relative is None else self.relative[rows])

    def rows_of(self, keys: Places) -> Places:
        """Of those keys (ascending) that are here, the row numbers."""
        wanted = keys - self.base
        if self.relative is None:
            return wanted[(wanted >= 0) & (wanted < self.rows)]
        at = np.minimum(np.searchsorted(self.relative, wanted), self.rows - 1)
        found: Places = at[self.relative[at] == wanted]
        return found


class Order:
    """starts: (r + 1,) places where runs begin, and the length; parts: (r,) int32; rows: (r,) first row of each run."""

    def __init__(self, starts: Places, parts: NDArray[np.int32], rows: Places) -> None:
        self.starts = starts
        self.parts = parts
        self.rows = rows
        self._length = int(starts[-1])
        self._shift = rows - starts[:-1]
        self._one_part = int(parts[0]) if len(parts) and (parts == parts[0]).all() else None
        self._one_shift = int(self._shift[0]) if len(parts) == 1 else None

    def __len__(self) -> int:
        return self._length

    def locate(self, places: Places) -> tuple[NDArray[np.int32] | int, Places]:
        """(part or parts, rows) of these places, which must be within 0 … len − 1."""
        if self._one_part is not None and self._one_shift is not None:
            return self._one_part, places + self._one_shift if self._one_shift else places
        run = self.starts.searchsorted(places, "right") - 1
        return self.parts[run] if self._one_part is None else self._one_part, places + self._shift[run]

    def stretches(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """(part, first row, end) of the places from start to stop, in order."""
        first, last = np.searchsorted(self.starts, [start, stop - 1], "right") - 1
        found = []
        for run in range(int(first), int(last) + 1):
            begin, end = max(start, int(self.starts[run])), min(stop, int(self.starts[run + 1]))
            shift = int(self._shift[run])
            found.append((int(self.parts[run]), begin + shift, end + shift))
        return found

    def chosen(self, places: Places) -> "Order":
        """The order of these places alone."""
        part, rows = self.locate(places)
        return _runs(np.broadcast_to(np.asarray(part, np.int32), rows.shape), rows)


def in_key_order(parts: Sequence[Keys], dead: Places) -> Order:
    """All rows of the parts whose keys are not among the dead (ascending)."""
    found = [_live_runs(keys, dead) for keys in parts]
    part = np.concatenate([np.full(len(begin), i, np.int32) for i, (begin, _) in enumerate(found)] or [_NONE32])
    begin = np.concatenate([begin for begin, _ in found] or [_NONE])
    end = np.concatenate([end for _, end in found] or [_NONE])
    first = np.concatenate([keys.at(b) for keys, (b, _) in zip(parts, found, strict=True)] or [_NONE])
    last = np.concatenate([keys.at(e - 1) for keys, (_, e) in zip(parts, found, strict=True)] or [_NONE])
    by_key = np.argsort(first)
    if (first[by_key][1:] < last[by_key][:-1]).any():
        return _interleaved(parts, part, begin, end)
    lengths = (end - begin)[by_key]
    return Order(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), part[by_key], begin[by_key])


def _live_runs(keys: Keys, dead: Places) -> tuple[Places, Places]:
    """First row and end of each stretch of live rows."""
    gone = keys.rows_of(dead)
    begin, end = np.concatenate([[0], gone + 1]), np.concatenate([gone, [keys.rows]])
    some = begin < end
    return begin[some].astype(np.int64), end[some].astype(np.int64)


def _interleaved(parts: Sequence[Keys], part: NDArray[np.int32], begin: Places, end: Places) -> Order:
    """Where rows were sealed later than younger ones: rare, and until the next merge. Orders all rows by their keys."""
    lengths = end - begin
    of = np.repeat(part, lengths)
    rows = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths - begin, lengths)
    keys = np.concatenate([parts[p].at(np.arange(b, e)) for p, b, e in zip(part, begin, end, strict=True)])
    by_key = np.argsort(keys, kind="stable")
    return _runs(of[by_key], rows[by_key])


def _runs(part: NDArray[np.int32], rows: Places) -> Order:
    breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(part) != 0)) + 1
    starts = np.concatenate([[0], breaks]) if len(rows) else _NONE
    return Order(np.concatenate([starts, [len(rows)]]).astype(np.int64), part[starts].copy(), rows[starts].copy())


_NONE = np.empty(0, np.int64)
_NONE32 = np.empty(0, np.int32)
