"""Suite 1, the repair: killed at every failpoint of `seedvec repair`; made again, it saves what it would have saved.

What a kill leaves is started without a repair too: the damaged collection may be closed, but nothing has gone.
"""

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from index.distance import norms
from storage import failpoints
from storage.repair import repair
from tests.faults import kills
from tests.faults.hands import Hands
from tests.faults.kills import Camera, Case
from tests.faults.ledger import World
from tests.faults.reading import see
from tests.faults.script import SEED, play
from tests.faults.table import Extent, record

OPERATIONS = 20
"""Of the script: pending rows, sealed ones, deaths, metadata, in four collections."""
SUITE = "1 killed while repairing"
HITS: dict[Extent, int] = {"quick": 1, "whole": 40}


@dataclass(frozen=True, slots=True)
class Images:
    counts: Counter[str]
    cases: list[Case]
    saved: World
    """What a repair that nobody disturbs saves."""


def _damage(data: Path, what: str) -> None:
    if what == "registry":
        for suffix in ("", "-wal", "-shm"):
            (data / f"registry.db{suffix}").unlink(missing_ok=True)
        return
    largest = max((data / "c").glob("*/segments/*.h5"), key=lambda path: path.stat().st_size)
    with largest.open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff" * 8)


async def _read(data: Path) -> World:
    """Of those that are open. Recovers first."""
    async with await Hands.start(data) as hands:
        closed = hands.engine.closed()
        return {name: await see(hands.engine, name) for name in hands.engine.names() if name not in closed}


def photographed_repair(base: Path, what: str, hits: int) -> Images:
    """Not with SQLite watched: it cannot open what it only reads then, and the repair would see damage in that."""
    data, ledger = kills.fresh(base, "made")
    asyncio.run(play(data, ledger, SEED, 0, OPERATIONS))
    _damage(data, what)
    kills.copy_to(data, ledger, base / "undisturbed")
    repair(base / "undisturbed" / "data", norms)
    saved = asyncio.run(_read(base / "undisturbed" / "data"))
    camera = Camera(data, ledger, base / "images", {name: set(range(1, hits + 1)) for name in failpoints.names()})
    with failpoints.watched(camera.see):
        repair(data, norms)
    return Images(camera.counts, camera.cases, saved)


def judge_repair(folder: Path, saved: World) -> str:
    """What is wrong; empty: nothing. Names given to folders that lost theirs are nobody's loss."""
    data = folder / "data"
    try:
        kills.copy_to(data, folder / "ledger", folder / "not repaired")
        served = asyncio.run(_read(folder / "not repaired" / "data"))
        both = served.keys() & saved.keys()
        wrong = [f"{name} has other rows unrepaired" for name in both if not _within(served, saved, name)]
        repair(data, norms)
        there = asyncio.run(_read(data))
        wrong += [f"{name} is not what the repair saves" for name in saved if there.get(name) != saved[name]]
    except Exception as e:
        return f"{type(e).__name__}: {e}"
    shutil.rmtree(folder)
    return "; ".join(wrong)


def _within(served: World, saved: World, name: str) -> bool:
    return served[name].rows.items() <= saved[name].rows.items()


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    with kills.working_folder(tmp_path) as folder:
        yield folder


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("what", ["segment", "registry"])
def test_killed_while_repairing(base: Path, what: str, extent: Extent) -> None:
    begun = time.monotonic()
    with ProcessPoolExecutor(1, mp_context=kills.forking(), initializer=kills.quietly) as camera:
        images = camera.submit(photographed_repair, base, what, HITS[extent]).result()
    assert images.saved, "a repair saves something"
    missed = {name for name in failpoints.names() if name.startswith("repair.")} - images.counts.keys()
    assert not missed or what != "segment", f"the repair does not come to {sorted(missed)}"
    with ProcessPoolExecutor(2, mp_context=kills.forking(), initializer=kills.quietly) as judges:
        cases = images.cases
        wrong = list(judges.map(judge_repair, [c.folder for c in cases], [images.saved] * len(cases), chunksize=2))
    faults = [f"{case}: {fault}" for case, fault in zip(cases, wrong, strict=True) if fault]
    record(SUITE, len(cases), len(faults), seconds=time.monotonic() - begun)
    assert not faults, f"{len(faults)} of {len(cases)}: " + "\n".join(faults[:10])
