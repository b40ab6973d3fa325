"""How long each call took that so many clients made at once of what is embedded in their process."""

import itertools
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Timed:
    """latencies_s: of each call that was answered; answers: number of the call → its first answer."""

    elapsed_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    answers: dict[int, Any] = field(default_factory=dict)
    failures: int = 0


class Clients:
    """So many clients, each with one call under way or waiting, and the threads that answer them in order.

    With a thread for each client, more of them than cores, who waits is left to the scheduler: the median looked like
    no waiting at all and the 99th percentile was 500 times that, at the same number of calls a second.
    """

    def __init__(self, calls: Sequence[Callable[[], Any]], clients: int, seconds: float, most: int) -> None:
        self._calls, self._seconds, self._most = calls, seconds, most
        # What `next` takes from a counter is given to nobody else: it does not leave the interpreter's lock. Nor do
        # the ends of a deque; it is never empty, since there are no more threads than clients.
        self._turns = itertools.count()
        self._clients = clients
        self._waiting: deque[float] = deque()
        """When each has asked, earliest first."""
        self._begun = 0.0

    def run(self, threads: int, first: Callable[[], None]) -> Timed:
        """The calls in turn, and on from the first, until the time is over or `most` were made; then what is under way
        is awaited. Each thread calls `first` before the clock starts."""
        each = [Timed() for _ in range(min(threads, self._clients))]
        start = threading.Barrier(len(each), self._start)
        running = [threading.Thread(target=self._answer, args=(one, start, first)) for one in each]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        whole = Timed(time.perf_counter() - self._begun)
        for one in each:
            whole.latencies_s += one.latencies_s
            whole.failures += one.failures
            whole.answers |= one.answers
        return whole

    def _start(self) -> None:
        self._begun = time.perf_counter()
        self._waiting.extend([self._begun] * self._clients)

    def _answer(self, timed: Timed, start: threading.Barrier, first: Callable[[], None]) -> None:
        first()
        start.wait()
        end = self._begun + self._seconds
        while (turn := next(self._turns)) < self._most and time.perf_counter() < end:
            number = turn % len(self._calls)
            asked = self._waiting.popleft()
            try:
                answer = self._calls[number]()
            except Exception:
                if not timed.failures:
                    traceback.print_exc(file=sys.stderr)
                timed.failures += 1
                self._waiting.append(time.perf_counter())
                continue
            now = time.perf_counter()
            self._waiting.append(now)
            timed.latencies_s.append(now - asked)
            if turn == number:
                timed.answers[number] = answer
