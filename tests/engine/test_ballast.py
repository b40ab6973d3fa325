"""On a full disk what frees room is taken, on the ballast's room; everything else is refused until there is room."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from app.engine import errors
from app.engine.background import Refill
from app.engine.engine import LocalEngine
from app.engine.recovery import recover
from app.engine.types import CollectionSettings, Rows
from app.settings import Settings
from storage.ballast import Ballast
from storage.failpoints import armed

SIZE = 64 << 10
SETTINGS = CollectionSettings(4, "l2")
FULL_ONCE = "database.commit:enospc:1"


@pytest.fixture
def ballast(tmp_path: Path) -> Iterator[Ballast]:
    recover(tmp_path)
    made = Ballast(tmp_path)
    assert made.restore(SIZE)
    yield made


async def started(data: Path) -> LocalEngine:
    engine = LocalEngine(data, Settings(data=data))
    await engine.start()
    if not engine.names():
        await engine.create("c", SETTINGS)
        await engine.add("c", rows(0, 10))
    return engine


def rows(begin: int, n: int) -> Rows:
    return Rows(np.full((n, 4), float(begin + 1), np.float32), list(range(begin, begin + n)))


async def count(engine: LocalEngine) -> int:
    await asyncio.sleep(0)
    return int((await engine.describe("c"))["count"])


def test_a_delete_gives_it_up_and_an_add_does_not(tmp_path: Path, ballast: Ballast) -> None:
    async def drive() -> None:
        engine = await started(tmp_path)
        with armed(FULL_ONCE), pytest.raises(errors.DiskFull):
            await engine.add("c", rows(10, 1))
        assert not ballast.given_up()
        with armed(FULL_ONCE):
            assert await engine.delete("c", [0, 1]) == 2
        assert ballast.given_up() and await count(engine) == 8
        await engine.close()

    asyncio.run(drive())


def test_while_it_is_given_up_only_what_frees_is_taken(tmp_path: Path, ballast: Ballast) -> None:
    async def drive() -> None:
        engine = await started(tmp_path)
        assert ballast.give_up()
        for refused in (
            engine.add("c", rows(10, 1)),
            engine.upsert("c", rows(0, 1)),
            engine.patch("c", 1, b'{"a":1}', None),
            engine.create("more", SETTINGS),
            engine.set_recall("c", 0.9),
        ):
            with pytest.raises(errors.DiskFull):
                await refused
        assert await engine.delete("c", [0]) == 1 and await count(engine) == 9
        assert await engine.delete_all("c") == 9
        await engine.drop("c")
        await asyncio.sleep(0)
        assert engine.names() == []
        Refill(tmp_path, SIZE).look()
        await engine.create("c", SETTINGS)
        assert (await engine.add("c", rows(0, 3))).count == 3
        await engine.close()

    asyncio.run(drive())


def test_a_drop_gives_it_up(tmp_path: Path, ballast: Ballast) -> None:
    async def drive() -> None:
        engine = await started(tmp_path)
        with armed(FULL_ONCE):
            await engine.drop("c")
        await asyncio.sleep(0)
        assert ballast.given_up() and engine.names() == []
        await engine.close()

    asyncio.run(drive())


def test_in_one_transaction_only_those_that_free_come_again(tmp_path: Path, ballast: Ballast) -> None:
    """Group commit: adds and deletes that waited together, and the disk is full."""

    async def drive() -> None:
        engine = await started(tmp_path)
        with armed(f"catalogue.remember:sleep=0.2:1,{FULL_ONCE.replace(':1', ':2')}"):
            first = asyncio.create_task(engine.delete("c", [9]))  # holds the thread while the others queue up
            await asyncio.sleep(0.05)
            adds = [asyncio.create_task(engine.add("c", rows(20 + n, 1))) for n in range(3)]
            deletes = [asyncio.create_task(engine.delete("c", [n])) for n in range(3)]
            answers = await asyncio.gather(first, *adds, *deletes, return_exceptions=True)
        assert [answers[0], *answers[4:]] == [1, 1, 1, 1]
        assert all(isinstance(answer, errors.DiskFull) for answer in answers[1:4])
        assert ballast.given_up() and await count(engine) == 6
        await engine.close()

    asyncio.run(drive())


def test_without_a_ballast_a_delete_on_a_full_disk_is_refused(tmp_path: Path, ballast: Ballast) -> None:
    async def drive() -> None:
        assert ballast.restore(0)
        engine = await started(tmp_path)
        with armed(FULL_ONCE), pytest.raises(errors.DiskFull):
            await engine.delete("c", [0])
        assert await count(engine) == 10
        await engine.close()

    asyncio.run(drive())
