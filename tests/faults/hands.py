"""Every hand that the product lays on a data folder, in one process: recovery, engine, sealer and builder.

The background works when it is told to, a step at a time, so that a script always does the same in the same order.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Self

from app.engine import sealing
from app.engine.background import Watched, Worked, Works
from app.engine.building import Building
from app.engine.engine import LocalEngine
from app.engine.policy import Grounds
from app.engine.recovery import recover
from app.engine.sealing import Sealing
from app.settings import Settings
from storage import lock
from storage.ballast import Ballast
from storage.lock import DataLock
from tests.engine.rig import NeverStops

PENDING_ROWS = 240
"""So that 61 rows are a large write, a segment of their own."""
INDEX_ROWS = 256
"""The fewest that are ever indexed."""
GROUNDS = Grounds(INDEX_ROWS, 1 << 40, 1)
BALLAST_BYTES = 64 << 10
MAX_STEPS = 50


def hasten() -> None:
    """A few hundred rows make the catalogue's log and free pages grow as far as millions do by default."""
    sealing.TIDY_QUIET_S = 0.0
    sealing.CHECKPOINT_BYTES = 64 << 10
    sealing.FORCED_CHECKPOINT_BYTES = 192 << 10


def settings(data: Path) -> Settings:
    # A sample of queries is written when it is time, not when the script says: no answer depends on it.
    return Settings(data=data, workers=1, pending_rows=PENDING_ROWS, index_min_rows=INDEX_ROWS, keep_queries=0)


class Hands:
    """One start of the server on one data folder. `await Hands.start(data)`, then `engine` and the background."""

    def __init__(self, data: Path, lock: DataLock, engine: LocalEngine) -> None:
        self.data = data
        self.engine = engine
        self._lock = lock
        self._watched = Watched(data)
        self._sealings: dict[Worked, Works] = {}
        self._buildings: dict[Worked, Works] = {}

    @classmethod
    async def start(cls, data: Path, *, recovered: bool = False) -> Self:
        """As `seedvec serve` begins on a folder that is there: lock, recovery, engine. Raises what these raise."""
        hasten()
        held = lock.acquire(data)
        try:
            if not recovered:
                recover(data)
            Ballast(data).restore(BALLAST_BYTES)
            engine = LocalEngine(data, settings(data))
            await engine.start()
            return cls(data, held, engine)
        except BaseException:
            held.release()
            raise

    async def close(self) -> None:
        await self.engine.close()
        # A background process has no use for closing these: it ends.
        for c in self._watched._open.values():
            c.close()
        self._watched._registry.close()
        self._lock.release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def seal(self) -> None:
        """Whatever pends, of every collection."""
        self._work(self._sealings, lambda c: Sealing(c, PENDING_ROWS, 1 << 20, 0.0))

    def build(self) -> None:
        """Merges, rewrites, builds and forgets indexes until nothing is due."""
        self._work(self._buildings, lambda c: Building(c, GROUNDS, 0.0, 1, NeverStops()))

    def bring_home(self) -> None:
        """The registry's log, and the ballast that was given up, as the sealer does in each of its rounds."""
        self._watched.checkpoint_registry()
        Ballast(self.data).restore(BALLAST_BYTES)

    def _work(self, works: dict[Worked, Works], make: Callable[[Worked], Works]) -> None:
        here = list(self._watched.collections())
        for gone in works.keys() - set(here):
            del works[gone]
        for c in here:
            works.setdefault(c, make(c))
            for _ in range(MAX_STEPS):
                if not works[c].step():
                    break
            else:
                raise AssertionError(f"collection {c.name}: {MAX_STEPS} steps, and still something is due")


async def turn_over() -> None:
    """What was committed by hand is seen by the engine from the next turn of the event loop."""
    await asyncio.sleep(0)
