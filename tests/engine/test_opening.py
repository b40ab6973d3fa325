"""Between the commit that names an index and a worker's own opening of it, searches do without: who waits, waits for
both."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from app.engine.engine import LocalEngine
from app.engine.measuring import measure
from app.engine.recall import Measuring, measure_recall
from app.engine.types import RecallAsked
from app.settings import Settings
from storage.layout import SEGMENTS_NAME
from tests.engine.rig import Held, Rig

ROWS = 400
TURNS_S = 0.3
"""Longer than several looks at whether it is open."""


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "data", index="hnsw", index_min_rows=256)
    made.upsert(list(range(ROWS)))
    made.seal()
    yield made
    made.close()


def spoil_the_index(rig: Rig) -> None:
    (row,) = rig.segments()
    assert row.index is not None
    (rig.folder / SEGMENTS_NAME / row.index.file).write_bytes(b"not Faiss")


@pytest.mark.parametrize("spoiled", [False, True])
def test_ready_is_what_this_worker_has_opened(rig: Rig, spoiled: bool) -> None:
    """An index that cannot be opened is not waited for longer than the attempt takes."""
    gate = Event()

    async def wait() -> None:
        engine = LocalEngine(rig.data, Settings(data=rig.data, index_min_rows=256))
        await engine.start()
        try:
            engine._pools.loaders.submit(gate.wait)  # there is one thread: what is submitted later waits behind
            rig.merge()
            if spoiled:
                spoil_the_index(rig)
            waiting = asyncio.ensure_future(engine.wait_ready("c", 30))
            await asyncio.sleep(TURNS_S)
            assert not waiting.done()
            assert (await engine.describe("c"))["index"]["state"] == "ready"
            assert (await engine.wait_ready("c", 0.0))["name"] == "c", "the time is up"
            gate.set()
            assert (await waiting)["index"]["state"] == "ready"
            (part,) = engine._collection("c").view().parts
            assert (part.segment.index is None) == spoiled
        finally:
            gate.set()
            await engine.close()

    asyncio.run(wait())


def test_recall_is_measured_with_the_index(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.merge()
    held, measured = Held(), []
    worker = rig.worker(held)
    assert worker.view().parts[0].segment.index is None

    def seen(view: Any, *rest: Any) -> Any:
        measured.append(view.parts[0].segment.index)
        return measure(view, *rest)

    monkeypatch.setattr("app.engine.recall.measure", seen)
    asked = RecallAsked((3,), queries=np.ones((2, rig.dimension)))

    async def ask() -> None:
        with closing(Measuring()) as measuring:
            waiting = asyncio.ensure_future(measure_recall(worker, asked, measuring))
            await asyncio.sleep(TURNS_S)
            assert not waiting.done() and measured == []
            held.release()
            assert len((await waiting).rows) == 1

    asyncio.run(ask())
    assert len(measured) == 1 and measured[0] is not None


def test_recall_does_not_wait_for_ever(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.merge()
    worker = rig.worker(Held())
    monkeypatch.setattr("app.engine.collection.MAX_WAIT_S", 0.0)
    asked = RecallAsked((3,), queries=np.ones((2, rig.dimension)))
    with closing(Measuring()) as measuring:
        assert asyncio.run(measure_recall(worker, asked, measuring)).rows[0].measured == 1
