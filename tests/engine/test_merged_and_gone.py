"""What a merge has just written is emptied away before its last step: nothing is left to do, and nothing has failed."""

import logging
from pathlib import Path
from typing import Any

import pytest

from tests.engine.rig import Rig

ROWS = 60


def test_emptied_behind_its_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(tmp_path / "data", durable=False)
    try:
        for first in (0, ROWS):
            rig.upsert_directly(list(range(first, first + ROWS)))
        publisher = rig.building._c.publisher
        forget = publisher.forget_deaths
        emptied: list[bool] = []

        def empties(*given: Any) -> Any:
            emptied.append(True)
            rig.delete_all()
            return forget(*given)

        monkeypatch.setattr(publisher, "forget_deaths", empties)
        with caplog.at_level(logging.ERROR):
            rig.merge()
        assert emptied and not caplog.records
        assert rig.segments() == [] and rig.files() == []
        rig.assert_seen(rig.worker())
        rig.assert_sound()
    finally:
        rig.close()
