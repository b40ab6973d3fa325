"""The engine of one worker: names that come and go, what it lets go of, and collections that do not disturb others."""

import asyncio
import gc
import os
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.engine import errors
from app.engine.engine import LocalEngine
from app.engine.recovery import recover
from app.engine.types import Asked, CollectionSettings, Rows
from app.settings import Settings
from storage.registry import Registry

Run = Callable[[Coroutine[Any, Any, Any]], Any]
SMALL = CollectionSettings(4, "l2")


@pytest.fixture
def run() -> Iterator[Run]:
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    recover(tmp_path)
    return tmp_path


@pytest.fixture
def engine(data: Path, run: Run) -> Iterator[LocalEngine]:
    made = started(data, run)
    yield made
    run(made.close())


def started(data: Path, run: Run) -> LocalEngine:
    made = LocalEngine(data, Settings(data=data))
    run(made.start())
    return made


def rows(n: int, ids: list[Any] | None = None) -> Rows:
    return Rows(np.ones((n, 4), np.float32), ids)


def descriptors() -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            continue
    return found


def test_creating_again_agrees_or_is_refused(engine: LocalEngine, run: Run) -> None:
    assert run(engine.create("a", SMALL)) is True
    assert run(engine.create("a", SMALL)) is False
    with pytest.raises(errors.SettingsDiffer) as refused:
        run(engine.create("a", CollectionSettings(5, "dot")))
    assert [f.where for f in refused.value.faults] == ["dimension", "metric"]
    run(engine.add("a", rows(1, ["x"])))
    assert run(engine.create("a", SMALL)) is False, "`auto` agrees with what the first write made of it"
    with pytest.raises(errors.SettingsDiffer):
        run(engine.create("a", CollectionSettings(4, "l2", id_type="int")))


def test_two_workers_create_and_drop(data: Path, engine: LocalEngine, run: Run) -> None:
    other = started(data, run)

    async def both() -> list[bool]:
        return await asyncio.gather(*(e.create("a", SMALL) for e in (engine, other) for _ in range(2)))

    assert sorted(run(both())) == [False, False, False, True]
    run(engine.add("a", rows(3)))
    assert run(other.describe("a"))["count"] == 3
    run(other.drop("a"))
    for e in (engine, other):
        with pytest.raises(errors.CollectionNotFound):
            run(e.add("a", rows(1)))
        assert e.names() == []
    with pytest.raises(errors.CollectionNotFound):
        run(engine.drop("a"))
    assert run(engine.create("a", SMALL)) is True
    assert run(other.describe("a"))["count"] == 0, "the same name is another collection"
    run(other.close())


def test_a_dropped_collection_leaves_nothing_open(engine: LocalEngine, data: Path, run: Run) -> None:
    """A worker that lives for months and sees collections come and go."""

    async def come_and_go(name: str) -> None:
        await engine.create(name, SMALL)
        await engine.add(name, rows(2))
        await engine.add(name, rows(6000))
        await engine.search(name, np.ones((1, 4), np.float32), Asked(3))
        await engine.drop(name)

    for n in range(3):
        run(come_and_go(f"warm{n}"))
    gc.collect()
    before = len(descriptors())
    for n in range(10):
        run(come_and_go(f"c{n}"))
    engine.names()
    gc.collect()
    after = descriptors()
    assert len(after) <= before + 1, [d for d in after if "/c/" in d]
    assert list((data / "c").iterdir()) == []


def test_one_dropped_by_another_worker_is_let_go_of_without_a_request(
    data: Path, engine: LocalEngine, run: Run
) -> None:
    run(engine.create("a", SMALL))
    run(engine.add("a", rows(2)))
    registry = Registry(data)
    registry.drop("a", registry.read()[0].uuid)
    registry.close()
    run(asyncio.sleep(0))
    engine._look_at_all()
    gc.collect()
    assert [d for d in descriptors() if "/c/" in d] == []


def test_one_damaged_collection_does_not_keep_others_from_being_followed(
    data: Path, engine: LocalEngine, run: Run
) -> None:
    for name in ("a", "b", "c"):
        run(engine.create(name, SMALL))
        run(engine.add(name, rows(6000)))
    for name in ("a", "b", "c"):
        engine._collection(name).view()
    # "a" loses its segment while it lives; then all change.
    (segment,) = engine._collection("a").follower.folder.glob("segments/*.h5")
    other = started(data, run)
    for name in ("a", "b", "c"):
        run(other.add(name, rows(6000)))
    segment.unlink()
    newest = max(engine._collection("a").follower.folder.glob("segments/*.h5"))
    newest.unlink()
    engine._look_at_all()
    assert [len(engine._open[u].follower._view.parts) for u in engine._open][1:] == [2, 2]  # type: ignore[union-attr]
    with pytest.raises(errors.CollectionClosed):
        run(engine.search("a", np.ones((1, 4), np.float32), Asked(1)))
    run(other.close())


def test_a_closed_collection_says_why_and_the_others_serve(data: Path, run: Run) -> None:
    first = started(data, run)
    for name in ("a", "b"):
        run(first.create(name, SMALL))
        run(first.add(name, rows(6000)))
    (segment,) = first._collection("a").follower.folder.glob("segments/*.h5")
    run(first.close())
    segment.write_bytes(segment.read_bytes()[:-1])
    recover(data)
    again = started(data, run)
    assert list(again.closed()) == ["a"] and segment.name in again.closed()["a"]
    with pytest.raises(errors.CollectionClosed, match="seedvec check"):
        run(again.add("a", rows(1)))
    assert run(again.describe("a"))["index"]["state"] == "closed"
    assert run(again.describe("b"))["count"] == 6000
    run(again.drop("a"))
    assert again.names() == ["b"]
    run(again.close())
