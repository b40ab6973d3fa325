"""What waits for the one thread of a worker that runs searches too dear for its event loop.

Searches that are alike wait together: once the thread is free, all that wait by then are one batch. Reading every row
costs most of an exact search, and a batch reads it once.
"""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from app.engine.errors import DeadlineExceeded, Overloaded
from app.metrics.ours import SEARCH_QUEUE

Q = TypeVar("Q")
T = TypeVar("T")

LEARNING = 0.2
"""How much the last search counts in what the next ones are expected to take."""
MOST_TOGETHER = 64
"""Searches of one batch: each waits for the answers of all."""


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Q]):
    """One search. deadline: by `time.monotonic`; -inf: nobody waits for it any more."""

    asked: Q
    planned_s: float
    deadline: float


@dataclass(slots=True, eq=False)
class _Batch(Generic[Q, T]):
    """What the thread runs at once. act: answers those asked, in their order; future: answers by place in `searches`,
    of those that were begun in time."""

    act: Callable[[Sequence[Q]], Sequence[T]]
    searches: list[_Waiting[Q]] = field(default_factory=list)
    future: "asyncio.Future[dict[int, T]] | None" = None


class SearchQueue:
    """Lives on the event loop. longest_s: a search whose predecessors will take longer is refused, unless there is but
    one. What a search takes is what its plan says, times what searches of late took for each second of their plans:
    plans are made of single queries on an idle machine."""

    def __init__(self, longest_s: float = math.inf) -> None:
        self._longest_s = longest_s
        self._planned_s = 0.0
        self._waiting = 0
        self._pace = 1.0
        self._open: dict[Hashable, _Batch[Any, Any]] = {}
        """Batches not begun, by what their searches have in common. Under the lock, as are their searches."""
        self._lock = threading.Lock()

    async def run(self, pool: Executor, act: Callable[[], T], cost_us: float = 0.0, deadline: float = math.inf) -> T:
        """deadline: by `time.monotonic`; what waited until then is not begun. Raises Overloaded, DeadlineExceeded."""
        return await self.run_with_others(pool, None, None, lambda _: [act()], cost_us, deadline)

    async def run_with_others(
        self,
        pool: Executor,
        alike: Hashable,
        asked: Q,
        act: Callable[[Sequence[Q]], Sequence[T]],
        cost_us: float,
        deadline: float,
    ) -> T:
        """As `run`, with all that wait under the same key (None: alone). act: of any of them, which must do for all."""
        ahead_s = self._planned_s * self._pace
        if self._waiting > 1 and ahead_s > self._longest_s:
            raise _overloaded(ahead_s)
        mine = _Waiting(asked, cost_us / 1e6, deadline)
        batch, place = self._joined(pool, alike, mine, act)
        assert batch.future is not None
        try:
            # Not wait_for: that would forget what goes on in the thread.
            await asyncio.wait((batch.future,), timeout=None if deadline == math.inf else deadline - time.monotonic())
        except asyncio.CancelledError:
            mine.deadline = -math.inf
            raise
        if not batch.future.done() or place not in batch.future.result():
            raise too_late()
        return batch.future.result()[place]

    def _joined(
        self, pool: Executor, alike: Hashable, mine: _Waiting[Q], act: Callable[[Sequence[Q]], Sequence[T]]
    ) -> tuple[_Batch[Q, T], int]:
        """The batch that the search is in, and its place there."""
        self._planned_s += mine.planned_s
        self._waiting += 1
        SEARCH_QUEUE.add(1)
        with self._lock:
            batch: _Batch[Q, T] | None = None if alike is None else self._open.get(alike)
            if batch is not None and len(batch.searches) < MOST_TOGETHER:
                batch.searches.append(mine)
                return batch, len(batch.searches) - 1
            batch = _Batch(act, [mine])
            if alike is not None:
                self._open[alike] = batch
        batch.future = asyncio.get_running_loop().run_in_executor(pool, self._begin, alike, batch)
        batch.future.add_done_callback(lambda future: self._done(batch, future))
        return batch, 0

    def _begin(self, alike: Hashable, batch: _Batch[Q, T]) -> dict[int, T]:
        """In the thread."""
        with self._lock:
            if self._open.get(alike) is batch:
                del self._open[alike]
        begun = time.monotonic()
        due = {place: search for place, search in enumerate(batch.searches) if begun <= search.deadline}
        if not due:
            return {}
        results = batch.act([search.asked for search in due.values()])
        planned_s = sum(search.planned_s for search in due.values())
        if planned_s:
            took = (time.monotonic() - begun) / planned_s
            self._pace += LEARNING * (took - self._pace)
        return dict(zip(due, results, strict=True))

    def _done(self, batch: _Batch[Q, T], future: "asyncio.Future[dict[int, T]]") -> None:
        self._planned_s = max(0.0, self._planned_s - sum(search.planned_s for search in batch.searches))
        self._waiting -= len(batch.searches)
        SEARCH_QUEUE.add(-len(batch.searches))
        if not future.cancelled():
            future.exception()  # looked at, also where nobody waits for it any more


def _overloaded(ahead_s: float) -> Overloaded:
    refused = Overloaded(f"the searches that wait in this worker will take about {ahead_s:.1f} s: it was not begun")
    refused.retry_after_s = math.ceil(ahead_s)
    return refused


def too_late() -> DeadlineExceeded:
    return DeadlineExceeded("the search was not answered within its timeout_ms, or within that of the server")
