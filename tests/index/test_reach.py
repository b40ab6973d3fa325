"""How far off a query may lie for what was measured to speak of it."""

from dataclasses import replace

import numpy as np
import pytest

from index.calibration import Calibration, Front
from index.contract import Metric
from index.reach import MIN_QUERIES, beyond, reach

RNG = np.random.default_rng(3)
QUERIES = RNG.normal(size=(1000, 8)).astype(np.float32)
KTH = np.linspace(1, 2, 1000, dtype=np.float32)


@pytest.mark.parametrize("metric", ["l2", "cosine", "dot"])
def test_one_in_a_thousand_lies_beyond(metric: Metric) -> None:
    lengths = np.linalg.norm(QUERIES, axis=1) if metric == "dot" else np.ones(1000)
    kth = (-KTH * lengths if metric == "dot" else KTH).astype(np.float32)
    within = reach(metric, QUERIES, kth)
    assert within is not None and beyond(metric, QUERIES, kth, within) == 1
    farther = kth + np.abs(kth).astype(np.float32)
    assert beyond(metric, QUERIES, farther, within) >= 999


def test_by_inner_product_the_length_of_a_query_changes_nothing() -> None:
    kth = (-KTH * np.linalg.norm(QUERIES, axis=1)).astype(np.float32)
    within = reach("dot", QUERIES, kth)
    assert within is not None
    for length in (0.01, 1.0, 300.0):
        assert beyond("dot", QUERIES * np.float32(length), kth * np.float32(length), within) <= 2


def test_few_queries_tell_nothing() -> None:
    few = MIN_QUERIES - 1
    assert reach("l2", QUERIES[:few], KTH[:few]) is None
    assert reach("l2", QUERIES[: few + 1], KTH[: few + 1]) is not None


def test_of_the_largest_k_up_to_the_one_asked_for() -> None:
    fronts = (Front(1, (), 900, 0.5), Front(10, (), 900, 0.75), Front(100, (), 60, None))
    known = Calibration(fronts)
    assert [known.reach(k) for k in (1, 5, 10, 99, 100, 5000)] == [(1, 0.5)] * 2 + [(10, 0.75)] * 4
    assert Calibration((fronts[2],)).reach(100) is None
    assert Calibration(fronts[1:]).reach(5) is None


def test_it_is_kept_and_older_files_lack_it() -> None:
    known = Calibration((Front(1, (), 900, 0.5), Front(10, (), 900)))
    assert Calibration.from_json(known.to_json()) == known
    old = known.to_json()
    for front in old["fronts"]:
        del front["reach"]
    assert Calibration.from_json(old) == replace(known, fronts=(Front(1, (), 900), Front(10, (), 900)))
