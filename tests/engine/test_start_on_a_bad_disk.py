"""A start where nothing can be written, or where the log may be in the page cache alone."""

import asyncio
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.engine import errors
from app.engine.engine import LocalEngine
from app.engine.recovery import recover
from app.engine.types import EXACTLY, Asked, CollectionSettings, IndexSpec, Rows
from app.settings import Settings
from storage.failpoints import armed, watched
from storage.layout import SEGMENTS_NAME
from tests.faults.hands import Hands

ROWS = 300
NO_ROOM = "database.commit:enospc,database.rewrite:enospc,database.truncate:enospc,sweep.unlink:enospc"


def run(act: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(act())


def rows(n: int) -> Rows:
    return Rows(np.random.default_rng(n).standard_normal((n, 8)).astype(np.float32), list(range(n)))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two collections as a kill leaves them: `one` with a sealed segment and its index, and rows that pend."""
    alive, killed = tmp_path / "alive", tmp_path / "killed"
    alive.mkdir()

    async def fill() -> None:
        async with await Hands.start(alive) as hands:
            await hands.engine.create("one", CollectionSettings(8, "l2", index=IndexSpec("hnsw", {"m": 8})))
            await hands.engine.create("two", CollectionSettings(8, "l2"))
            await hands.engine.add("one", rows(ROWS))
            hands.build()
            await hands.engine.add("two", rows(10))
            shutil.copytree(alive, killed)

    run(fill)
    return killed


def file(data: Path, pattern: str) -> Path:
    [found] = data.glob(f"c/*/{SEGMENTS_NAME}/{pattern}")
    return found


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


async def opened(data: Path) -> LocalEngine:
    engine = LocalEngine(data, Settings(data=data))
    await engine.start()
    return engine


async def finds_all(engine: LocalEngine) -> None:
    for name, n in (("one", ROWS), ("two", 10)):
        vectors = rows(n).vectors
        answer = await engine.search(name, vectors[:5], Asked(1, EXACTLY))
        assert answer.hits.items.ids == list(range(5)) and answer.hits.starts == list(range(6))


def test_without_any_room_everything_is_served(data: Path) -> None:
    (data / "c" / "stray").mkdir()
    file(data, "*.h5").with_name("stray.tmp").touch()
    with armed(NO_ROOM):
        recover(data)

    async def look() -> None:
        engine = await opened(data)
        assert engine.closed() == {} and engine.names() == ["one", "two"]
        await finds_all(engine)
        await engine.add("two", Rows(np.ones((1, 8), np.float32), [99]))
        await engine.close()

    run(look)


def test_a_damaged_index_is_not_used_though_the_catalogue_cannot_forget_it(data: Path) -> None:
    spoil(file(data, "*.faiss"))
    with armed(NO_ROOM):
        recover(data)
    assert not list(data.glob("c/*/segments/*.faiss"))

    async def look() -> None:
        engine = await opened(data)
        assert engine.closed() == {}
        await finds_all(engine)
        await engine.close()
        recover(data)
        async with await Hands.start(data) as hands:
            hands.build()

    run(look)
    assert file(data, "*.faiss"), "and it is made anew at the next start"


def test_a_damaged_segment_closes_its_collection_though_the_registry_cannot_be_told(data: Path) -> None:
    whole = file(data, "*.h5").read_bytes()
    spoil(file(data, "*.h5"))
    with armed(NO_ROOM):
        recover(data)

    async def look(reason: str) -> None:
        engine = await opened(data)
        assert list(engine.closed()) == ["one"] and reason in engine.closed()["one"]
        with pytest.raises(errors.CollectionClosed):
            engine.settings("one")
        assert (await engine.describe("two"))["count"] == 10
        await engine.close()

    run(lambda: look("too full"))
    recover(data)  # there is room again
    run(lambda: look("checksum"))
    file(data, "*.h5").write_bytes(whole)
    recover(data)

    async def whole_again() -> None:
        engine = await opened(data)
        assert engine.closed() == {}
        await finds_all(engine)
        await engine.close()

    run(whole_again)


def test_a_log_is_on_the_disk_before_it_is_brought_home(data: Path) -> None:
    """It may be in the page cache alone: see tests/storage/test_fsync_error.py for what would be lost."""
    logs = [path for path in (data / "registry.db-wal", *data.glob("c/*/catalog.db-wal")) if path.stat().st_size]
    assert len(logs) == 3
    seen: list[str] = []
    with watched(lambda name, _: seen.append(name)):
        recover(data)
    order = [name for name in seen if name in ("database.rewrite_fsync", "database.truncate")]
    assert order[: 2 * len(logs)] == ["database.rewrite_fsync", "database.truncate"] * len(logs)
