"""A batch is answered as its queries are one by one: by (distance, id), whatever part a hit lies in."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.engine import planning, reading, search
from app.engine.collection import Collection, Limits
from app.engine.ranking import Ranked
from app.engine.types import EXACTLY, Asked
from index.distance import distances
from tests.engine.rig import Rig, pools

QUERIES = 9


class Tied(Rig):
    """Few different vectors: the ties of a k-th neighbour lie in every part."""

    def vectors(self, n: int) -> NDArray[np.float32]:
        self._drawn += n
        return np.random.default_rng(self._drawn).integers(0, 3, (n, self.dimension)).astype(np.float32)


def asked() -> NDArray[np.float32]:
    return np.random.default_rng(5).integers(0, 3, (QUERIES, 4)).astype(np.float32)


def true(rig: Rig, query: NDArray[np.float32], k: int) -> list[tuple[float, Any]]:
    rows = np.stack([np.frombuffer(vector, np.float32) for vector, _ in rig.model.values()])
    return sorted(zip(distances("l2", query, rows).tolist(), rig.model, strict=True))[:k]


def hits(found: Ranked) -> list[tuple[float, Any]]:
    return list(zip(found.distances.tolist(), found.ids, strict=True))


@pytest.fixture(params=[int, "{:03}".format], ids=["int", "str"])
def rig(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    """Two segments and pending rows, some of each deleted; ids in no order."""
    named: Callable[[int], Any] = request.param
    ids = [named(number) for number in np.random.default_rng(1).permutation(110).tolist()]
    made = Tied(tmp_path / "data", durable=False)
    made.upsert_directly(ids[:60])
    made.upsert_directly(ids[60:100])
    made.add(ids[100:])
    made.delete(ids[::13])
    yield made
    made.close()


@pytest.mark.parametrize("k", [1, 3, 10, 200])
def test_a_batch_is_its_queries_one_by_one(rig: Rig, k: int) -> None:
    view = rig.worker().view()
    plan = planning.plan(view, k, EXACTLY)
    found = search.run(view, plan, asked(), k).hits
    for i, query in enumerate(asked()):
        alone = search.run(view, plan, query[None], k).hits
        own = found.of(i, i + 1)
        assert hits(own) == hits(alone) == true(rig, query, k)
        assert own.starts == alone.starts == [0, min(k, len(rig.model))]
        assert own.places.keys() == alone.places.keys()
        assert own.places.vectors().tobytes() == b"".join(rig.model[id_][0] for id_ in own.ids)


def test_a_batch_within_a_distance(rig: Rig) -> None:
    """Some queries have many hits there, some one, some none; metadata are the hits' own."""
    queries = np.concatenate([asked(), np.full((1, 4), 9, np.float32)])
    around = Asked(20, EXACTLY, max_distance=1.0, include=frozenset({"metadata", "vector"}))
    found = asyncio.run(reading.find(rig.worker(), queries, around)).hits
    counts = np.diff(found.starts)
    assert counts[-1] == 0 and counts.max() > 3
    for i, query in enumerate(queries):
        own = slice(found.starts[i], found.starts[i + 1])
        assert found.items.ids[own] == [id_ for distance, id_ in true(rig, query, 20) if distance <= 1.0]
    assert found.items.metadata == [rig.model[id_][1] for id_ in found.items.ids]


def test_a_batch_of_an_empty_view(rig: Rig) -> None:
    rig.delete(list(rig.model))
    view = rig.worker().view()
    found = search.run(view, planning.plan(view, 5, EXACTLY), asked(), 5).hits
    assert found.ids == [] and found.starts == [0] * (QUERIES + 1)
    assert len(found.places.vectors()) == 0


def test_searches_that_wait_together_are_answered_as_alone(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one query and of several, for one k and another; the metadata, too, are each one's own."""
    monkeypatch.setattr(planning, "LOOP_US", 0.0)
    gate, together = threading.Event(), []
    run = search.run_together

    def counted(view: Any, plan: Any, wanted: Any, k: int) -> Any:
        together.append(len(wanted))
        return run(view, plan, wanted, k)

    monkeypatch.setattr(search, "run_together", counted)

    async def talk(c: Collection) -> None:
        wanted = [(asked()[i : i + 1 + i % 2], Asked(5 + i % 3, EXACTLY)) for i in range(8)]
        alone = [await reading.find(c, *one) for one in wanted]
        blocker = asyncio.create_task(c.beside_the_loop(lambda: gate.wait(10)))
        await asyncio.sleep(0)
        waiting = [asyncio.create_task(reading.find(c, *one)) for one in wanted]
        await asyncio.sleep(0)
        gate.set()
        for own, found in zip(alone, await asyncio.gather(*waiting), strict=True):
            assert found.hits.items == own.hits.items and found.hits.starts == own.hits.starts
            assert found.hits.distances.tobytes() == own.hits.distances.tobytes() and found.exact
        assert await blocker

    with ThreadPoolExecutor(1) as searchers:
        c = Collection("c", rig.folder, Limits(10**9, 10**9), replace(pools(), searchers=searchers))
        try:
            asyncio.run(talk(c))
        finally:
            c.close()
    assert together == 8 * [1] + [3, 3, 2]
