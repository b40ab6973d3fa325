"""A merge that builds an index is cancelled while it does: the inputs stay, and it is not begun again by itself."""

from pathlib import Path
from typing import Any

import pytest

from app.engine import reporting
from app.engine.describe import build_is_due
from app.engine.policy import Grounds
from tests.engine.rig import MANY, Rig

ROWS = 400
GROUNDS = Grounds(256, MANY**2, 1)


def test_it_ends_and_waits_for_another_wish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "REPORT_S", 0.0)
    rig = Rig(tmp_path / "data", index="hnsw", index_min_rows=256, durable=False)
    try:
        rig.upsert_directly(list(range(ROWS)))
        rig.merge()
        rig.upsert_directly(list(range(ROWS, 2 * ROWS)))
        before = rig.segments()
        assert build_is_due(rig.db, GROUNDS)

        begun: list[bool] = []
        write = rig.building._write_index

        def cancelled_now(*given: Any) -> Any:
            begun.append(True)
            rig.write(lambda turn: turn.cancel_build())
            return write(*given)

        monkeypatch.setattr(rig.building, "_write_index", cancelled_now)
        rig.merge()
        assert len(begun) == 1, "it is not begun again"
        assert rig.segments() == before
        assert rig.files() == sorted(name for row in before for name in row.files)
        assert not build_is_due(rig.db, GROUNDS)
        monkeypatch.undo()

        rig.write(lambda turn: turn.set_index_spec({"kind": "hnsw", "params": {}}))
        assert build_is_due(rig.db, GROUNDS)
        rig.merge()
        assert [(row.rows, row.index is not None) for row in rig.segments()] == [(2 * ROWS, True)]
        rig.assert_seen(rig.worker())
        rig.assert_sound()
    finally:
        rig.close()


def test_a_merge_without_an_index_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "REPORT_S", 0.0)
    rig = Rig(tmp_path / "data", index="hnsw", durable=False)
    try:
        for first in (0, ROWS):
            rig.upsert_directly(list(range(first, first + ROWS)))
        rig.write(lambda turn: turn.cancel_build())
        rig.merge()
        assert [row.rows for row in rig.segments()] == [2 * ROWS]
    finally:
        rig.close()
