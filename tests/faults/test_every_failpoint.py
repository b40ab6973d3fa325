"""Suite 1: killed at every failpoint of the script, and again at every failpoint of the recovery from it.

Nothing acknowledged is lost, what was announced is there wholly or not at all, and the folder goes on taking writes.
"""

import importlib
import pkgutil
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

import app
import storage
from storage import failpoints
from tests.faults import kills
from tests.faults.judge import MORE, Judged
from tests.faults.kills import Case
from tests.faults.planned import OPERATIONS, TOUR
from tests.faults.table import Extent, record

KILLED, KILLED_AGAIN, REALLY = "1 killed at every failpoint", "1 and again in recovery", "1 by a real kill -9"


@dataclass(frozen=True, slots=True)
class Share:
    """How much is tried.

    operations: of the script; hits: of one failpoint, evenly from the first to the last; in_sqlite: the same of one
    inside SQLite; recovered: crashes at one failpoint whose recovery is killed in its turn (0: those of FEW); again:
    hits of one failpoint there; kills: real ones at one failpoint (0: those of FEW); more: operations afterwards.
    """

    operations: int
    hits: int
    in_sqlite: int
    recovered: int
    again: int
    kills: int
    more: int

    def wanted(self, counts: Counter[str]) -> list[tuple[str, int]]:
        return [
            (name, hit)
            for name, count in sorted(counts.items())
            for hit in sorted(kills.evenly(count, self.in_sqlite if name.startswith("sqlite.") else self.hits))
        ]


SHARES: dict[Extent, Share] = {
    "quick": Share(len(TOUR) + 10, 3, 3, 0, 1, 0, 2),
    "whole": Share(OPERATIONS, 150, 60, 1, 30, 4, MORE),
}
ROUND = 400
"""Images taken in one run of the script: 1.5 MB each, in memory."""
ELSEWHERE = ("repair.", "snapshot.", "restore.", "alias.", "import.", "registry.upgrade")
"""test_repair_killed.py, test_snapshots_killed.py, tests/engine/test_importing.py, tests/golden"""
FEW = ("segment.published", "database.committed", "registry.drop.unregistered")
"""Crashes that leave something of every kind to recovery: a file, a log, a folder."""


def every_name() -> list[str]:
    """Of all failpoints of the product."""
    for package in (storage, app):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    return failpoints.names()


@pytest.fixture
def killers() -> Iterator[ProcessPoolExecutor]:
    """Of their own: they fork, and must never have had a thread."""
    with ProcessPoolExecutor(kills.AT_ONCE, mp_context=kills.forking(), initializer=kills.watch_sqlite) as executor:
        yield executor


def judge_all(judges: ProcessPoolExecutor, suite: str, cases: list[Case], more: int, begun: float) -> None:
    """Writes the table's line; fails with what is wrong."""
    found = list(judges.map(kills.judge_case, [case.folder for case in cases], [more] * len(cases), chunksize=4))
    faults = [f"{case}: {what}" for case, what in zip(cases, found, strict=True) if isinstance(what, str)]
    judged = sum(what.acknowledged for what in found if isinstance(what, Judged))
    record(suite, len(cases), len(faults), judged=judged, seconds=time.monotonic() - begun)
    assert not faults, f"{len(faults)} of {len(cases)} crashes: " + "\n".join(faults[:10])


@pytest.mark.timeout(3600)
def test_killed_at_every_failpoint(
    base: Path, players: ProcessPoolExecutor, judges: ProcessPoolExecutor, extent: Extent
) -> None:
    share = SHARES[extent]
    names = judges.submit(every_name)
    counts, _ = players.submit(kills.photographed, base / "counted", share.operations, {}).result()
    each = {name: set(range(1, share.again + 1)) for name in names.result()}
    wanted, recovered, reached = share.wanted(counts), Counter[str](), set(counts)
    for begin in range(0, len(wanted), ROUND):
        begun, folder = time.monotonic(), base / str(begin)
        part: kills.Wanted = {}
        for name, hit in wanted[begin : begin + ROUND]:
            part.setdefault(name, set()).add(hit)
        _, cases = players.submit(kills.photographed, folder, share.operations, part).result()
        some = []
        for case in cases:
            recovered[case.point] += 1
            if recovered[case.point] <= (share.recovered or case.point in FEW):
                some.append(case)
        again: list[Case] = []
        for hits, images in players.map(kills.photographed_recovery, some, [each] * len(some)):
            reached |= hits.keys()
            again += images
        judge_all(judges, KILLED, cases, share.more, begun)
        judge_all(judges, KILLED_AGAIN, again, 0, time.monotonic())
    elsewhere = {name for name in names.result() if name.startswith(ELSEWHERE)}
    missed = set(names.result()) - reached - AFTER_FAILURE.keys() - elsewhere
    assert not missed, f"the script does not come to {sorted(missed)}"


def commits_before(players: ProcessPoolExecutor, base: Path, kind: str) -> int:
    """How many transactions the script makes before its first operation of that kind."""
    begun = next(n for n, planned in enumerate(TOUR) if planned.kind == kind)
    counts, _ = players.submit(kills.photographed, base / f"before-{kind}", begun, {}).result()
    return counts["database.commit"]


AFTER_FAILURE = {"database.settle": ("eio", "add"), "ballast.give_up": ("enospc", "delete")}
"""Places that nobody comes to before a commit has failed: how, and of what operation."""


@pytest.mark.parametrize("point", AFTER_FAILURE)
def test_killed_where_a_failing_disk_leads(
    base: Path, players: ProcessPoolExecutor, killers: ProcessPoolExecutor, judges: ProcessPoolExecutor, point: str
) -> None:
    error, kind = AFTER_FAILURE[point]
    begun, folder = time.monotonic(), base / point
    armed = f"database.commit:{error}:{commits_before(players, base, kind) + 1},{point}:kill"
    assert killers.submit(kills.kill_there, folder, len(TOUR), armed).result(), f"{armed}: nobody came there"
    judge_all(judges, REALLY, [Case(point, 1, False, folder)], MORE, begun)


@pytest.mark.timeout(3600)
def test_really_killed(
    base: Path, players: ProcessPoolExecutor, killers: ProcessPoolExecutor, judges: ProcessPoolExecutor, extent: Extent
) -> None:
    """What a real kill leaves is judged as the images are."""
    share, begun = SHARES[extent], time.monotonic()
    counts, _ = players.submit(kills.photographed, base / "counted", share.operations, {}).result()
    cases = [
        Case(point, hit, half, base / f"{point}-{hit}{'-half' if half else ''}")
        for point, count in counts.items()
        if share.kills or point in (*FEW, "segment.write")
        for hit in kills.evenly(count, share.kills or 1)
        for half in ((False, True) if point in kills.HALF else (False,))
    ]

    armed = [f"{case.point}:{'halfwrite' if case.half else 'kill'}:{case.hit}" for case in cases]
    folders = [case.folder for case in cases]
    died = list(killers.map(kills.kill_there, folders, [share.operations] * len(cases), armed))
    # The last of many hits may not come: how much SQLite writes depends on the clock, too. Then it ended in order.
    reached = {case.point for case, dead in zip(cases, died, strict=True) if dead}
    assert reached == {case.point for case in cases}, "nobody came to some of the places"
    judge_all(judges, REALLY, cases, MORE, begun)
