"""A disk that fails under the running script, and is well again: every refusal is judged at once, and nothing restarts.

`play_on` makes the script's operations one after the other. Beside each it lets one write, sync, truncation, rename or
unlink fail, ours or SQLite's own, once or from there on; then it holds what can be read against what was acknowledged,
and makes the operation again on a disk that is well.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import apsw

from app.engine import building, errors
from storage import failpoints
from storage.ballast import Ballast
from storage.errors import StorageError
from tests.faults import ledger as record
from tests.faults.hands import Hands, turn_over
from tests.faults.judge import matching
from tests.faults.ledger import Ledger
from tests.faults.planned import plan
from tests.faults.reading import seen
from tests.faults.script import SEED, Script

Failure = Literal["enospc", "eio"]
FAILURES: Final[tuple[Failure, ...]] = ("enospc", "eio")
BALLAST_BYTES: Final = 64 << 10
RETRY_S: Final = 0.02
"""Instead of the builder's 10 s."""
AFTERWARDS: Final = frozenset(
    {
        "database.committed",
        "registry.drop.unregistered",
        "segment.published",
        "index.published",
        "columns.published",
        "lock.describe",
    }
)
"""Places that only a kill knows: what was to be written is written. (The LOCK's text is for people, at a start.)"""
SYNCS: Final = {"sqlite.db.sync", "sqlite.wal.sync"}
_EXTENDED: Final = {
    "write": apsw.SQLITE_IOERR_WRITE,
    "sync": apsw.SQLITE_IOERR_FSYNC,
    "truncate": apsw.SQLITE_IOERR_TRUNCATE,
    "delete": apsw.SQLITE_IOERR_DELETE,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """The place-th place that operation n comes to fails (from 1). lasting: so do all that come after."""

    n: int
    place: int
    failure: Failure
    lasting: bool = False


@dataclass(slots=True)
class Outcome:
    """Of a run. struck: by place and failure, how often one failed; refused: by problem code; judged: refusals."""

    struck: Counter[tuple[str, Failure]] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    judged: int = 0
    wrong: list[str] = field(default_factory=list)


class Disk:
    """Counts the places that are come to; fails where it is told to. From any thread."""

    def __init__(self) -> None:
        self.places: list[str] = []
        self.struck: list[str] = []
        self._fault: Fault | None = None
        self._lock = threading.Lock()

    @contextmanager
    def installed(self) -> Iterator["Disk"]:
        with failpoints.watched(self.see):
            yield self

    def begin(self, fault: Fault | None) -> None:
        with self._lock:
            self.places, self.struck, self._fault = [], [], fault

    def see(self, name: str, halfwrite: Any) -> None:
        with self._lock:
            if name in AFTERWARDS:
                return
            self.places.append(name)
            fault, n = self._fault, len(self.places)
            if fault is None or n < fault.place or (n > fault.place and not fault.lasting):
                return
            self.struck.append(name)
        raise _error(name, fault.failure)


def _error(name: str, failure: Failure) -> Exception:
    if not name.startswith("sqlite."):
        number = failpoints.ERRORS[failure]
        return OSError(number, f"{name} fails")
    what = name.rpartition(".")[2]
    if failure == "enospc" and what == "write":
        return apsw.FullError(f"{name} fails")
    error = apsw.IOError(f"{name} fails")
    error.extendedresult = _EXTENDED[what]  # type: ignore[attr-defined]
    return error


def places_of(data: Path, ledger: Path, operations: int) -> list[list[str]]:
    """Of each operation of the script on a disk that is well, the places that it comes to."""
    return asyncio.run(_counted(data, ledger, operations))


async def _counted(data: Path, ledger: Path, operations: int) -> list[list[str]]:
    found = []
    async with _started(data, ledger) as (script, hands):
        with Disk().installed() as disk:
            for n in range(operations):
                disk.begin(None)
                await script.step(hands, n)
                found.append(disk.places)
                _refill(data)
    return found


def play_on(data: Path, ledger: Path, operations: int, faults: list[Fault]) -> Outcome:
    """Makes the operations, with these faults (one at most an operation). Stops at the first that is wrong."""
    return asyncio.run(_played(data, ledger, operations, {fault.n: fault for fault in faults}))


async def _played(data: Path, ledger: Path, operations: int, faults: dict[int, Fault]) -> Outcome:
    outcome = Outcome()
    async with _started(data, ledger) as (script, hands):
        with Disk().installed() as disk:
            for n in range(operations):
                try:
                    await _one(script, hands, disk, n, faults.get(n), outcome)
                except Exception as e:
                    outcome.wrong.append(f"operation {n}, {script.planned[n].kind}, {faults.get(n)}: {e!r}")
                    break
                _refill(data)
    return outcome


async def _one(script: Script, hands: Hands, disk: Disk, n: int, fault: Fault | None, outcome: Outcome) -> None:
    for attempt in range(2 if fault is not None and fault.lasting else 1):
        disk.begin(fault if attempt == 0 or fault is None else Fault(n, 1, fault.failure, True))
        try:
            await script.step(hands, n)
        except (errors.Unavailable, StorageError, OSError) as e:
            outcome.refused[_word(e)] += 1
            _note(outcome, disk, fault)
            # While a lasting fault lasts: reads go on.
            done = await _judged(script, hands, n, e)
            outcome.judged += 1
            if done:
                disk.begin(None)
                return
        else:
            _note(outcome, disk, fault)
            disk.begin(None)
            return
    disk.begin(None)
    await asyncio.sleep(RETRY_S)
    await script.step(hands, n)  # the disk is well: nothing has to be started again


def _note(outcome: Outcome, disk: Disk, fault: Fault | None) -> None:
    if fault is not None:
        outcome.struck.update((name, fault.failure) for name in disk.struck)


def _word(e: Exception) -> str:
    return e.code if isinstance(e, errors.Refused) else type(e).__name__


async def _judged(script: Script, hands: Hands, n: int, e: Exception) -> bool:
    """What a refusal said is so, and what is read now is the world before it (or after it, where that was open).

    True: it was done all the same.
    """
    await turn_over()
    entries = record.read(script.ledger.path)
    world, done = matching(entries, await seen(hands.engine))
    unknown = isinstance(e, errors.OutcomeUnknown)
    if n in done and script.planned[n].kind not in BACKGROUND:
        assert unknown, f"refused with {_word(e)}, and done"
        assert entries[-1].effect.do != "nothing"
        script.world = world
        script.ledger.acknowledge(n, None)
        return True
    script.ledger.refuse(n)
    return False


BACKGROUND: Final = frozenset({"seal", "build", "tidy", "read", "repeat"})
"""They change nothing that can be read."""


def _refill(data: Path) -> None:
    """As the sealer does, once there is room."""
    assert Ballast(data).restore(BALLAST_BYTES)


class _started:  # noqa: N801
    """A server's hands on a fresh folder, with a ballast, and the script to be made on it."""

    def __init__(self, data: Path, ledger: Path) -> None:
        self._data, self._ledger = data, ledger

    async def __aenter__(self) -> tuple[Script, Hands]:
        building.DISK_RETRY_S = RETRY_S
        self._script = Script(Ledger(self._ledger), {}, plan(SEED), SEED)
        self._hands = await Hands.start(self._data)
        _refill(self._data)
        return self._script, self._hands

    async def __aexit__(self, *_: object) -> None:
        self._script.ledger.close()
        await self._hands.close()
