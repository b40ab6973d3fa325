"""The plainest requests are answered on their own way as on the general one."""

import asyncio
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from app.engine import plain, planning, reading, search
from app.engine.errors import DeadlineExceeded
from app.engine.types import EXACTLY, Asked, Include
from tests.engine.rig import Rig

NOTHING: Include = frozenset()
BOTH: Include = frozenset({"metadata", "vector"})
IDS = np.random.default_rng(1).permutation(90).tolist()


class Tied(Rig):
    """Few different vectors: neighbours tie."""

    def vectors(self, n: int) -> NDArray[np.float32]:
        self._drawn += n
        return np.random.default_rng(self._drawn).integers(0, 4, (n, self.dimension)).astype(np.float32)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """One segment, some of its rows deleted."""
    made = Tied(tmp_path / "data", durable=False)
    made.upsert_directly(IDS)
    made.delete(IDS[::7])
    yield made
    made.close()


def queries() -> NDArray[np.float32]:
    return np.random.default_rng(5).normal(1.5, 1.5, (12, 4)).astype(np.float32)


@pytest.mark.parametrize("k", [1, 3, 10, 60, 200])
@pytest.mark.parametrize("whole_numbers", [False, True])
def test_a_search_finds_what_the_general_way_finds(rig: Rig, k: int, whole_numbers: bool) -> None:
    view = rig.worker().view()
    for query in np.rint(queries()) if whole_numbers else queries():
        found = plain.answer(view, query[None], Asked(k, EXACTLY, include=NOTHING))
        general = search.run(view, planning.plan(view, k, EXACTLY), query[None], k)
        assert found is not None and found.exact and found.expected_recall == 1.0 and found.calibrated_on is None
        assert found.hits.items == (general.hits.ids, None, None)
        assert found.hits.distances.tolist() == general.hits.distances.tolist()
        assert found.hits.starts == general.hits.starts


def test_what_is_not_plain_is_left_to_the_general_way(rig: Rig) -> None:
    view, query = rig.worker().view(), queries()[:1]
    plainly = Asked(3, include=NOTHING)
    assert plain.answer(view, query, plainly) is not None
    for other in (
        plainly._replace(include=BOTH),
        plainly._replace(include=frozenset({"metadata"})),
        plainly._replace(max_distance=1.0),
        plainly._replace(params={"nprobe": 1}),
        plainly._replace(explain=True),
    ):
        assert plain.answer(view, query, other) is None
    rig.add([1000])
    assert plain.answer(rig.worker().view(), query, plainly) is None, "a second part"


def test_a_search_that_is_late_is_not_begun(rig: Rig) -> None:
    late = Asked(3, include=NOTHING, deadline=-math.inf)
    with pytest.raises(DeadlineExceeded):
        asyncio.run(reading.find(rig.worker(), queries()[:1], late))


def test_an_item_is_fetched_wherever_it_lies(rig: Rig) -> None:
    rig.add([1000, 1001])
    worker = rig.worker()
    for id_ in [*IDS, 1000, 1001, 5000]:
        items, missing = reading.fetch(worker, [id_], BOTH)
        assert missing == ([] if id_ in rig.model else [id_])
        if id_ not in rig.model:
            assert items.ids == [] and plain.item(worker, id_, BOTH) is None
            continue
        vector, metadata = rig.model[id_]
        assert plain.item(worker, id_, BOTH) is not None
        assert items.ids == [id_] and items.metadata == [metadata]
        assert isinstance(items.vectors, np.ndarray) and items.vectors.tobytes() == vector
        assert reading.fetch(worker, [id_], NOTHING)[0] == ([id_], None, None)
