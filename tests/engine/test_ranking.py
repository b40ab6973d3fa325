"""A batch is answered as its queries are one by one: by (distance, id), whatever part a hit lies in."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.engine import planning, reading, search
from app.engine.ranking import Ranked
from app.engine.types import EXACTLY, Asked
from index.distance import distances
from tests.engine.rig import Rig

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
