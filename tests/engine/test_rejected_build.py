"""An index that does not find what is there never serves; it is tried once, and said."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from app.engine.describe import describe
from app.engine.policy import Grounds
from index import checking
from storage.catalogue import IndexRow
from tests.engine.rig import MANY, Rig

DIMENSION, ROWS, FEW = 4, 17_000, 1200
FAR = 300.0
GROUNDS = Grounds(256, MANY**2, 1)


class Blurred(Rig):
    """Most of its vectors lie so close together, beside a few far out, that a 4-bit code cannot tell them apart."""

    even = False

    def vectors(self, n: int) -> NDArray[np.float32]:
        first, self._drawn = self._drawn, self._drawn + n
        rng = np.random.default_rng(first)
        scales = FAR if self.even else np.where(rng.random((n, 1)) < 0.1, FAR, 1.0)
        return (scales * rng.standard_normal((n, self.dimension))).astype(np.float32)


@pytest.fixture
def blurred(tmp_path: Path) -> Iterator[Blurred]:
    made = Blurred(tmp_path / "data", dimension=DIMENSION, index="ivf", index_min_rows=256, durable=False)
    yield made
    made.close()


def index_of(rig: Rig) -> dict[str, object]:
    answer: dict[str, object] = describe("c", rig.folder, rig.db, GROUNDS)["index"]
    return answer


def attempts(caplog: pytest.LogCaptureFixture) -> int:
    return sum("rejected" in record.getMessage() for record in caplog.records)


def served(rig: Rig) -> list[tuple[int, IndexRow | None]]:
    return sorted(((s.rows, s.index) for s in rig.segments()), key=lambda pair: pair[0])


def test_a_rejected_build_is_said_and_not_tried_again(blurred: Blurred, caplog: pytest.LogCaptureFixture) -> None:
    blurred.upsert_directly(list(range(ROWS)))
    blurred.merge()
    assert attempts(caplog) == 1
    assert served(blurred) == [(ROWS, None)]
    assert blurred.files() == sorted(name for row in blurred.segments() for name in row.files), "nothing is left of it"
    index = index_of(blurred)
    assert index["state"] == "failed" and index["kind"] == "flat"
    for words in ("rejected", "of the true 10 nearest", "searched exactly", "PUT …/index"):
        assert words in str(index["reason"])

    blurred.upsert_directly(list(range(ROWS, ROWS + 50)))  # other work comes, and is done
    blurred.merge()
    assert attempts(caplog) == 1
    assert index_of(blurred)["state"] == "failed"
    assert blurred.worker().view().state.live == len(blurred.model)
    blurred.assert_sound()

    blurred.write(lambda turn: turn.set_index_spec({"kind": "hnsw", "params": {}}))
    blurred.merge()
    assert index_of(blurred)["state"] == "ready" and index_of(blurred)["reason"] is None
    assert all(row.rejected is None for row in blurred.segments())


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Blurred]:
    """With an index that is good enough."""
    made = Blurred(tmp_path / "data", dimension=DIMENSION, index="ivf", index_min_rows=256, durable=False)
    made.even = True
    made.upsert_directly(list(range(FEW)))
    made.merge()
    assert index_of(made)["state"] == "ready"
    yield made
    made.close()


@pytest.fixture
def strict(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on nothing is good enough."""
    monkeypatch.setattr(checking, "LEAST", 1.01)


@pytest.mark.usefixtures("strict")
def test_the_index_from_before_serves_on(rig: Blurred, caplog: pytest.LogCaptureFixture) -> None:
    before = served(rig)
    rig.write(lambda turn: turn.set_index_spec({"kind": "hnsw", "params": {}}))
    rig.merge()
    assert attempts(caplog) == 1 and served(rig) == before
    index = index_of(rig)
    assert index["state"] == "failed" and index["kind"] == "ivf"
    assert "the index from before serves on" in str(index["reason"])
    rig.assert_sound()


@pytest.mark.usefixtures("strict")
def test_a_merge_whose_index_is_rejected_leaves_its_inputs(rig: Blurred, caplog: pytest.LogCaptureFixture) -> None:
    """What was fast must not turn slow."""
    (_, indexed), *_ = served(rig)
    rig.upsert_directly(list(range(FEW, 2 * FEW - 100)))
    rig.merge()
    assert served(rig) == [(FEW - 100, None), (FEW, indexed)]
    tried = attempts(caplog)
    assert tried == 2, "the merge, and the index of what came by itself"
    index = index_of(rig)
    assert index["state"] == "failed" and "its segments serve as they are" in str(index["reason"])
    assert rig.files() == sorted(name for row in rig.segments() for name in row.files), "nothing is left of it"

    for step in range(5):  # what comes later is brought together all the same
        first = 3 * FEW + 15 * step
        rig.upsert_directly(list(range(first, first + 15)))
        rig.merge()
    assert attempts(caplog) == tried
    assert (FEW, indexed) in served(rig) and len(rig.segments()) <= 4
    rig.assert_seen(rig.worker())
    rig.assert_sound()


def test_what_was_rejected_is_tried_again_where_it_is_merged(rig: Blurred, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checking, "LEAST", 1.01)
        rig.write(lambda turn: turn.set_index_spec({"kind": "ivf", "params": {"nlist": 4}}))
        rig.merge()
    assert index_of(rig)["state"] == "failed"
    rig.merge()
    assert index_of(rig)["state"] == "failed"
    rig.upsert_directly(list(range(FEW, FEW + FEW // 2)))
    rig.merge()
    assert index_of(rig)["state"] == "ready"
    assert [(s.rows, s.rejected) for s in rig.segments()] == [(FEW + FEW // 2, None)]


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
