"""Random metadata, random filters and random histories, against one item at a time in the most obvious way.

Every answer to a filter depends on where a row's metadata happens to lie: in a columns file, in columns that a worker
derived, in patches laid over either, in memory while the row pends. So filters are asked while all of these come and
go, in workers that have filtered from the beginning and in one that begins at the end.
"""

import asyncio
import json
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import pytest

from app.engine import bulk, deriving, described, fields
from app.engine.collection import Collection
from app.engine.merge_patch import merge_patch
from app.engine.recovery import recover
from storage.layout import SEGMENTS_NAME
from tests.bits import flip
from tests.engine.filter_judge import judge, matching, parsed
from tests.engine.rig import Held, Rig, UnderWay
from tests.filter_reference import matches
from tests.filter_strategies import make_filter, make_metadata, make_object

SEEDS = range(32)
STEPS = 30
IDS = 40
CASES = 10_000
"""Compared by all seeds together, at the least: a filter, a moment and a worker, each by count, list and search."""
IN_MEMORY = Path("/dev/shm")
MIN_ROWS = 256
"""No index is built over fewer: where there is one, so many rows more."""
SMALL = {deriving: {"MAX_PATCHES": 6, "MIN_PATCHES": 3, "SLICE_ROWS": 7}, described: {"MAX_PATCHES": 6}}
"""Bounds that a few dozen rows reach."""
T = TypeVar("T")


class History:
    """One collection, its model, and the workers that are asked."""

    def __init__(self, data: Path, seed: int) -> None:
        self.rng = Random(seed)
        self.indexed = seed % 8 == 4
        self.loop = asyncio.new_event_loop()
        self.compared = 0
        self.rig = self._rig(Rig(data, **self._options()))
        self.sealing: UnderWay | None = None
        self.building: UnderWay | None = None
        self.asked = [self.draw() for _ in range(5)]
        self.open()
        if self.indexed:
            self.rig.upsert_directly(list(range(IDS, IDS + MIN_ROWS)))
            self.rig.merge()

    def _options(self) -> dict[str, Any]:
        index = {"index": "hnsw", "index_min_rows": MIN_ROWS} if self.indexed else {}
        return {"seal_rows": 8, "durable": False, **index}

    def _rig(self, rig: Rig) -> Rig:
        def describe() -> bytes | None:
            metadata = make_metadata(self.rng)
            return None if metadata is None else json.dumps(metadata).encode()

        rig.describe = describe
        return rig

    def open(self) -> None:
        """Where a new index is opened only when the history says so, the old segments serve on."""
        self.held = Held() if self.indexed else None
        self.eager = self.rig.worker(self.held)
        self.late, self.reopened = self.rig.worker(), self.rig.worker()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    def close(self) -> None:
        try:
            self.publish()
        finally:
            self.rig.close()
            self.loop.close()

    # ---------------------------------------------------------------- drawing

    def draw(self) -> dict[str, Any]:
        """A filter, mostly one that some items match and some do not."""
        sample = [make_metadata(self.rng) for _ in range(20)]
        for _ in range(20):
            filter = make_filter(self.rng)
            if 0 < sum(matches(filter, metadata) for metadata in sample) < len(sample):
                break
        return filter

    def some_ids(self, most: int) -> list[int]:
        return self.rng.sample(range(IDS), self.rng.randrange(1, most + 1))

    def change(self) -> dict[str, Any]:
        """A merge patch."""
        wanted = make_object(self.rng, 1)
        return {key: None if self.rng.randrange(5) == 0 else value for key, value in wanted.items()}

    # ---------------------------------------------------------------- what may happen

    def add(self) -> None:
        fresh = [id_ for id_ in self.some_ids(10) if id_ not in self.rig.model]
        if fresh:
            self.rig.add(fresh)

    def upsert(self) -> None:
        self.rig.upsert(self.some_ids(6))

    def upsert_directly(self) -> None:
        self.rig.upsert_directly(self.some_ids(12))

    def patch(self) -> None:
        for id_ in self.some_ids(3):
            self.rig.patch(id_, self.change(), vector=self.rng.randrange(4) == 0)

    def patch_vector(self) -> None:
        self.rig.patch(self.some_ids(1)[0], None, vector=True)

    def patch_ids(self) -> None:
        ids, change = self.some_ids(20), json.dumps(self.change()).encode()
        there = [id_ for id_ in ids if id_ in self.rig.model]
        assert self.run(self.any_worker().patch_ids(ids, change, False, None)) == len(there)
        self.learn_patch(there, change)

    def patch_where(self) -> None:
        filter, change = self.rng.choice(self.asked), json.dumps(self.change()).encode()
        wanted = matching(self.rig, filter)
        assert self.run(bulk.patch(self.any_worker(), parsed(filter), change, None)) == len(wanted)
        self.learn_patch(wanted, change)

    def learn_patch(self, ids: list[int], change: bytes) -> None:
        merge = merge_patch(change)
        for id_ in ids:
            vector, old = self.rig.model[id_]
            self.rig.model[id_] = (vector, merge(old))

    def delete(self) -> None:
        self.rig.delete(self.some_ids(4))

    def delete_where(self) -> None:
        filter = self.draw()
        wanted = matching(self.rig, filter)
        assert self.run(bulk.delete(self.any_worker(), parsed(filter), None)) == len(wanted)
        for id_ in wanted:
            del self.rig.model[id_]

    def delete_all(self) -> None:
        self.rig.delete_all()

    def seal(self) -> None:
        if self.sealing is not None:
            self.sealing.publish()
            self.sealing = None
        elif self.rng.randrange(2):
            self.sealing = self.rig.seal_under_way()
        else:
            self.rig.seal()

    def merge(self) -> None:
        if self.building is not None:
            self.building.publish()
            self.building = None
        elif self.rng.randrange(2):
            self.building = self.rig.build_under_way()
        else:
            self.rig.merge()

    def publish(self) -> None:
        for under_way in (self.sealing, self.building):
            if under_way is not None:
                under_way.publish()
        self.sealing = self.building = None

    def late_looks(self) -> None:
        """Follows, as for a search without a filter."""
        self.late.view()

    def release(self) -> None:
        if self.held is not None:
            self.held.release()

    def reopen(self) -> None:
        self.reopened = self.rig.worker()

    def restart(self) -> None:
        """With columns files that were lost or damaged meanwhile, now and then."""
        self.publish()
        self.rig.close()
        for file in sorted((self.rig.folder / SEGMENTS_NAME).glob("*.npz")):
            self.rng.choice([lambda _: None, Path.unlink, cut, spoil])(file)
        recover(self.rig.data)
        self.rig = self._rig(Rig(self.rig.data, copied_from=self.rig, **self._options()))
        self.open()

    def any_worker(self) -> Collection:
        return self.rng.choice((self.eager, self.reopened))

    # ---------------------------------------------------------------- judging

    def compare(self, workers: list[Collection], asked: list[dict[str, Any]]) -> None:
        k = self.rng.randrange(1, 12) if self.indexed else None
        pages = (100, MIN_ROWS + IDS) if self.indexed else (5, 100, 100)
        for filter in asked:
            for worker in workers:
                self.run(judge(self.rig, worker, filter, self.rng.choice(pages), k))
                self.compared += 1


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def spoil(file: Path) -> None:
    flip(file, file.stat().st_size // 2)


ACTS: tuple[tuple[Callable[[History], None], int], ...] = (
    (History.add, 6),
    (History.upsert, 4),
    (History.upsert_directly, 3),
    (History.patch, 6),
    (History.patch_vector, 1),
    (History.patch_ids, 3),
    (History.patch_where, 3),
    (History.delete, 2),
    (History.delete_where, 1),
    (History.delete_all, 1),
    (History.seal, 10),
    (History.merge, 6),
    (History.late_looks, 2),
    (History.release, 2),
    (History.reopen, 2),
    (History.restart, 2),
)


@pytest.fixture
def folder() -> Any:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as name:
        yield Path(name)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_answer_is_the_references(seed: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if seed % 2:
        monkeypatch.setattr(fields, "BLOCK_ROWS", 5)
        for module, bounds in SMALL.items():
            for name, bound in bounds.items():
                monkeypatch.setattr(module, name, bound)
    history = History(folder / "data", seed)
    acts, weights = zip(*ACTS, strict=True)
    try:
        for _ in range(STEPS):
            history.rng.choices(acts, weights)[0](history)
            asked = [*history.rng.sample(history.asked, 3), history.draw(), history.draw()]
            history.compare([history.eager, history.reopened], asked)
        history.compare([history.late], history.asked)
        history.publish()
        history.rig.seal()
        history.rig.merge()
        history.compare([history.eager, history.late, history.rig.worker()], history.asked)
        history.rig.assert_sound()
    finally:
        history.close()
    assert history.compared * len(SEEDS) >= CASES
