"""Counters, gauges and histograms over the slots of this process's row; what they are called stands in `ours.py`.

Every process lays the slots out alike: in the order in which series are declared, at import, and the routes' in the
order in which the application has them. Only workers have those, and they come last.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Generic, Literal, TypeVar

from app.metrics.shared import FIRST, MINE, SLOTS

Type = Literal["counter", "gauge", "histogram", "summary"]
Labels = tuple[str, ...]


class Series:
    """What is counted under one name with certain values of its labels, from `slot` on. Safe in every thread."""

    __slots__ = ("slot", "width")

    def __init__(self, slot: int, width: int = 1) -> None:
        self.slot = slot
        self.width = width


class Counter(Series):
    __slots__ = ()

    def add(self, amount: float = 1.0) -> None:
        mine = MINE
        with mine.lock:
            mine.slots[self.slot] += amount


class Gauge(Counter):
    __slots__ = ()

    def set(self, value: float) -> None:
        """Without the lock: by one thread, of a gauge that nobody adds to."""
        MINE.slots[self.slot] = value

    @contextmanager
    def held(self) -> Iterator[None]:
        """One more for as long as the block lasts."""
        self.add(1)
        try:
            yield
        finally:
            self.add(-1)


class Summary(Series):
    """For means: slots are the sum and the count."""

    __slots__ = ()

    def __init__(self, slot: int) -> None:
        super().__init__(slot, 2)

    def observe(self, value: float) -> None:
        mine, slot = MINE, self.slot
        with mine.lock:
            mine.slots[slot] += value
            mine.slots[slot + 1] += 1.0


class Histogram(Series):
    """Slots are the sum, and how many fell into each bucket alone. bounds: the upper ends, but of the last bucket."""

    __slots__ = ("bounds",)

    def __init__(self, slot: int, bounds: Sequence[float]) -> None:
        super().__init__(slot, len(bounds) + 2)
        self.bounds = bounds

    def observe(self, value: float) -> None:
        mine, slot = MINE, self.slot
        bucket = self.bucket(value)
        with mine.lock:
            mine.slots[slot] += value
            mine.slots[bucket] += 1.0

    def bucket(self, value: float) -> int:
        """The slot of the bucket that it falls into: for who counts several things under the lock at once."""
        return self.slot + 1 + bisect_left(self.bounds, value)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Observes the seconds that the block takes, also where it fails."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.observe(time.perf_counter() - begun)


S = TypeVar("S", bound=Series)


class Family(Generic[S]):
    """All series of one name.

    labels: their names; each_process: shown by process, not summed over them; make: a series from its slot, None where
    the numbers are not counted but looked up when they are asked for.
    """

    def __init__(
        self,
        type: Type,
        name: str,
        help: str,
        labels: Labels,
        make: Callable[[int], S] | None,
    ) -> None:
        self.type: Type = type
        self.name = name
        self.help = help
        self.labels = labels
        self.series: dict[Labels, S] = {}
        self._make = make
        FAMILIES.append(self)

    def of(self, *values: str) -> S:
        """The series with these values of the labels; where it is new, it takes the next slots: so to be called while
        the process begins, as every other does, and `at` from then on."""
        found = self.series.get(values)
        if found is None:
            assert self._make is not None and len(values) == len(self.labels), self.name
            found = self.series[values] = self._make(_Layout.next)
            _Layout.next += found.width
            assert _Layout.next <= SLOTS, "more is counted than a row has slots"
        return found

    def at(self, *values: str) -> S:
        """One that has been declared."""
        return self.series[values]


class _Layout:
    next = FIRST


FAMILIES: "Final[list[Family[Any]]]" = []
"""In the order in which they are declared."""


def counter(name: str, help: str, *labels: str) -> Family[Counter]:
    return Family("counter", name, help, labels, Counter)


def gauge(name: str, help: str, *labels: str) -> Family[Gauge]:
    return Family("gauge", name, help, labels, Gauge)


def summary(name: str, help: str, *labels: str) -> Family[Summary]:
    return Family("summary", name, help, labels, Summary)


def histogram(name: str, help: str, bounds: Sequence[float], *labels: str) -> Family[Histogram]:
    return Family("histogram", name, help, labels, lambda slot: Histogram(slot, bounds))


def looked_up(type: Literal["counter", "gauge"], name: str, help: str, *labels: str) -> Family[Series]:
    """Of what is known when it is asked for: nobody counts it."""
    return Family(type, name, help, labels, None)


def gauge_slots() -> list[int]:
    """What a process that begins has none of, whatever the one before it left in the row."""
    return [series.slot for family in FAMILIES if family.type == "gauge" for series in family.series.values()]
