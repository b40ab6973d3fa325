"""Long work in pieces, so that progress is told, and a build can be cancelled, about once a second; and how much of
the whole each part is, so that what is told is the share of the time, and an ETA can be reckoned from it."""

import math
import time
from collections.abc import Callable, Iterator, Mapping

PIECE_S = 0.5

Progress = Callable[[float], None]
"""Called with the done share, 0 … 1; raises `contract.Cancelled` to stop the build."""


def pieces(total: int, first: int, largest: int) -> Iterator[slice]:
    """Slices that cover 0 … total, sized so that working on one takes about PIECE_S."""
    start, size = 0, first
    while start < total:
        stop = min(total, start + size)
        began = time.monotonic()
        yield slice(start, stop)
        took = time.monotonic() - began
        size = max(first // 4, 1, min(largest, int((stop - start) * PIECE_S / max(took, 1e-3)), 2 * size))
        start = stop


def within(progress: Progress, low: float, high: float) -> Progress:
    """Progress of a part of the work, as progress of the whole."""
    return lambda done: progress(low + (high - low) * done)


class Phases:
    """Work of several parts that follow each other, of which each is told to take so much of the time.

    costs: name → seconds, or any other unit that is the same for all, in the order of the work."""

    def __init__(self, progress: Progress, costs: Mapping[str, float]) -> None:
        self._progress = progress
        whole = sum(costs.values()) or 1.0
        self._spans: dict[str, tuple[float, float]] = {}
        before = 0.0
        for name, cost in costs.items():
            self._spans[name] = (before / whole, (before + cost) / whole)
            before += cost

    def part(self, name: str) -> Progress:
        """Progress of that part. Raises KeyError."""
        return within(self._progress, *self._spans[name])


def slowing(progress: Progress, before: int, total: int) -> Progress:
    """Progress where adding the i-th row costs log i, as to a graph: from the share of rows to that of the time.

    before: rows that are there already; total: rows that are added."""
    start, whole = _logs(before), _logs(before + total) - _logs(before)
    return lambda done: progress((_logs(before + done * total) - start) / whole if whole > 0 else done)


def _logs(rows: float) -> float:
    """The sum of log i up to so many rows."""
    return rows * math.log(rows) - rows if rows > 1 else -1.0
