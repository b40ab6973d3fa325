"""Rule 1 where background work is made real: whatever is written between its snapshot and its publication stays so."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage import errors
from storage.catalogue import SegmentRow
from storage.failpoints import armed
from tests.engine.rig import Rig, UnderWay

ROWS = 300
Write = Callable[[Rig], object]

WRITES: dict[str, Write] = {
    "nothing": lambda rig: None,
    "delete": lambda rig: rig.delete([0, 1, 250, 299]),
    "delete most": lambda rig: rig.delete(list(range(290))),
    "upsert": lambda rig: rig.upsert([0, 1, 250, 299, 1000]),
    "large upsert": lambda rig: rig.upsert_directly([0, 1, 250, 299, 1000]),
    "patch metadata": lambda rig: [rig.patch(i, {"n": None, "a": 1}) for i in (0, 299)],
    "patch vector": lambda rig: [rig.patch(i, None, vector=True) for i in (0, 299)],
    "delete and add again": lambda rig: (rig.delete([0, 299]), rig.add([0, 299])),
    "delete all": lambda rig: rig.delete_all(),
    "delete all and add again": lambda rig: (rig.delete_all(), rig.add([0, 1, 299])),
}


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A segment with its index, made once."""
    made = Rig(tmp_path_factory.mktemp("indexed") / "data", index="hnsw", index_min_rows=256)
    made.upsert(list(range(ROWS)))
    made.seal()
    made.merge()
    yield made
    made.close()


@pytest.fixture
def rig(tmp_path: Path, indexed: Rig) -> Iterator[Rig]:
    shutil.copytree(indexed.data, tmp_path / "data")
    made = Rig(tmp_path / "data", index="hnsw", index_min_rows=256, copied_from=indexed)
    yield made
    made.close()


def seal_at_the_gap(rig: Rig) -> UnderWay:
    """Rows of which some replace sealed ones, and some died already."""
    rig.upsert([0, 1, 2, *range(400, 440)])
    rig.delete([2, 405])
    return rig.seal_under_way()


def merge_at_the_gap(rig: Rig) -> UnderWay:
    rig.upsert([0, 1, 2, *range(400, 440)])
    rig.seal()
    rig.delete([2, 405])
    return rig.build_under_way()


def rewrite_at_the_gap(rig: Rig) -> UnderWay:
    rig.delete(list(range(100, 200)))
    return rig.build_under_way()


def build_at_the_gap(rig: Rig) -> UnderWay:
    rig.delete([3, 4])
    rig.write(lambda turn: turn.set_index_spec({"kind": "hnsw", "params": {"m": 8}}))
    return rig.build_under_way()


JOBS = {
    "seal": seal_at_the_gap,
    "merge": merge_at_the_gap,
    "rewrite": rewrite_at_the_gap,
    "build": build_at_the_gap,
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("job", JOBS)
def test_written_between_snapshot_and_publication(rig: Rig, job: str, write: str) -> None:
    eager, late = rig.worker(), rig.worker()
    rig.assert_seen(eager)
    rig.assert_seen(late)
    under_way = JOBS[job](rig)
    assert under_way.at_the_gap, "the write comes in between"
    WRITES[write](rig)
    rig.assert_seen(eager)
    before = rig.state()
    under_way.publish()
    assert rig.state().live == before.live == len(rig.model)
    for reader in (eager, late, rig.worker()):
        rig.assert_seen(reader)
    rig.assert_sound()
    rig.seal()
    rig.merge()
    for reader in (eager, late, rig.worker()):
        rig.assert_seen(reader)
    rig.assert_sound(notes=False)
    named = {name for row in rig.segments() for name in row.files}
    assert set(rig.files()) == named, "what was given up is cleared away"


def test_a_seal_and_a_merge_overlap(rig: Rig) -> None:
    """Two processes: the merge read its deaths before the seal was published, and comes after it."""
    worker = rig.worker()
    rig.upsert(list(range(400, 440)))
    rig.seal()
    rig.upsert([0, 400, 500])
    merging = rig.build_under_way()
    rig.delete([1, 401])
    sealing = rig.seal_under_way()
    rig.upsert([500, 2])
    rig.assert_seen(worker)
    sealing.publish()
    rig.assert_seen(worker)
    rig.delete([500, 3])
    merging.publish()
    rig.assert_seen(worker)
    rig.assert_seen(rig.worker())
    rig.assert_sound()


# -------------------------------------------------------------------- what is given up


def new_segment(rig: Rig) -> SegmentRow:
    row = rig.segments()[0]
    return SegmentRow(99, "000099-x.h5", row.rows, row.base_key, row.span, row.bytes, row.xxh3)


def test_a_seal_from_before_the_emptying_is_stale(rig: Rig) -> None:
    rig.upsert([1000, 1001])
    last = rig.state().next_key - 1
    snapshot = rig.state().log_pos
    rig.delete_all()
    segment = SegmentRow(99, "000099-x.h5", 2, last - 1, 2, 1, "0" * 16)
    with pytest.raises(errors.Stale):
        rig.sealing_publisher.seal(segment, last, snapshot)
    assert rig.segments() == [] and rig.state().pending_rows == 0
    rig.assert_sound(notes=False)


def test_a_merge_whose_input_is_gone_is_stale(rig: Rig) -> None:
    gone = rig.segments()
    output = new_segment(rig)
    rig.delete_all()
    with pytest.raises(errors.Stale):
        rig.building_publisher.merge(gone, output, 0)
    index = gone[0].index
    assert index is not None
    with pytest.raises(errors.Stale):
        rig.building_publisher.add_index(index)
    assert rig.segments() == []


def test_a_dropped_collection_takes_no_publication(rig: Rig) -> None:
    rows = rig.segments()
    rig.db.execute("UPDATE state SET dropped = 1")
    publisher = rig.building_publisher
    for act in (
        publisher.reserve_seq,
        publisher.end_job,
        lambda: publisher.seal(None, 1, 0),
        lambda: publisher.merge(rows, None, 0),
        lambda: publisher.drop_index(rows[0].seq),
    ):
        with pytest.raises(errors.Dropped):
            act()
    assert rig.segments() == rows


@pytest.mark.parametrize("point", ["seal.commit", "database.commit:enospc:2"])
def test_a_seal_that_fails_leaves_the_rows_pending_and_no_file(rig: Rig, point: str) -> None:
    """(The commit's second hit: the first gives the segment its number.)"""
    rig.upsert([0, 1000])
    before, files = rig.state(), rig.files()
    with armed(point if ":" in point else f"{point}:enospc"), pytest.raises((OSError, errors.NoSpace)):
        rig.sealing.step()
    assert rig.files() == files and rig.state().pending_rows == before.pending_rows
    rig.assert_seen(rig.worker())
    rig.assert_sound(notes=False)


def test_an_unknown_outcome_keeps_the_files_of_a_seal(rig: Rig) -> None:
    rig.upsert([0, 1000])
    files = len(rig.files())
    with armed("database.commit:eio:2,database.settle:eio"), pytest.raises(errors.OutcomeUnknown):
        rig.sealing.step()
    assert len(rig.files()) == files + 2, "the segment and its columns"


def test_a_merge_that_fails_leaves_its_inputs(rig: Rig) -> None:
    rig.upsert(list(range(400, 440)))
    rig.seal()
    files = rig.files()
    with armed("merge.commit:enospc"):
        assert rig.building.step()
    assert rig.files() == files
    rig.assert_seen(rig.worker())
    rig.merge()
    assert len(rig.segments()) == 1
    rig.assert_sound(notes=False)


# -------------------------------------------------------------------- the log and the job row


def test_deaths_stay_as_long_as_a_segment_holds_their_key(rig: Rig) -> None:
    rig.delete([0, 1])
    rig.upsert([2, *range(400, 440)])
    assert rig.db.one("SELECT count(*) FROM deaths WHERE pending = 0") == (3,)
    rig.seal()
    assert rig.db.one("SELECT count(*) FROM deaths") == (3,)
    rig.merge()
    assert rig.db.one("SELECT count(*) FROM deaths") == (0,), "the merge left them out"


def test_sealing_does_not_look_at_all_deaths(rig: Rig) -> None:
    """It asks at every look, and up to a fifth of a collection may stand in the log (200,000: 5 ms without)."""
    for query in (
        "SELECT 1 FROM deaths WHERE pending = 1 LIMIT 1",
        "UPDATE deaths SET pending = 0 WHERE pending = 1 AND key <= 1",
        "DELETE FROM deaths WHERE pending = 1 AND key <= 1 AND pos <= 1",
    ):
        plan = rig.db.one(f"EXPLAIN QUERY PLAN {query}")
        assert plan is not None and "deaths_pending" in plan[-1], plan


def test_attempts_are_counted_over_processes_that_died(rig: Rig) -> None:
    publisher = rig.building_publisher
    assert [publisher.start_job("build", 1) for _ in range(3)] == [1, 2, 3]
    assert publisher.start_job("merge", 1) == 1
    publisher.fail_job("out of memory")
    assert rig.db.one("SELECT kind, reason FROM job") == ("merge", "out of memory")
    publisher.end_job()
    assert rig.db.one("SELECT count(*) FROM job") == (0,)
