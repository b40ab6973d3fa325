"""Is everything acknowledged there, and nothing but the announced besides? And does the folder go on taking writes?"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.engine.recovery import recover
from storage.check import check
from tests.faults import ledger as record
from tests.faults.hands import Hands, turn_over
from tests.faults.ledger import Entry, Id, Ledger, World
from tests.faults.operations import operation
from tests.faults.planned import plan
from tests.faults.reading import seen
from tests.faults.script import SEED, Script

MORE = 4
"""Operations of the script that are made after judging."""


class Lost(AssertionError):
    """The folder is not what was acknowledged. `lost`: how many rows, collections or settings are wrong."""

    def __init__(self, differences: Sequence[str]) -> None:
        super().__init__(f"{len(differences)} differences: " + "; ".join(list(differences)[:10]))
        self.lost = len(differences)


@dataclass(frozen=True, slots=True)
class Judged:
    """acknowledged: operations judged; doubts: those found wholly done, and wholly undone."""

    acknowledged: int
    done: tuple[int, ...]
    undone: tuple[int, ...]


def judge(data: Path, ledger: Path, *, seed: int = SEED, more: int = MORE) -> Judged:
    """Opens the folder as a restart would, reads everything, holds it against the record, and goes on writing.

    more: operations of the script that follow, the one in doubt repeated first where it was not done or has a key; 0:
    none, and the record is not touched. Raises Lost; AssertionError and what the engine raises where the folder is
    unfit in another way.
    """
    entries = record.read(ledger) if ledger.exists() else []
    recover(data)
    report = check(data)
    assert report.sound and not report.findings, str(report)
    return asyncio.run(_judged(data, ledger, entries, seed, more))


async def _judged(data: Path, ledger: Path, entries: list[Entry], seed: int, more: int) -> Judged:
    async with await Hands.start(data, recovered=True) as hands:
        there = await seen(hands.engine)
        world, done = matching(entries, there)
        if more:
            await _go_on(hands, ledger, entries, world, done, seed, more)
    doubts = [e.n for e in record.doubts(entries)]
    acknowledged = sum(e.end == "acknowledged" for e in entries)
    return Judged(acknowledged, tuple(sorted(done)), tuple(n for n in doubts if n not in done))


def matching(entries: list[Entry], there: World) -> tuple[World, set[int]]:
    """The world of the record that `there` is, and what of the doubts it takes as done. Raises Lost."""
    nearest: list[str] | None = None
    for world, done in record.worlds(entries):
        named = record.named(world, there)
        if named is None:
            continue
        differences = record.differences(named, there)
        if not differences:
            return named, done
        if nearest is None or len(differences) < len(nearest):
            nearest = differences
    raise Lost(nearest or ["no world of the record is possible"])


async def _go_on(
    hands: Hands, ledger: Path, entries: list[Entry], world: World, done: set[int], seed: int, more: int
) -> None:
    """Settles the doubts, repeats the last operation where it was not acknowledged, goes on with the plan."""
    script = Script(Ledger(ledger), world, plan(seed), seed)
    try:
        for entry in record.doubts(entries):
            if entry.n in done:
                script.ledger.acknowledge(entry.n, _assigned(entry, world))
            else:
                script.ledger.refuse(entry.n)
        last = entries[-1].n if entries else -1
        if last in done:
            await _repeat(hands, script, entries, last, done)
        elif entries and entries[-1].end == "doubt":
            last -= 1
        await script.run(hands, last + 1, last + 1 + more)
        differences = record.differences(script.world, await seen(hands.engine))
        if differences:
            raise Lost([f"after writing went on: {d}" for d in differences])
    finally:
        script.ledger.close()


def _assigned(entry: Entry, world: World) -> list[Id] | None:
    """The ids that the server must have given to the rows of a write that was done, but not answered."""
    if entry.effect.do != "put" or any(id_ is not None for id_, _, _ in entry.effect.what):
        return None
    by_row = {vector: id_ for id_, (vector, _) in world[entry.effect.collection].rows.items()}
    return [by_row[vector] for _, vector, _ in entry.effect.what]


async def _repeat(hands: Hands, script: Script, entries: list[Entry], n: int, done: set[int]) -> None:
    """Done but not answered: a client repeats it with its key, is answered as the first time, and nothing changes."""
    planned = script.planned[n]
    if not planned.options.get("key"):
        return
    before = next(world for world, other in record.worlds(entries) if other == done - {n})
    await operation(planned, script.seed, n, before).act(hands)
    await turn_over()
    differences = record.differences(script.world, await seen(hands.engine))
    if differences:
        raise Lost([f"after {planned.kind} was repeated with its key: {d}" for d in differences])
