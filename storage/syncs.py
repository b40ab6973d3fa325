"""How long the disk takes to confirm what was written: who wants to know is told of each time."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

Of = Literal["commit", "file", "folder", "checkpoint"]
"""A commit's and a checkpoint's include the little that SQLite writes before it syncs."""
Told = Callable[[Of, float], None]


class _Listener:
    told: Told | None = None


def tell(told: Told) -> None:
    """From now on of every sync of this process, in whatever thread: of what, and seconds. One listener at a time."""
    _Listener.told = told


@contextmanager
def timed(of: Of) -> Iterator[None]:
    """Around one sync. One that failed counts too: it is the slow ones that fail."""
    begun = time.perf_counter()
    try:
        yield
    finally:
        if _Listener.told is not None:
            _Listener.told(of, time.perf_counter() - begun)
