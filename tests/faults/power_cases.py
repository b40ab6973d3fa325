"""Where the power goes, and how: the cases of the power-loss suite, chosen by a seed.

Half of the points are acknowledgements, and the first of them lose everything that was not synced: whatever misses a
sync shows there. The others lie beside syncs, renames and removals (commits, seals, merges, checkpoints), or anywhere.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.faults.disk import PAGE_BYTES, SECTOR_BYTES, Disk, Fate, Record, Wrote, everything, nothing

SHARES: Final = {"all lost": 5, "one lost": 6, "one kept": 3, "some lost": 8, "in order": 3, "all kept": 1}
"""How the power goes → how often."""
HOT: Final = 0.7
"""Share of the points between acknowledgements that lie beside something other than a write."""
ALL_LOST: Final = 0.3
"""Share of the cases that are acknowledgements with everything unsynced lost."""


@dataclass(frozen=True, slots=True)
class Case:
    """The power goes when the first `point` events have been done. seed: of everything else about it."""

    number: int
    point: int
    how: str
    seed: int

    def __str__(self) -> str:
        return f"case {self.number}: before event {self.point}, {self.how}"


def cases(record: Record, count: int, seed: int) -> list[Case]:
    """In the order of their points, so that a disk goes through them once."""
    rng = random.Random(seed)
    acknowledged = acknowledgements(record)
    hot = [i + rng.randrange(2) for i, event in enumerate(record.events) if not isinstance(event, Wrote)]
    names, weights = list(SHARES), list(SHARES.values())
    drawn = [(point, "all lost") for point in _spread(acknowledged, int(count * ALL_LOST), rng)]
    while len(drawn) < count:
        if rng.random() < 0.4:
            point = rng.choice(acknowledged)
        elif rng.random() < HOT:
            point = rng.choice(hot)
        else:
            point = rng.randrange(len(record.events) + 1)
        drawn.append((point, rng.choices(names, weights)[0]))
    drawn.sort()
    return [Case(number, point, how, rng.getrandbits(48)) for number, (point, how) in enumerate(drawn)]


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
