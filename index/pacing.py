"""Long work in pieces, so that progress is told, and a build can be cancelled, about once a second."""

import time
from collections.abc import Callable, Iterator

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
