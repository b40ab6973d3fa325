"""Where the power goes, and how: the cases of the power-loss suite, chosen by a seed.

Some points are acknowledgements after which everything unsynced is lost: whatever misses a sync shows there. The
others are drawn by situation (what is done to what kind of file during which operation): there are a thousand commits
to a creation or a merge, and each situation counts the same.
"""

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tests.faults.disk import (
    PAGE_BYTES,
    SECTOR_BYTES,
    Disk,
    Event,
    Fate,
    NameChange,
    Record,
    Renamed,
    Unnamed,
    everything,
    nothing,
)

SHARES: Final = {"all lost": 5, "one lost": 6, "one kept": 3, "some lost": 8, "in order": 3, "all kept": 1}
"""How the power goes → how often."""
ALL_LOST: Final = 0.3
"""Share of the cases that are acknowledgements with everything unsynced lost."""


OFTENER: Final = {Unnamed.__name__: 3, Renamed.__name__: 2}
"""What must come before a commit, or after it, is drawn this many times as often."""
AGAIN: Final = 0.25
"""Share of the cases in which the power goes a second time, during the recovery."""


@dataclass(frozen=True, slots=True)
class Case:
    """The power goes when the first `point` events have been done. seed: of everything else about it.

    again: it comes back, and goes again during the recovery.
    """

    number: int
    point: int
    how: str
    seed: int
    again: bool = False

    def __str__(self) -> str:
        return f"case {self.number}: before event {self.point}, {self.how}" + (", and again" if self.again else "")


def cases(record: Record, ledger: bytes, count: int, seed: int) -> list[Case]:
    """In the order of their points, so that a disk goes through them once."""
    rng = random.Random(seed)
    drawn = [(point, "all lost") for point in _spread(acknowledgements(record), int(count * ALL_LOST), rng)]
    names, weights = list(SHARES), list(SHARES.values())
    by_situation = [
        points for (_, done, _), points in situations(record, ledger).items() for _ in range(OFTENER.get(done, 1))
    ]
    while len(drawn) < count:
        if len(drawn) % len(by_situation) == 0:
            rng.shuffle(by_situation)
        point = rng.choice(by_situation[len(drawn) % len(by_situation)]) + rng.randrange(2)
        drawn.append((point, rng.choices(names, weights)[0]))
    drawn.sort()
    return [
        Case(number, point, how, rng.getrandbits(48), rng.random() < AGAIN) for number, (point, how) in enumerate(drawn)
    ]


def first_start(record: Record, hows: Sequence[str], seed: int) -> list[Case]:
    """Every point before anything was acknowledged: the folder must be fit to start in, again and again."""
    points = range(acknowledgements(record)[0] + 1)
    drawn = [(point, how) for point in points for how in hows]
    return [Case(number, point, how, seed + number) for number, (point, how) in enumerate(drawn)]


def situations(record: Record, ledger: bytes) -> dict[tuple[str, str, str], list[int]]:
    """(operation under way, what is done, to which kind of file) → the events."""
    found: dict[tuple[str, str, str], list[int]] = {}
    under_way = _operations(record, ledger)
    names: dict[int, str] = {}
    for i, event in enumerate(record.events):
        if isinstance(event, NameChange):
            names[event.inode] = event.new if isinstance(event, Renamed) else event.name
        kind = _kind(names.get(_touched(event), "the data folder"))
        found.setdefault((under_way[i], type(event).__name__, kind), []).append(i)
    return found


def _operations(record: Record, ledger: bytes) -> list[str]:
    """For each event the kind of the operation that was announced last."""
    found: list[str] = []
    lines: Iterator[bytes] = iter(ledger.splitlines(keepends=True))
    read, kind = 0, "start"
    for size in record.ledger_bytes:
        while read < size:
            line = next(lines)
            read += len(line)
            kind = json.loads(line).get("kind", kind)
        found.append(kind)
    return found


def _touched(event: Event) -> int:
    return event.inode


def _kind(name: str) -> str:
    """The name without what is drawn or counted in it."""
    return re.sub(r"[0-9a-f]{32}|[0-9]+", "#", name)


def acknowledgements(record: Record) -> list[int]:
    """Points at which an operation was answered since the last event."""
    sizes = record.ledger_bytes
    return [i for i in range(1, len(sizes)) if sizes[i] > sizes[i - 1]] + [len(sizes)]


def _spread(points: Sequence[int], n: int, rng: random.Random) -> list[int]:
    """n of them: all, as often as they fit, and a sample of the rest that leaves no long stretch out."""
    begin = rng.random()
    step = len(points) / max(n, 1)
    return [points[int((begin + i) * step) % len(points)] for i in range(n)]


def fate(case: Case, disk: Disk, rng: random.Random) -> Fate:
    """disk: at the case's point."""
    unit = rng.choice((SECTOR_BYTES, PAGE_BYTES))
    grows, stale = rng.random() < 0.6, rng.random() < 0.25
    if case.how == "all kept":
        return Fate(nothing)
    if case.how == "all lost":
        return Fate(everything, unit, grows=grows, stale=stale)
    things = disk.unsynced()
    one = rng.choice(things) if things else -1
    if case.how == "one lost":
        return Fate(lambda inode: float(inode == one), unit, grows=grows, stale=stale)
    if case.how == "one kept":
        return Fate(lambda inode: float(inode != one), unit, grows=grows, stale=stale)
    share = {inode: rng.choice((0.0, 0.1, 0.5, 0.9, 1.0)) for inode in things}
    torn = rng.choice((0.0, 0.3, 1.0))
    return Fate(lambda inode: share.get(inode, 0.0), unit, torn, grows, stale, case.how == "in order")
