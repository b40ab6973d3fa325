"""How long each call took that so many threads made at once: the clients of what is embedded in their process."""

import itertools
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Timed:
    """latencies_s: of each call that was answered; answers: number of the call → its first answer."""

    elapsed_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    answers: dict[int, Any] = field(default_factory=dict)
    failures: int = 0


def by_threads(
    calls: Sequence[Callable[[], Any]], clients: int, seconds: float, most: int, first: Callable[[], None]
) -> Timed:
    """The calls in turn, and on from the first, until the time is over or `most` were made; then what is under way is
    awaited. Each thread calls `first` before the clock starts."""
    # What `next` takes from a counter is given to nobody else: it does not leave the interpreter's lock.
    turns = itertools.count()
    each = [Timed() for _ in range(clients)]
    start = threading.Barrier(clients + 1)
    threads = [threading.Thread(target=_client, args=(calls, turns, seconds, most, first, start, t)) for t in each]
    for thread in threads:
        thread.start()
    start.wait()
    begun = time.perf_counter()
    for thread in threads:
        thread.join()
    whole = Timed(time.perf_counter() - begun)
    for one in each:
        whole.latencies_s += one.latencies_s
        whole.failures += one.failures
        whole.answers |= one.answers
    return whole


def _client(
    calls: Sequence[Callable[[], Any]],
    turns: Iterator[int],
    seconds: float,
    most: int,
    first: Callable[[], None],
    start: threading.Barrier,
    timed: Timed,
) -> None:
    first()
    start.wait()
    end = time.perf_counter() + seconds
    while (turn := next(turns)) < most and time.perf_counter() < end:
        number = turn % len(calls)
        at = time.perf_counter()
        try:
            answer = calls[number]()
        except Exception:
            if not timed.failures:
                traceback.print_exc(file=sys.stderr)
            timed.failures += 1
            continue
        timed.latencies_s.append(time.perf_counter() - at)
        if turn == number:
            timed.answers[number] = answer
