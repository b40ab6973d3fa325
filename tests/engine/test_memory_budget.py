"""An index that does not fit is refused before anything is built, and said; what is there goes on serving."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from app.engine import errors, policy
from app.engine.agreement import refuse_misfit
from app.engine.describe import describe
from app.engine.policy import Grounds
from app.engine.types import IndexSpec
from index.memory import Budget, building_bytes, serving_bytes
from index.parameters import fitted
from storage import catalogue
from storage.catalogue import Settings
from tests.engine.rig import Rig

DIMENSION, ROWS, MORE = 16, 1200, 900


def needs(rows: int, kind: str = "ivf") -> int:
    """The least budget under which an index of that kind is built."""
    params = fitted(kind, {}, rows, DIMENSION, 0.9)
    shape = (rows, DIMENSION, "float32", "l2")
    whole = serving_bytes(kind, params, *shape, 1) + building_bytes(kind, params, *shape)
    half = Budget(1 << 40, 1).for_indexes / (1 << 40)
    return int(whole / half) + 2


class Cloud(Rig):
    def vectors(self, n: int) -> NDArray[np.float32]:
        first, self._drawn = self._drawn, self._drawn + n
        return np.random.default_rng(first).standard_normal((n, self.dimension)).astype(np.float32)


def cloud(data: Path, memory_bytes: int, kind: str = "hnsw") -> Cloud:
    return Cloud(data, dimension=DIMENSION, index=kind, index_min_rows=256, memory_bytes=memory_bytes, durable=False)


def state(rig: Rig, memory_bytes: int) -> dict[str, object]:
    answer: dict[str, object] = describe("c", rig.folder, rig.db, Grounds(256, memory_bytes, 1))["index"]
    return answer


@pytest.fixture
def grown(tmp_path: Path) -> Iterator[tuple[Cloud, int]]:
    """A graph that fits, and rows with which it does not any more."""
    memory = (needs(ROWS, "hnsw") + needs(ROWS + MORE, "hnsw")) // 2
    rig = cloud(tmp_path / "data", memory)
    rig.upsert_directly(list(range(ROWS)))
    rig.merge()
    assert state(rig, memory)["state"] == "ready"
    rig.upsert_directly(list(range(ROWS, ROWS + MORE)))
    rig.merge()
    yield rig, memory
    rig.close()


def test_what_does_not_fit_is_said_and_searched_exactly(tmp_path: Path) -> None:
    memory = needs(ROWS, "hnsw") - 4
    rig = cloud(tmp_path / "data", memory)
    try:
        rig.upsert_directly(list(range(ROWS)))
        rig.merge()
        assert [s.index for s in rig.segments()] == [None]
        index = state(rig, memory)
        assert index["state"] == "failed" and index["pending"] == ROWS
        assert "too little memory" in str(index["reason"]) and "searched exactly" in str(index["reason"])
        assert not rig.building.step(), "nothing is tried over and over"
        rig.assert_seen(rig.worker())
    finally:
        rig.close()


def test_more_memory_at_the_next_start_and_it_is_built(tmp_path: Path) -> None:
    rig = cloud(tmp_path / "data", needs(ROWS, "hnsw") - 4)
    rig.upsert_directly(list(range(ROWS)))
    rig.merge()
    rig.close()
    enough = needs(ROWS, "hnsw")
    again = Cloud(tmp_path / "data", dimension=DIMENSION, index_min_rows=256, memory_bytes=enough, copied_from=rig)
    try:
        again.merge()
        assert [s.index is not None for s in again.segments()] == [True]
        assert state(again, enough)["state"] == "ready"
    finally:
        again.close()


def test_an_index_that_serves_is_not_given_up_for_a_merge_that_could_have_none(grown: tuple[Cloud, int]) -> None:
    rig, memory = grown
    assert sorted((s.rows, s.index is not None) for s in rig.segments()) == [(MORE, True), (ROWS, True)]
    assert state(rig, memory)["state"] == "ready"
    rig.assert_sound()
    rig.assert_seen(rig.worker())


def test_others_are_still_brought_together(grown: tuple[Cloud, int]) -> None:
    rig, _ = grown
    for step in range(6):
        first = ROWS + MORE + 20 * step
        rig.upsert_directly(list(range(first, first + 20)))
        rig.merge()
    assert len(rig.segments()) <= 4
    assert {ROWS, MORE} <= {s.rows for s in rig.segments()}


def test_a_kind_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    stored = Settings(DIMENSION, "l2", "float32", "int", 0.9, asdict(IndexSpec("flat")), catalogue.now())
    grounds = Grounds(256, 1 << 20, 2)
    with pytest.raises(errors.InsufficientMemory) as refused:
        refuse_misfit(IndexSpec("hnsw"), stored, 5_000_000, grounds)
    assert "hnsw" in refused.value.detail and f"{1 << 19:,}" in refused.value.detail
    refuse_misfit(IndexSpec("flat"), stored, 5_000_000, grounds)
    refuse_misfit(IndexSpec("hnsw"), stored, 5_000_000, replace(grounds, memory_bytes=1 << 40))
    refuse_misfit(IndexSpec("hnsw"), stored, 0, grounds)


def test_what_would_fit_is_said(tmp_path: Path) -> None:
    rows = 5_000_000
    stored = Settings(DIMENSION, "l2", "float32", "int", 0.9, asdict(IndexSpec("flat")), catalogue.now())
    ivf, hnsw = needs(rows, "ivf"), needs(rows, "hnsw")
    assert ivf < hnsw
    with pytest.raises(errors.InsufficientMemory, match="kind ivf would fit"):
        refuse_misfit(IndexSpec("hnsw"), stored, rows, Grounds(256, (ivf + hnsw) // 2, 1))


def test_lists_greater_than_the_rows_are_refused(tmp_path: Path) -> None:
    stored = Settings(DIMENSION, "l2", "float32", "int", 0.9, asdict(IndexSpec("flat")), catalogue.now())
    grounds = Grounds(256, 1 << 40, 2)
    with pytest.raises(errors.OutOfRange) as refused:
        refuse_misfit(IndexSpec("ivf", {"nlist": 101}), stored, 100, grounds)
    assert [fault.where for fault in refused.value.faults] == ["nlist"]
    refuse_misfit(IndexSpec("ivf", {"nlist": 100}), stored, 100, grounds)
    refuse_misfit(IndexSpec("ivf", {"nlist": 101}), stored, 0, grounds)


def test_policy_is_the_same_for_builder_and_describe(grown: tuple[Cloud, int]) -> None:
    rig, memory = grown
    grounds = Grounds(256, memory, 1)
    settings, now = catalogue.read_settings(rig.db), catalogue.read_state(rig.db)
    assert policy.is_settled(settings, now, rig.segments(), grounds)
    assert not policy.is_settled(settings, now, rig.segments(), replace(grounds, memory_bytes=1 << 40))
