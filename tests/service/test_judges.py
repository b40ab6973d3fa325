"""The judges themselves: an oracle or ledger that lets a wrong answer pass would make every other test worthless."""

from typing import Any

import numpy as np
import pytest

from tests.ledger import Id, Ledger
from tests.oracle import Oracle

VECTORS = np.array([[1, 0], [0, 1], [3, 4], [1, 0]], np.float32)
QUERY = np.array([1, 0], np.float32)


def filled(metric: str) -> Oracle:
    oracle = Oracle(2, metric)
    oracle.put([10, 11, 12, 13], VECTORS, [{"n": 0}, None, {}, {"n": 3}])
    return oracle


def hits(*pairs: tuple[int, float]) -> list[dict[str, Any]]:
    return [{"id": id, "distance": distance} for id, distance in pairs]


def test_distances_follow_the_contract() -> None:
    ids, l2 = filled("l2").distances(QUERY)
    assert dict(zip(ids, l2.tolist(), strict=True)) == {10: 0, 11: 2**0.5, 12: 20**0.5, 13: 0}
    assert [round(d, 6) for _, d in filled("cosine").nearest(QUERY, 4)] == [0, 0, 0.4, 1]
    assert filled("dot").nearest(QUERY, 2) == [(12, -3), (10, -1)]


def test_right_answers_pass() -> None:
    oracle = filled("l2")
    right = hits((10, 0.0), (13, 0.0), (11, 2**0.5))
    assert oracle.judge(QUERY, 3, right, exact=True) == 1
    assert oracle.judge(QUERY, 1, hits((13, 0.0)), exact=True) == 1, "an equal distance is as good"
    assert oracle.judge(QUERY, 2, hits((10, 0.0), (12, 20**0.5)), exact=False) == 0.5
    assert oracle.judge(QUERY, 9, hits((13, 0.0), (11, 2**0.5), (12, 20**0.5)), exact=True, without=10) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        hits((10, 0.0), (13, 0.0)),  # too few
        hits((10, 0.0), (10, 0.0), (13, 0.0)),  # twice
        hits((13, 0.0), (10, 0.0), (11, 2**0.5)),  # ids of a tie out of order
        hits((10, 0.0), (11, 2**0.5), (13, 0.0)),  # distances out of order
        hits((10, 0.0), (13, 0.0), (12, 20**0.5)),  # not the nearest
        hits((10, 0.0), (13, 0.0), (11, 1.414)),  # a wrong distance
        hits((10, 0.0), (13, 0.0), (99, 0.1)),  # not there
    ],
)
def test_wrong_answers_fail(wrong: list[dict[str, Any]]) -> None:
    with pytest.raises(AssertionError):
        filled("l2").judge(QUERY, 3, wrong, exact=True)


def test_stored_items_are_compared_bit_for_bit() -> None:
    oracle = Oracle(2, "l2", "float16")
    oracle.put([1], np.array([[0.1, 2]]), [{"a": 1}])
    stored: dict[str, Any] = {"vector": [float(np.float16(0.1)), 2.0], "metadata": {"a": 1}}
    oracle.judge_stored({1: stored})
    faulty: list[dict[Id, Any]] = [{1: stored | {"vector": [0.2, 2]}}, {1: stored | {"metadata": {"a": 2}}}, {}]
    faulty.append({1: stored, 2: stored})
    for wrong in faulty:
        with pytest.raises(AssertionError):
            oracle.judge_stored(wrong)
    assert oracle.remove([1, 2]) == 1
    oracle.judge_stored({})


def test_ledger_allows_doubts_and_nothing_else() -> None:
    a, b = VECTORS[:1], VECTORS[2:3]
    served_a: dict[Id, Any] = {1: {"vector": [1, 0]}}
    served_b: dict[Id, Any] = {1: {"vector": [3, 4]}}
    neither: dict[Id, Any] = {}
    ledger = Ledger()
    ledger.announce([1], a)
    for possible in (neither, served_a):
        doubtful = Ledger()
        doubtful.announce([1], a)
        doubtful.settle(possible)
    with pytest.raises(AssertionError):
        ledger.settle(served_b)
    ledger.acknowledge([1], a)
    with pytest.raises(AssertionError):
        ledger.settle({})
    ledger.announce([1], b)
    ledger.refuse([1])
    with pytest.raises(AssertionError):
        ledger.settle(served_b)
    ledger.settle(served_a)
    ledger.announce([1], None)
    ledger.acknowledge([1], None)
    with pytest.raises(AssertionError):
        ledger.settle(served_a)
    ledger.settle({})
