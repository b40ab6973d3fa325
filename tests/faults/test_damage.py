"""Suite 5: every kind of file flipped, zeroed, cut, emptied, removed, replaced, made unreadable, before a start.

No answer is wrong: each collection reads as it was, bit for bit, or is closed and says why. Only what was damaged is
closed. What is derived comes back by itself. Then `seedvec repair`: all that is there afterwards is as it was, and what
is not there was listed.
"""

import asyncio
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.engine import errors
from app.engine.recovery import recover
from app.engine.types import CollectionSettings, IndexSpec, Rows
from index.distance import norms
from storage import errors as below
from storage.check import check
from storage.lock import LockHeld
from storage.repair import repair
from storage.repair_report import CollectionReport
from tests.faults import ledger
from tests.faults.damage import KINDS, VICTIMS, Case, Folder, Kind, cases, copy
from tests.faults.hands import Hands, turn_over
from tests.faults.ledger import Stored, World
from tests.faults.reading import see, seen
from tests.faults.table import Extent, record

SUITE = "5 bit flips, cuts, absence"
COUNT: dict[Extent, int] = {"quick": 2, "whole": 200}
SETTINGS = {
    "numbers": CollectionSettings(16, "l2", index=IndexSpec("hnsw")),
    "twin": CollectionSettings(16, "l2", index=IndexSpec("hnsw")),
    "words": CollectionSettings(40, "cosine", id_type="str", index=IndexSpec("ivf")),
}


@dataclass(frozen=True, slots=True)
class Sound:
    """As a kill would leave it: logs that were not brought home, pending rows, leftovers of a build."""

    folder: Folder
    world: World


async def _fill(hands: Hands, name: str, seed: int, part: int) -> None:
    """part 0: a large segment; 1: what comes behind it once that is indexed."""
    rng = np.random.default_rng([seed, part])
    settings = SETTINGS[name]
    ids: list[Any] = [f"{name} {i}" if settings.id_type == "str" else i for i in range(800)]

    def rows(first: int, last: int, metadata: bool = True) -> Rows:
        vectors = rng.standard_normal((last - first, settings.dimension)).astype(np.float32)
        texts = [b'{"n":%d,"even":%s}' % (i, b"true" if i % 2 else b"false") for i in range(first, last)]
        return Rows(vectors, ids[first:last], [*texts] if metadata else None)

    if part == 0:
        await hands.engine.create(name, settings)
        await hands.engine.add(name, rows(0, 640))
        return
    await hands.engine.add(name, rows(640, 670))
    await hands.engine.delete(name, ids[10:25])
    hands.seal()
    await turn_over()
    await hands.engine.upsert(name, rows(25, 40))
    await hands.engine.patch(name, ids[60], b'{"long":"%s"}' % (b"x" * 9000), None)
    await hands.engine.upsert(name, rows(670, 720, metadata=False))
    await hands.engine.delete(name, ids[700:703])


def _begin(root: Path) -> None:
    root.mkdir()
    recover(root)


async def _made(root: Path) -> Sound:
    async with await Hands.start(root) as hands:
        for part in (0, 1):
            for seed, name in enumerate(SETTINGS):
                await _fill(hands, name, seed, part)
            if part == 0:
                hands.build()
            await turn_over()
        world = await seen(hands.engine)
        uuids = {entry.name: entry.uuid for entry in hands.engine._registered.values()}
        killed = root.with_name("killed")
        shutil.copytree(root, killed)
    folder = Folder(killed, uuids)
    (folder.of("numbers") / "segments" / "000099-unfinished.h5.tmp").write_bytes(b"half")
    return Sound(folder, world)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    root = tmp_path_factory.mktemp("sound") / "data"
    _begin(root)
    return asyncio.run(_made(root))


def test_the_folder_has_every_kind_of_file(sound: Sound) -> None:
    assert [(kind.name, v) for kind in KINDS for v in VICTIMS if not kind.files(sound.folder, v)] == []
    assert all(len(KINDS[0].files(sound.folder, victim)) > 1 for victim in VICTIMS)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_damage_before_a_start(kind: Kind, sound: Sound, extent: Extent, place: Path, first_is_enough: bool) -> None:
    begun = time.monotonic()
    faults = []
    some = cases(kind, COUNT[extent])
    for number, case in enumerate(some):
        folder = copy(sound.folder, place / str(number))
        case.strike(folder)
        try:
            asyncio.run(_judge(case, folder, sound.world))
        except Exception as e:
            faults.append(f"{case}: {type(e).__name__}: {e}")
            if first_is_enough:
                break
        else:
            shutil.rmtree(folder.root)
    record(SUITE, len(some), len(faults), seconds=time.monotonic() - begun)
    assert not faults, "\n".join(faults[:10])


async def _judge(case: Case, folder: Folder, world: World) -> None:
    found = check(folder.root)
    try:
        hands = await Hands.start(folder.root)
    except (below.StorageError, OSError, LockHeld) as e:
        assert case.kind.worst == "refused", f"it does not start: {e}"
        assert str(folder.root) in str(e), "it does not say where"
        assert case.kind.name == "LOCK" or not found.sound, "check finds nothing"
        if case.kind.name != "LOCK":
            await _repaired(folder, world, None)
        return
    async with hands:
        closed = hands.engine.closed()
        assert set(closed) <= {case.victim}, f"others are closed: {closed}"
        for name, stored in world.items():
            if name not in closed:
                await _assert_same(hands, name, stored)
        if closed:
            assert case.kind.worst == "closed", f"closed: {closed}"
            assert not found.sound, f"closed ({closed}), and check finds nothing"
            await _assert_says_so(hands, case.victim, closed[case.victim])
        else:
            await _assert_goes_on(hands, case.kind, case.victim, world[case.victim])
    if closed:
        await _repaired(folder, world, case.victim)


async def _assert_same(hands: Hands, name: str, stored: Stored) -> None:
    there = await see(hands.engine, name)
    differences = ledger.differences({name: stored}, {name: there})
    assert not differences, f"{name} is not what it was, and nothing says so: {differences[:3]}"


async def _assert_says_so(hands: Hands, victim: str, reason: str) -> None:
    assert "seedvec repair" in reason, reason
    described = await hands.engine.describe(victim)
    assert described["index"]["state"] == "closed" and described["index"]["reason"]
    with pytest.raises(errors.CollectionClosed):
        await hands.engine.fetch(victim, [1], frozenset({"vector"}))
    with pytest.raises(errors.CollectionClosed):
        await hands.engine.delete_all(victim)


async def _assert_goes_on(hands: Hands, kind: Kind, victim: str, stored: Stored) -> None:
    """What is derived is there again by itself, and the collection takes writes."""
    if kind.derived:
        hands.seal()
        hands.build()
        await turn_over()
        described = await hands.engine.describe(victim)
        assert described["index"]["state"] == "ready", described["index"]
        await _assert_same(hands, victim, stored)
    gone = next(iter(stored.rows))
    assert await hands.engine.delete(victim, [gone]) == 1
    assert (await hands.engine.describe(victim))["count"] == len(stored.rows) - 1


async def _repaired(folder: Folder, world: World, victim: str | None) -> None:
    report = repair(folder.root, norms)
    found = check(folder.root)
    reports = {c.name: c for c in report.collections}
    lost = victim is not None and reports[victim].outcome == "lost"
    assert found.sound or lost, f"after the repair: {found}"
    async with await Hands.start(folder.root) as hands:
        for name, stored in world.items():
            if name == victim:
                if not lost:
                    _assert_saved(reports[name], stored, await see(hands.engine, name))
            else:
                await _assert_same(hands, name, stored)


def _assert_saved(report: CollectionReport, stored: Stored, there: Stored) -> None:
    """As it was, or listed: by what was lost of it."""
    lost: dict[str, set[Any]] = {what: set() for what in ("vector", "metadata", "doubtful")}
    for loss in report.losses:
        lost[loss.what].add(loss.id)
    gone = stored.rows.keys() - there.rows.keys() - lost["vector"]
    assert len(gone) <= report.unnamed, f"{len(gone)} are lost, and not listed"
    risen = there.rows.keys() - stored.rows.keys() - lost["doubtful"]
    assert len(risen) <= report.forgotten, f"{len(risen)} are there again, and not listed as doubtful"
    changed = []
    for id_, (vector, metadata) in there.rows.items():
        if id_ in lost["doubtful"] or id_ in risen:
            continue
        bare = metadata is None and id_ in lost["metadata"]
        if stored.rows[id_] != (vector, metadata) and not (bare and stored.rows[id_][0] == vector):
            changed.append(id_)
    assert len(changed) + len(risen) <= report.forgotten, f"changed: {changed}"


@pytest.mark.parametrize("seed", range(3))
def test_strays_harm_nobody(seed: int, sound: Sound, place: Path) -> None:
    """Files and folders of somebody else, wherever they may be."""
    rng = random.Random(seed)
    folder = copy(sound.folder, place / "data")
    homes = (folder.root, folder.root / "c", folder.of("numbers"), folder.of("numbers") / "segments")
    for home in homes:
        (home / "notes.txt").write_bytes(rng.randbytes(100))
        (home / "backup").mkdir()
        (home / "backup" / "000001-x.h5").write_bytes(rng.randbytes(100))
        (home / "x.tmp").write_bytes(b"")
    shutil.copytree(folder.of("twin"), folder.root / "c" / "0123456789abcdef0123456789abcdef")

    async def judged() -> None:
        async with await Hands.start(folder.root) as hands:
            assert not ledger.differences(sound.world, await seen(hands.engine))

    asyncio.run(judged())
    assert (folder.root / "c" / "0123456789abcdef0123456789abcdef" / "catalog.db").exists(), "a copy was swept"
    assert (folder.root / "c" / "backup" / "000001-x.h5").exists()
