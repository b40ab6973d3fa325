"""What makes an index due, and what does not: by rows on paper."""

from dataclasses import replace
from typing import Any

import pytest

from app.engine import policy
from app.engine.policy import Grounds
from index.load import META_VERSION
from storage import catalogue
from storage.catalogue import IndexRow, Rejection, SegmentRow, Settings, State

ROWS, DIMENSION = 1_000_000, 128
GROUNDS = Grounds(5000, 1 << 50, 2)
STATE = State()


def settings(kind: str = "auto", recall: float = 0.95) -> Settings:
    return Settings(DIMENSION, "l2", "float32", "int", recall, {"kind": kind, "params": {}}, catalogue.now())


def meta(best: float, built_for: float = 0.95) -> dict[str, Any]:
    """Of an index that finds so much at its best."""
    points = [
        {"params": {"ef_search": 16}, "recall": 0.9, "lower": 0.89, "cost_us": 50.0},
        {"params": {"ef_search": 99}, "recall": best + 0.002, "lower": best, "cost_us": 500.0},
    ]
    calibration = {"on": "data", "fronts": [{"k": 10, "queries": 500, "points": points}]}
    return {"version": META_VERSION, "calibration": calibration, "recall": built_for}


def segment(kind: str = "ivf", seq: int = 1, rows: int = ROWS, **described: Any) -> SegmentRow:
    index = IndexRow(seq, f"{seq}.faiss", kind, STATE.spec_seq, 1, "", described)
    return SegmentRow(seq, f"{seq}.h5", rows, 1, rows, rows * DIMENSION * 4, "", index)


def due(want: Settings, *segments: SegmentRow, state: State = STATE) -> list[tuple[str, int]]:
    return [job.name for job in policy.jobs(want, state, segments, GROUNDS, quiet=True)]


def test_auto_takes_another_family_above_some_recall() -> None:
    """What the tests below rest on."""
    kinds = [policy.wanted(settings(recall=recall), ROWS, GROUNDS) for recall in (0.95, 0.99)]
    assert [kind and kind[0] for kind in kinds] == ["ivf", "hnsw"]


@pytest.mark.parametrize("kind", ["auto", "ivf"])
def test_a_recall_that_the_index_reaches_builds_nothing(kind: str) -> None:
    assert due(settings(kind, 0.99), segment(**meta(best=0.991))) == []


def test_a_recall_that_it_does_not_reach_builds_what_would_have_been_built_for_it() -> None:
    assert due(settings(recall=0.99), segment(**meta(best=0.98))) == [("build", 1)]


def test_not_where_the_same_would_be_built_again() -> None:
    assert due(settings("ivf", 0.99), segment(**meta(best=0.98))) == []


def test_nor_where_it_was_built_for_that_recall() -> None:
    assert due(settings(recall=0.99), segment("hnsw", **meta(best=0.98, built_for=0.99))) == []


def test_a_lower_recall_builds_nothing() -> None:
    assert due(settings(recall=0.9), segment("hnsw", **meta(best=0.999, built_for=0.99))) == []


def test_a_family_that_serves_is_grown_though_auto_would_begin_with_another() -> None:
    have = segment(**meta(best=0.991)).index
    assert have is not None
    want = policy.wanted_to_grow(settings(recall=0.99), STATE, ROWS + ROWS // 10, GROUNDS, have)
    assert want is not None and want[0] == "ivf"
    short = replace(have, meta=meta(best=0.98))
    assert policy.wanted_to_grow(settings(recall=0.99), STATE, ROWS + ROWS // 10, GROUNDS, short) is None


def test_earlier_versions_and_other_specifications_are_due() -> None:
    assert due(settings(), segment(**meta(0.97) | {"version": META_VERSION - 1})) == [("build", 1)]
    assert due(settings(), segment(**meta(0.97)), state=State(spec_seq=2)) == [("build", 1)]


def test_cancelled_nothing_is_built_and_no_index_given_up() -> None:
    cancelled = State(spec_seq=2, cancelled_seq=2)
    indexed, also = segment(**meta(0.97)), segment(seq=2, **meta(0.97))
    assert due(settings(), indexed, also, state=cancelled) == []
    bare = [replace(segment(seq=seq), index=None) for seq in (3, 4)]
    assert due(settings(), indexed, *bare, state=cancelled) == [("merge", 4)], "what has no index loses none"


def test_rejected_is_so_for_one_specification() -> None:
    bare = replace(segment(), index=None, rejected=Rejection(1, STATE.spec_seq, "build", "found 0.5"))
    assert due(settings(), bare) == []
    assert due(settings(), bare, state=State(spec_seq=2)) == [("build", 1)]


def test_one_merge_rejected_holds_up_no_other() -> None:
    large = replace(segment(**meta(0.97)), rejected=Rejection(1, STATE.spec_seq, "merge", "found 0.5"))
    others = [segment(seq=seq, rows=200_000, **meta(0.97)) for seq in (2, 3)]
    assert due(settings(), large, *others) == [("merge", 3)]
    free = replace(large, rejected=None)
    assert policy.jobs(settings(), STATE, (free, *others), GROUNDS, quiet=True)[0].segments == tuple(others)
    merged = segment(seq=4, rows=400_000, **meta(0.97))
    assert due(settings(), large, merged) == []
    assert due(settings(), free, merged) == [("merge", 4)]


def test_an_unreachable_memory_builds_nothing_and_is_told() -> None:
    scant = replace(GROUNDS, memory_bytes=1 << 20)
    bare = replace(segment(), index=None)
    assert policy.jobs(settings("hnsw"), STATE, (bare,), scant, quiet=True) == []
    lack = policy.lack_of_memory(settings("hnsw"), STATE, (bare,), scant)
    assert lack is not None and lack.budget < lack.estimate
    assert policy.lack_of_memory(settings("hnsw"), STATE, (segment("hnsw", **meta(0.97)),), scant) is None
