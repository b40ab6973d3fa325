"""What is told of a job while it runs: true within a factor of two once it can be known, and never backwards."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.engine import reporting
from app.engine.reporting import Reporter
from index.contract import Cancelled
from storage import catalogue
from tests.engine.rig import NeverStops, Rig

STEPS = 20


class Clock:
    """Goes on when it is told to: a busy machine makes no step longer than the others."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(reporting, "time", made)
    return made


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(reporting, "REPORT_S", 0.0)
    made = Rig(tmp_path / "data", durable=False)
    made.building_publisher.start_job("merge", 1)
    yield made
    made.close()


def reporter(rig: Rig, makes_an_index: bool = True) -> Reporter:
    return Reporter(rig.building_publisher, rig.state(), NeverStops(), makes_an_index)


def test_the_last_part_is_reckoned_by_its_own_clock(rig: Rig, clock: Clock) -> None:
    """However long the first took."""
    telling = reporter(rig)
    first = telling.first(0.05)
    for step in range(STEPS):
        clock.now += 0.02
        first((step + 1) / STEPS)
    job = catalogue.read_job(rig.db)
    assert job is not None and job.eta_s is None and 0.04 < job.progress <= 0.05
    last, begun = telling.last(after_s=0.5), clock.now
    told = []
    for step in range(STEPS):
        clock.now += 0.05
        last((step + 1) / STEPS)
        job = catalogue.read_job(rig.db)
        assert job is not None and job.eta_s is not None
        told.append((clock.now - begun, job.eta_s, job.progress))
    ends = clock.now - begun + 0.5
    for at, eta, _ in told[2:]:
        assert (ends - at) / 2 <= eta <= 2 * (ends - at) + 0.1
    assert [progress for *_, progress in told] == sorted(progress for *_, progress in told)
    assert 0.6 < told[-1][2] < 1, "what follows is still to come"


def test_a_job_that_is_no_longer_wanted_ends(rig: Rig) -> None:
    told = reporter(rig).last()
    told(0.1)
    rig.write(lambda turn: turn.cancel_build())
    with pytest.raises(Cancelled, match="cancelled"):
        told(0.2)
    rig.write(lambda turn: turn.set_index_spec({"kind": "hnsw", "params": {}}))
    with pytest.raises(Cancelled, match="another"):
        told(0.3)


def test_one_that_makes_no_index_goes_on(rig: Rig) -> None:
    told = reporter(rig, makes_an_index=False).last()
    rig.write(lambda turn: turn.cancel_build())
    told(0.2)
    rig.write(lambda turn: turn.set_index_spec({"kind": "hnsw", "params": {}}))
    told(0.3)
