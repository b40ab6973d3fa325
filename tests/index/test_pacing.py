"""What is told of long work: shares of the time, rising, to the end."""

import math

import pytest

from index.pacing import Phases, pieces, slowing


def test_phases_follow_each_other_by_what_they_cost() -> None:
    told: list[float] = []
    phases = Phases(told.append, {"first": 1.0, "nothing": 0.0, "second": 3.0})
    for name in ("first", "nothing", "second"):
        part = phases.part(name)
        for done in (0.0, 0.5, 1.0):
            part(done)
    assert told == pytest.approx([0, 0.125, 0.25, 0.25, 0.25, 0.25, 0.25, 0.625, 1])


def test_work_that_costs_nothing_is_done() -> None:
    told: list[float] = []
    Phases(told.append, {"first": 0.0}).part("first")(1.0)
    assert told == [0]


@pytest.mark.parametrize("before", [0, 5000])
def test_adding_to_a_graph_slows_down(before: int) -> None:
    told: list[float] = []
    progress = slowing(told.append, before, 10_000)
    costs = [math.log(max(row, 2)) for row in range(before, before + 10_000)]
    for share in (0.0, 0.25, 0.5, 1.0):
        progress(share)
        assert told[-1] == pytest.approx(sum(costs[: int(10_000 * share)]) / sum(costs), abs=0.001)


def test_pieces_cover_everything_once() -> None:
    covered = [row for piece in pieces(10_000, first=100, largest=3000) for row in range(10_000)[piece]]
    assert covered == list(range(10_000))
