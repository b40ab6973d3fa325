"""What happens between the moment when a filter was asked and the moment when its answer is used, place by place."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from app.engine import bulk, planning, reading
from app.engine.errors import IdempotencyMismatch
from app.engine.types import EXACTLY, Asked, Idempotency
from tests.engine.filter_judge import at_rest, matching, parsed
from tests.engine.filter_races import (
    ODD,
    PATCH,
    Between,
    added,
    added_and_patched,
    change,
    check,
    deleted,
    deleted_and_added_again,
    emptied,
    emptied_and_filled,
    merged_after_changes,
    nothing,
    patched_and_back,
    patched_in,
    patched_out,
    put,
    sealed,
    sealed_after_a_patch,
    stored_directly,
    upserted_in_and_out,
    vector_patched,
    worker_with,
)
from tests.engine.rig import Rig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "data", durable=False)
    yield rig
    rig.close()


BETWEEN = (
    (nothing, 1),
    (patched_in, 1),
    (patched_out, 1),
    (patched_and_back, 1),
    (added, 1),
    (added_and_patched, 1),
    (deleted, 1),
    (deleted_and_added_again, 1),
    (upserted_in_and_out, 1),
    (vector_patched, 1),
    (sealed, 2),
    (sealed_after_a_patch, 2),
    (merged_after_changes, 2),
    (stored_directly, 2),
    (emptied, 2),
    (emptied_and_filled, 2),
)
"""What is committed between the view and the transaction, and how often the filter has to be asked of a view."""


@pytest.mark.parametrize("bulk_write", ["delete", "patch"])
@pytest.mark.parametrize(("between", "turns"), BETWEEN, ids=[act.__name__ for act, _ in BETWEEN])
def test_exactly_what_matches_in_the_transaction(
    rig: Rig, between: Callable[[Rig], None], turns: int, bulk_write: str
) -> None:
    """Rows 0 to 5 are sealed, 6 to 11 pend."""
    put(rig, list(range(6)))
    rig.seal()
    put(rig, list(range(6, 12)))
    writers = Between(before=[lambda: between(rig)])
    worker, other = worker_with(rig, writers=writers), rig.worker()
    check(rig, other)
    if bulk_write == "delete":
        changed = at_rest(bulk.delete(worker, parsed(ODD), None))
    else:
        changed = at_rest(bulk.patch(worker, parsed(ODD), json.dumps(PATCH).encode(), None))
    wanted = matching(rig, ODD)
    assert changed == len(wanted) and writers.submitted == turns
    change(rig, wanted, bulk_write)
    check(rig, worker, other)
    rig.seal()
    rig.merge()
    check(rig, worker, other)
    rig.assert_sound()


def test_too_much_between_is_asked_of_a_new_view(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "ASKED_AGAIN", 3)
    put(rig, list(range(10)))
    writers = Between(before=[lambda: [rig.patch(id_, {"odd": True}) for id_ in (0, 2, 4)] and None])
    worker = worker_with(rig, writers=writers)
    assert at_rest(bulk.delete(worker, parsed(ODD), None)) == 8 and writers.submitted == 2
    change(rig, matching(rig, ODD), "delete")
    check(rig, worker)


@pytest.mark.parametrize("bulk_write", ["delete", "patch"])
def test_the_same_key_is_answered_once(rig: Rig, bulk_write: str) -> None:
    """Also where by then other rows match."""
    put(rig, list(range(6)))
    worker, first = rig.worker(), Idempotency("k", "a")

    def send(idempotency: Idempotency) -> int:
        if bulk_write == "delete":
            return at_rest(bulk.delete(worker, parsed(ODD), idempotency))
        return at_rest(bulk.patch(worker, parsed(ODD), json.dumps(PATCH).encode(), idempotency))

    assert send(first) == 3
    change(rig, [1, 3, 5], bulk_write)
    put(rig, [11, 13])
    assert send(first) == 3
    check(rig, worker)
    with pytest.raises(IdempotencyMismatch):
        send(Idempotency("k", "another request"))
    assert send(Idempotency("l", "a")) == 2
    change(rig, [11, 13], bulk_write)
    check(rig, worker)


# -------------------------------------------------------------------- between an answer and its metadata


@pytest.mark.parametrize("times", [1, 2, reading.TRIES])
def test_a_hit_matches_what_is_shown(rig: Rig, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """It is patched after it was found, and before its metadata is read, as often as the search is tried again."""
    monkeypatch.setattr(planning, "LOOP_US", -1.0)
    put(rig, list(range(12)))
    rig.seal()
    outs = [lambda id_=id_: rig.patch(id_, {"odd": False}) and None for id_ in (1, 3, 5, 7)[:times]]
    searchers = Between(after=list(outs))
    worker = worker_with(rig, searchers=searchers)
    asked = Asked(20, EXACTLY, filter=parsed(ODD))
    found = at_rest(reading.find(worker, np.ones((1, 4), np.float32), asked)).hits.items
    assert not searchers.after
    assert sorted(found.ids) == matching(rig, ODD)
    assert found.metadata == [rig.model[id_][1] for id_ in found.ids]


@pytest.mark.parametrize("act", [patched_out, deleted, upserted_in_and_out, emptied], ids=lambda act: act.__name__)
def test_a_page_matches_what_is_shown(rig: Rig, monkeypatch: pytest.MonkeyPatch, act: Callable[[Rig], None]) -> None:
    monkeypatch.setattr(reading, "LOOP_ROWS", -1)
    put(rig, list(range(12)))
    rig.seal()
    worker = worker_with(rig, searchers=Between(after=[lambda: act(rig)]))
    page = at_rest(reading.walk(worker, 100, None, frozenset({"metadata"}), parsed(ODD)))
    assert sorted(page.items.ids) == matching(rig, ODD)
    assert page.items.metadata == [rig.model[id_][1] for id_ in page.items.ids]
