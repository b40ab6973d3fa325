"""How far the builder is with a job, written down for all to see, and whether the job is still wanted."""

import time
from collections.abc import Callable

from app.engine import policy
from app.engine.background import Stop
from index.contract import Cancelled
from storage.catalogue import State
from storage.publish import Publisher

REPORT_S = 1.0


class Reporter:
    """Of one job, which may have several parts. The last counts: how long it takes is known from itself alone."""

    def __init__(self, publisher: Publisher, state: State, stop: Stop, makes_an_index: bool) -> None:
        """state: as it was when the job was chosen."""
        self._publisher = publisher
        self._spec_seq = state.spec_seq
        self._stop = stop
        self._makes_an_index = makes_an_index
        self._begun = self._last = time.monotonic()
        self._told = 0.0

    def first(self, share: float) -> Callable[[float], None]:
        """Progress of a part that another follows, of which nobody knows yet how long it takes. share: of the whole,
        about."""
        return lambda done: self._tell(lambda now: (share * done, None))

    def last(self, after_s: float = 0.0) -> Callable[[float], None]:
        """Progress of the last part, which begins now. after_s: seconds of what follows it and tells nothing.

        What it is told is the share of the time, so what is left can be reckoned, and from that the whole."""
        begun = time.monotonic()

        def reckoned(now: float, done: float) -> tuple[float, float | None]:
            if done <= 0:
                return 0.0, None
            eta = (now - begun) * (1 - done) / done + after_s
            return (now - self._begun) / max(now - self._begun + eta, 1e-9), eta

        return lambda done: self._tell(lambda now: reckoned(now, done))

    def _tell(self, reckon: Callable[[float], tuple[float, float | None]]) -> None:
        """Once a second. Raises Cancelled where the job is no longer wanted."""
        if self._stop:
            raise Cancelled("the server stops")
        now = time.monotonic()
        if now - self._last < REPORT_S:
            return
        self._last = now
        progress, eta = reckon(now)
        self._told = max(self._told, progress)
        present = self._publisher.progress(self._told, eta)
        if self._makes_an_index and present.spec_seq != self._spec_seq:
            raise Cancelled("another index is wanted")
        if self._makes_an_index and policy.is_cancelled(present):
            raise Cancelled("cancelled")
