"""One bad collection never keeps the others from opening, and is named for what it is."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from app.engine import errors
from app.engine.engine import LocalEngine
from app.engine.recovery import recover
from app.engine.types import CollectionSettings, Rows
from app.settings import Settings
from storage.failpoints import armed
from storage.layout import SEGMENTS_NAME
from storage.registry import Registry, mark_dropped

SETTINGS = CollectionSettings(4, "l2")


def test_what_is_damaged_since_the_start_is_named(tmp_path: Path) -> None:
    recover(tmp_path)

    async def filled() -> None:
        engine = LocalEngine(tmp_path, Settings(data=tmp_path, pending_rows=4))
        await engine.start()
        for name in ("bad", "good"):
            await engine.create(name, SETTINGS)
            await engine.add(name, Rows(np.ones((8, 4), np.float32)))
        assert engine.closed() == {}
        await engine.close()

    async def looked_at() -> None:
        engine = LocalEngine(tmp_path, Settings(data=tmp_path))
        await engine.start()
        with pytest.raises(errors.CollectionClosed):
            engine.settings("bad")
        assert list(engine.closed()) == ["bad"] and segment.name in engine.closed()["bad"]
        described = await engine.describe("bad")
        assert described["index"]["state"] == "closed" and segment.name in described["index"]["reason"]
        assert (await engine.describe("good"))["index"]["state"] != "closed"
        await engine.close()

    asyncio.run(filled())
    registry = Registry(tmp_path)
    uuid = next(entry.uuid for entry in registry.read() if entry.name == "bad")
    segment = next((registry.folder(uuid) / SEGMENTS_NAME).glob("*.h5"))
    registry.close()
    segment.unlink()
    asyncio.run(looked_at())


def test_a_drop_that_cannot_be_ended_does_not_stop_the_start(tmp_path: Path) -> None:
    recover(tmp_path)

    async def drive(*created: str) -> list[str]:
        engine = LocalEngine(tmp_path, Settings(data=tmp_path))
        await engine.start()
        for name in created:
            await engine.create(name, SETTINGS)
        names = engine.names()
        await engine.close()
        return names

    asyncio.run(drive("going", "staying"))
    registry = Registry(tmp_path)
    mark_dropped(registry.folder(next(entry.uuid for entry in registry.read() if entry.name == "going")))
    registry.close()
    with armed("registry.drop.marked:enospc"):
        recover(tmp_path)
    registry = Registry(tmp_path)
    assert [entry.name for entry in registry.read()] == ["going", "staying"], "its row is there still"
    registry.close()
    assert asyncio.run(drive()) == ["staying"], "what is half dropped is gone for all"
    recover(tmp_path)
    registry = Registry(tmp_path)
    assert [entry.name for entry in registry.read()] == ["staying"]
    registry.close()
