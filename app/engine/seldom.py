"""Saying the same thing now and then only."""

import time


class Seldom:
    """What would be logged with every request, or every second for hours, while a disk is full."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._next = 0.0

    def due(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._every_s
        return True
