"""An index that does not find what is there never serves; it is tried once, and said."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from app.engine.describe import describe
from app.engine.policy import Grounds
from storage.catalogue import IndexRow
from tests.engine.rig import MANY, Rig

DIMENSION, ROWS = 4, 17_000
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


def test_the_index_from_before_serves_on(blurred: Blurred, caplog: pytest.LogCaptureFixture) -> None:
    blurred.write(lambda turn: turn.set_index_spec({"kind": "hnsw", "params": {}}))
    blurred.upsert_directly(list(range(ROWS)))
    blurred.merge()
    before = served(blurred)
    assert before[0][1] is not None

    blurred.write(lambda turn: turn.set_index_spec({"kind": "ivf", "params": {}}))
    blurred.merge()
    assert attempts(caplog) == 1 and served(blurred) == before
    index = index_of(blurred)
    assert index["state"] == "failed" and index["kind"] == "hnsw"
    assert "the index from before serves on" in str(index["reason"])
    blurred.assert_sound()


def test_a_merge_whose_index_is_rejected_leaves_its_inputs(blurred: Blurred, caplog: pytest.LogCaptureFixture) -> None:
    """What was fast must not turn slow: the even part keeps its index."""
    blurred.even = True
    blurred.upsert_directly(list(range(ROWS)))
    blurred.merge()
    indexed = served(blurred)[0][1]
    assert indexed is not None

    blurred.even = False
    blurred.upsert_directly(list(range(ROWS, 2 * ROWS - 100)))
    blurred.merge()
    assert (ROWS, indexed) in served(blurred)
    assert (ROWS - 100, None) in served(blurred)
    tried = attempts(caplog)
    index = index_of(blurred)
    assert index["state"] == "failed" and "its segments serve as they are" in str(index["reason"])

    for step in range(4):  # what comes later is brought together all the same
        first = 3 * ROWS + 30 * step
        blurred.upsert_directly(list(range(first, first + 30)))
        blurred.merge()
    assert attempts(caplog) == tried
    assert (ROWS, indexed) in served(blurred) and len(blurred.segments()) <= 4
    assert blurred.worker().view().state.live == len(blurred.model)
    blurred.assert_sound()


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
