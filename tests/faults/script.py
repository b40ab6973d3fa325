"""`python -m tests.faults.script DATA LEDGER [--seed N] [--from N] [--count N]`: 240 operations on one data folder.

One process, the real engine, everything a server does to its files; see `operations.TOUR` for what. Each operation is
announced and acknowledged in a ledger outside the folder, so that whoever kills this process, or breaks its disk,
can judge afterwards what must be there (`judge.py`). The same seed does the same in the same order.
"""

import argparse
import asyncio
from dataclasses import dataclass
from pathlib import Path

from tests.faults import ledger as record
from tests.faults.hands import Hands, turn_over
from tests.faults.ledger import Ledger, World
from tests.faults.operations import operation
from tests.faults.planned import Planned, plan

SEED = 3


@dataclass(slots=True)
class Script:
    """The plan, the world as acknowledged so far, and the record."""

    ledger: Ledger
    world: World
    planned: list[Planned]
    seed: int = SEED

    async def step(self, hands: Hands, n: int) -> None:
        """Operation n. Raises what the engine raises: then it stays announced, until the caller says what it was."""
        planned = self.planned[n]
        op = operation(planned, self.seed, n, self.world)
        self.ledger.announce(n, planned.kind, op.effect)
        ids = await op.act(hands)
        self.ledger.acknowledge(n, ids)
        world = record.after(self.world, op.effect, ids)
        assert world is not None
        self.world = world
        await turn_over()

    async def run(self, hands: Hands, begin: int = 0, end: int | None = None) -> None:
        for n in range(begin, len(self.planned) if end is None else min(end, len(self.planned))):
            await self.step(hands, n)


def begun(ledger: Path) -> World:
    """The world of a record without doubts; empty where there is no record yet."""
    if not ledger.exists():
        return {}
    [(world, _)] = record.worlds(record.read(ledger))
    return world


async def play(data: Path, ledger: Path, seed: int, begin: int, end: int | None) -> None:
    """Starts on the folder, runs the operations, and stops in order."""
    script = Script(Ledger(ledger), begun(ledger), plan(seed), seed)
    try:
        async with await Hands.start(data) as hands:
            await script.run(hands, begin, end)
    finally:
        script.ledger.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("ledger", type=Path)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--from", type=int, default=0, dest="begin")
    parser.add_argument("--count", type=int)
    args = parser.parse_args()
    args.data.mkdir(parents=True, exist_ok=True)
    end = None if args.count is None else args.begin + args.count
    asyncio.run(play(args.data, args.ledger, args.seed, args.begin, end))


if __name__ == "__main__":
    main()
