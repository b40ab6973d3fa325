"""Rule 7: a view is never behind, however far its follower has fallen, and lets go of what is no longer needed."""

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from app.engine import view as views
from app.engine.errors import CollectionClosed, CollectionNotFound
from index.contract import Plan
from storage import catalogue
from storage.layout import SEGMENTS_NAME, segment_name
from storage.writes import Batch
from tests.engine.rig import Held, Rig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "data")
    yield made
    made.close()


def mapped_segments() -> list[str]:
    """Files of segments folders that this process maps or has open, deleted ones too."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)]
    return [text for text in lines + links if f"/{SEGMENTS_NAME}/" in text]


def _is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


def test_it_looks_again_only_when_something_was_committed(rig: Rig) -> None:
    worker = rig.worker()
    rig.upsert([1, 2])
    first = worker.view()
    assert worker.view() is first
    rig.delete([1])
    assert worker.view() is not first and len(first.pending.keys) == 2, "a view that is held does not change"
    rig.assert_seen(worker)


def test_a_row_that_died_pending_is_forgotten_without_a_trace_in_the_log(rig: Rig) -> None:
    """The sealer clears the log of rows that no segment ever held: who has not read it by then starts over."""
    rig.upsert([1, 2, 3])
    late = rig.worker()
    rig.assert_seen(late)
    generation = rig.state().generation
    rig.delete([1, 2, 3])
    rig.seal()
    assert rig.db.one("SELECT count(*) FROM deaths") == (0,) and rig.state().generation == generation
    rig.assert_seen(late)
    rig.assert_seen(rig.worker())


def test_some_died_pending_and_more_came(rig: Rig) -> None:
    rig.upsert([1, 2, 3])
    late = rig.worker()
    rig.assert_seen(late)
    rig.delete([1, 2, 3])
    rig.seal()
    rig.upsert([2, 4])
    rig.assert_seen(late)


def test_it_fell_behind_a_merge_that_trimmed_the_log(rig: Rig) -> None:
    rig.upsert(list(range(20)))
    rig.seal()
    late = rig.worker()
    rig.assert_seen(late)
    rig.delete(list(range(10)))
    rig.upsert([30, 31])
    rig.seal()
    rig.merge()
    assert rig.db.one("SELECT count(*) FROM deaths") == (0,)
    assert late.follower._view is not None and late.follower._view.state.log_pos < rig.state().trimmed_pos
    rig.assert_seen(late)


def test_a_file_that_goes_while_it_is_being_opened_is_looked_up_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of segments was read, then a merge took them away."""
    rig.upsert([1, 2])
    rig.seal()
    rig.upsert([3, 4])
    rig.seal()
    real, tries = views.open_one, 0

    def merged_meanwhile(folder: Path, row: views.SegmentRow) -> views.Part:
        nonlocal tries
        tries += 1
        if tries == 2:
            (folder / SEGMENTS_NAME / row.file).rename(folder / "away")
            try:
                return real(folder, row)  # type: ignore[return-value]
            finally:
                (folder / "away").rename(folder / SEGMENTS_NAME / row.file)
        return real(folder, row)  # type: ignore[return-value]

    monkeypatch.setattr(views, "open_one", merged_meanwhile)
    rig.assert_seen(rig.worker())
    assert tries == 3, "what was open already is not opened again"


def test_a_file_that_is_gone_for_good_closes_the_collection(rig: Rig) -> None:
    rig.upsert([1, 2])
    rig.seal()
    (rig.folder / SEGMENTS_NAME / rig.segments()[0].file).unlink()
    with pytest.raises(CollectionClosed, match="gone"):
        rig.worker().view()


def test_an_idle_one_lets_old_files_go(rig: Rig) -> None:
    """Looking once, without any request, is enough: merged files must not keep their disk space for ever."""
    for n in range(3):
        rig.upsert([n])
        rig.seal()
    worker = rig.worker()
    worker.view()
    old = [row.file for row in rig.segments()]
    rig.merge()
    assert len(rig.segments()) == 1
    held = mapped_segments()
    assert all(any(name in text for text in held) for name in old), "the test sees what is mapped"
    worker.view()
    held = mapped_segments()
    assert not any(name in text for text in held for name in old)
    assert any(rig.segments()[0].file in text for text in held)


def test_a_dropped_collection_is_no_longer_there(rig: Rig) -> None:
    worker = rig.worker()
    rig.upsert([1])
    worker.view()
    rig.registry.drop("c", rig.uuid)
    with pytest.raises(CollectionNotFound):
        worker.view()


# -------------------------------------------------------------------- while an index is being opened

ROWS = 400


@pytest.fixture
def indexed(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "data", index="hnsw", index_min_rows=256)
    made.upsert(list(range(ROWS)))
    made.seal()
    made.merge()
    yield made
    made.close()


def merged_again(rig: Rig) -> None:
    """A merge whose output has an index of its own."""
    rig.upsert(list(range(1000, 1100)))
    rig.seal()
    rig.merge()
    (row,) = rig.segments()
    assert row.index is not None


def opened(rig: Rig) -> tuple[views.Follower, Held]:
    held = Held()
    worker = rig.worker(held)
    worker.view()
    held.release()
    follower = worker.follower
    assert [part.segment.index is not None for part in follower.view().parts] == [True]
    return follower, held


def test_old_segments_serve_while_the_new_index_opens(indexed: Rig) -> None:
    follower, held = opened(indexed)
    old = follower.view().parts[0].segment.row.seq
    indexed.upsert(list(range(1000, 1100)))
    follower.view()
    indexed.seal()
    indexed.merge()
    view = follower.view()
    assert view.parts[0].segment.row.seq == old and view.parts[0].segment.index is not None
    held.release()
    assert follower.view().parts[0].segment.row.seq == indexed.segments()[0].seq


def test_what_is_written_meanwhile_is_seen_over_the_old_segments(tmp_path: Path, indexed: Rig) -> None:
    held = Held()
    worker = indexed.worker(held)
    worker.view()
    held.release()
    indexed.upsert(list(range(1000, 1100)))
    old = {part.segment.row.seq for part in worker.view().parts}
    indexed.seal()
    indexed.merge()
    indexed.assert_seen(worker)
    indexed.delete([0, 1, 1000])
    indexed.upsert([2, 1001, 5000])
    indexed.assert_seen(worker)
    assert {part.segment.row.seq for part in worker.view().parts} == old, "still the old ones"
    indexed.sealing.step()
    indexed.assert_seen(worker)
    held.release()
    indexed.assert_seen(worker)
    assert not {part.segment.row.seq for part in worker.view().parts} & old


def test_it_does_not_wait_where_only_the_new_segments_know(indexed: Rig) -> None:
    """Rows that were sealed before this worker ever saw them pend."""
    follower, held = opened(indexed)
    merged_again(indexed)
    view = follower.view()
    assert sum(part.live for part in view.parts) + view.pending.live == len(indexed.model)
    assert view.parts[0].segment.index is None, "exact until the index is open"
    held.release()
    assert follower.view().parts[0].segment.index is not None


def test_it_does_not_wait_where_the_log_has_lost_deaths(indexed: Rig) -> None:
    """A merge left out rows whose deaths this worker has not read: in the old segments they would live on."""
    held = Held()
    worker = indexed.worker(held)
    worker.view()
    held.release()
    indexed.upsert(list(range(1000, 1100)))
    worker.view()
    indexed.delete(list(range(150)))
    indexed.seal()
    indexed.merge()
    assert indexed.db.one("SELECT count(*) FROM deaths") == (0,)
    indexed.assert_seen(worker)


def test_it_does_not_wait_where_the_merge_alone_has_lost_them(indexed: Rig) -> None:
    """Nothing was sealed since: the merge itself says how far it has trimmed the log."""
    held = Held()
    worker = indexed.worker(held)
    worker.view()
    held.release()
    worker.view()
    before = indexed.state()
    indexed.delete(list(range(100)))
    indexed.merge()
    (row,) = indexed.segments()
    assert row.index is not None and before.trimmed_pos < indexed.state().trimmed_pos
    indexed.assert_seen(worker)


def test_old_indexes_are_let_go_of(indexed: Rig) -> None:
    worker = indexed.worker()
    worker.view()
    worker.view()
    (old,) = indexed.segments()
    assert old.index is not None and list(worker.follower._indexes) == [old.index.file]
    merged_again(indexed)
    worker.view()
    worker.view()
    (new,) = indexed.segments()
    assert new.index is not None and list(worker.follower._indexes) == [new.index.file]
    assert not any(name in text for text in mapped_segments() for name in (old.file, old.index.file))


def test_it_does_not_wait_for_ever(indexed: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    follower, _ = opened(indexed)
    old = follower.view().parts[0].segment.row.seq
    indexed.upsert(list(range(1000, 1100)))
    follower.view()
    indexed.seal()
    indexed.merge()
    assert follower.view().parts[0].segment.row.seq == old
    monkeypatch.setattr(views, "MAX_WAIT_S", 0.0)
    indexed.upsert([0])
    assert follower.view().parts[0].segment.row.seq != old


def test_an_index_that_cannot_be_opened_costs_speed_alone(indexed: Rig) -> None:
    (row,) = indexed.segments()
    assert row.index is not None
    (indexed.folder / SEGMENTS_NAME / row.index.file).write_bytes(b"not Faiss")
    worker = indexed.worker()
    indexed.assert_seen(worker)
    assert worker.view().parts[0].segment.index is None


def test_the_rows_of_an_index_are_the_rows_of_its_segment(tmp_path: Path) -> None:
    """Rule 10: what the index of a merged segment proposes is looked up by row number, without a table between."""
    rig = Rig(tmp_path / "data", dimension=16, index="hnsw", index_min_rows=256)
    vectors = np.random.default_rng(5).standard_normal((500, 16)).astype(np.float32)
    for part_of in (slice(0, 400), slice(400, 500)):
        batch = Batch(vectors[part_of], list(range(500))[part_of], None)
        rig.write(lambda turn, batch=batch: turn.add(batch))
        rig.seal()
        rig.merge()
    rig.delete(list(range(0, 500, 4)))
    rig.merge()
    worker = rig.worker()
    worker.view()
    (part,) = worker.view().parts
    index = part.segment.index
    assert index is not None and part.segment.row.rows == 375
    # So cheap that the exact search cannot answer in its place, so narrow that only true neighbours lead there.
    plan = Plan({"ef_search": 6}, None, 0.0)
    asked = [i for i in range(500) if i % 4]
    found = [index.search(vectors[i : i + 1], 1, plan, part.alive).rows[0, 0] for i in asked]
    hits = sum(a == b for a, b in zip(asked, part.segment.ids_at(np.array(found)), strict=True))
    rig.close()
    assert hits > 0.9 * len(asked)


def test_a_segment_that_is_replaced_faster_than_all_are_opened(rig: Rig) -> None:
    """A builder at full speed: by the time the newest of many segments is opened, another has taken its place."""
    for n in range(60):
        rig.upsert([n])
        rig.seal()
    stop = threading.Event()
    replaced = 0

    def replace() -> None:
        nonlocal replaced
        with closing(catalogue.connect(rig.folder)) as db:
            while not stop.is_set():
                newest = catalogue.read_segments(db)[-1]
                segments, name = rig.folder / SEGMENTS_NAME, segment_name(newest.seq)
                os.link(segments / newest.file, segments / name)
                with db.writing():
                    db.execute("UPDATE segments SET file = ? WHERE seq = ?", (name, newest.seq))
                (segments / newest.file).unlink()
                replaced += 1

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        for _ in range(5):
            assert sum(part.live for part in rig.worker().view().parts) == 60
    finally:
        stop.set()
        thread.join()
    assert replaced > 10
