"""What waits for the one thread of a worker that runs searches too dear for its event loop."""

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import TypeVar

from app.engine.errors import DeadlineExceeded, Overloaded
from app.metrics.ours import SEARCH_QUEUE

T = TypeVar("T")

LEARNING = 0.2
"""How much the last search counts in what the next ones are expected to take."""


class SearchQueue:
    """Lives on the event loop. longest_s: a search whose predecessors will take longer is refused, unless there is but
    one. What a search takes is what its plan says, times what searches of late took for each second of their plans:
    plans are made of single queries on an idle machine."""

    def __init__(self, longest_s: float = math.inf) -> None:
        self._longest_s = longest_s
        self._planned_s = 0.0
        self._waiting = 0
        self._pace = 1.0

    async def run(self, pool: Executor, act: Callable[[], T], cost_us: float = 0.0, deadline: float = math.inf) -> T:
        """deadline: by `time.monotonic`; what waited until then is not begun. Raises Overloaded, DeadlineExceeded."""
        ahead_s = self._planned_s * self._pace
        if self._waiting > 1 and ahead_s > self._longest_s:
            raise _overloaded(ahead_s)
        self._planned_s += cost_us / 1e6
        self._waiting += 1
        SEARCH_QUEUE.add(1)
        future = asyncio.get_running_loop().run_in_executor(pool, self._begin, act, cost_us, deadline)
        future.add_done_callback(partial(self._done, cost_us / 1e6))
        # Not wait_for: that would forget what goes on in the thread.
        await asyncio.wait((future,), timeout=None if deadline == math.inf else deadline - time.monotonic())
        if not future.done():
            raise too_late()
        return future.result()

    def _begin(self, act: Callable[[], T], cost_us: float, deadline: float) -> T:
        """In the thread."""
        begun = time.monotonic()
        if begun > deadline:
            raise too_late()
        result = act()
        if cost_us:
            took = (time.monotonic() - begun) * 1e6 / cost_us
            self._pace += LEARNING * (took - self._pace)
        return result

    def _done(self, planned_s: float, future: "asyncio.Future[T]") -> None:
        self._planned_s = max(0.0, self._planned_s - planned_s)
        self._waiting -= 1
        SEARCH_QUEUE.add(-1)
        if not future.cancelled():
            future.exception()  # looked at, also where nobody waits for it any more


def _overloaded(ahead_s: float) -> Overloaded:
    refused = Overloaded(f"the searches that wait in this worker will take about {ahead_s:.1f} s: it was not begun")
    refused.retry_after_s = math.ceil(ahead_s)
    return refused


def too_late() -> DeadlineExceeded:
    return DeadlineExceeded("the search was not answered within its timeout_ms, or within that of the server")
