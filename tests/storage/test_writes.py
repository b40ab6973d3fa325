"""Rules 1 and 2 at the level of one write: what each operation does to the catalogue, and in what order."""

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from storage import catalogue, errors, writes
from storage.catalogue import PENDING_ROW_BYTES, State
from storage.documents import read_metadata
from storage.failpoints import armed
from storage.layout import WRITE_LOCK_NAME
from storage.turns import Turns
from storage.writes import MAX_INT_ID, Batch, Turn
from tests.engine.rig import MANY, Rig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "data")
    yield made
    made.close()


def keys(rig: Rig) -> dict[object, int]:
    return dict(rig.db.execute("SELECT id, key FROM items"))


def deaths(rig: Rig) -> list[tuple[int, int, int]]:
    """(key, position, died pending)"""
    return list(rig.db.execute("SELECT key, pos, pending FROM deaths ORDER BY pos"))


# -------------------------------------------------------------------- liveness is one fact (rule 1)


def test_an_upsert_gives_a_new_key_and_the_old_one_dies(rig: Rig) -> None:
    rig.upsert([7, 8])
    before = keys(rig)
    rig.upsert([8, 9])
    after = keys(rig)
    assert after[7] == before[7] and after[8] > before[8] and after[9] > after[8]
    assert deaths(rig) == [(before[8], 1, 1)]
    assert rig.state().log_pos == 1 and rig.state().live == 3 and rig.state().pending_rows == 3
    rig.assert_sound()


def test_a_delete_writes_the_log_in_the_same_transaction(rig: Rig) -> None:
    rig.upsert([1, 2, 3])
    rig.seal()
    one = keys(rig)[1]
    with pytest.raises(ZeroDivisionError), rig.turn() as turn:
        turn.delete([1])
        raise ZeroDivisionError
    assert 1 in keys(rig) and deaths(rig) == []
    assert rig.delete([1, 99]) == 1
    assert deaths(rig) == [(one, 1, 0)], "a key that a segment holds stays in the log"
    rig.assert_sound()


def test_metadata_goes_with_its_key(rig: Rig) -> None:
    rig.upsert([1, 2])
    rig.upsert([1])
    rig.delete([2])
    stored = dict(rig.db.execute("SELECT key, json FROM metadata"))
    assert list(stored) == [keys(rig)[1]]
    batch = rig.batch([1], metadata=False)
    rig.write(lambda turn: turn.upsert(batch))
    assert rig.db.one("SELECT count(*) FROM metadata") == (0,), "an upsert without metadata clears it"


def test_a_patch_of_the_vector_is_a_new_key_with_the_old_metadata(rig: Rig) -> None:
    rig.upsert([1])
    old = keys(rig)[1]
    assert rig.patch(1, None, vector=True)
    new = keys(rig)[1]
    assert new > old and deaths(rig) == [(old, 1, 1)]
    assert read_metadata(rig.db, [new]) == {new: b'{"n":0}'}
    assert rig.patch(1, {"n": None, "b": 1}) and keys(rig)[1] == new, "metadata alone changes in place"
    assert read_metadata(rig.db, [new]) == {new: b'{"b":1}'}
    assert not rig.patch(5, {"b": 1})
    rig.assert_sound()


def test_emptying_a_collection_keeps_its_counters(rig: Rig) -> None:
    """Keys, ids, positions and segment numbers are never used again."""
    rig.upsert([1, 2, 3])
    rig.seal()
    rig.upsert([3, 4])
    before = rig.state()
    rig.delete_all()
    after = rig.state()
    assert (after.live, after.pending_rows, after.pending_bytes) == (0, 0, 0)
    assert (after.next_key, after.next_id, after.next_seq) == (before.next_key, before.next_id, before.next_seq)
    assert after.log_pos == after.trimmed_pos > before.log_pos and after.generation > before.generation
    assert rig.files() == []
    rig.upsert([1])
    rig.assert_sound(notes=False)


def test_what_pends_is_counted(rig: Rig) -> None:
    rig.upsert([1, 2, 3, 4])
    one_row = 4 * rig.dimension + PENDING_ROW_BYTES
    assert (rig.state().pending_rows, rig.state().pending_bytes) == (4, 4 * one_row)
    rig.upsert([4])
    rig.delete([1])
    rig.patch(2, None, vector=True)
    assert (rig.state().pending_rows, rig.state().pending_bytes) == (3, 3 * one_row)


# -------------------------------------------------------------------- order, and requests apart (rule 2)


def test_one_refused_request_leaves_the_others_of_its_commit_alone(rig: Rig) -> None:
    rig.upsert([1])
    good, bad, after = rig.batch([2, 3]), rig.batch([4, 1, 5]), rig.batch([6])
    before = rig.state()
    with rig.turn() as turn:
        with turn.request():
            turn.add(good)
        with pytest.raises(errors.IdsTaken) as refused, turn.request():
            turn.add(bad)
        with turn.request():
            turn.add(after)
    assert refused.value.rows == [(1, 1)]
    assert sorted(keys(rig)) == [1, 2, 3, 6]
    state = rig.state()
    assert state.next_key == before.next_key + 3, "the refused request took no keys"
    assert state.live == 4 and state.pending_rows == 4
    for batch, ids in ((good, [2, 3]), (after, [6])):
        rig._learn(batch, ids)
    rig.assert_sound()
    rig.assert_seen(rig.worker())


def test_what_a_refused_request_counted_is_undone(rig: Rig) -> None:
    rig.upsert([1, 2])
    before = rig.state()
    with rig.turn() as turn, pytest.raises(ZeroDivisionError), turn.request():
        turn.upsert(rig.batch([2, 3]))
        turn.delete([1])
        turn.delete_all()
        raise ZeroDivisionError
    assert rig.state() == before
    batch = rig.batch([1000, 1])
    with pytest.raises(errors.IdsTaken):
        rig.write(lambda turn: turn.add(batch))
    assert rig.state() == before, "its ids are not the largest so far"
    rig.assert_sound()


def test_all_ids_that_exist_are_named(rig: Rig) -> None:
    rig.upsert([5, 7])
    batch = rig.batch([4, 5, 6, 7])
    with pytest.raises(errors.IdsTaken) as refused:
        rig.write(lambda turn: turn.add(batch))
    assert refused.value.rows == [(1, 5), (3, 7)]


def test_a_refused_first_write_does_not_fix_the_id_type(rig: Rig) -> None:
    with pytest.raises(ZeroDivisionError):
        rig.write(lambda turn: turn.add(rig.batch(["a"])) and 1 // 0)
    assert catalogue.read_settings(rig.db).id_type == "auto"
    rig.add([1])
    assert catalogue.read_settings(rig.db).id_type == "int"
    with pytest.raises(errors.WrongIdType):
        rig.write(lambda turn: turn.upsert(rig.batch(["a"])))
    rig.assert_sound()


def test_keys_ascend_over_writers_in_threads(rig: Rig) -> None:
    """Counters are read inside BEGIN IMMEDIATE: no two writers get one key, no key is skipped back to."""
    rig.upsert([0])
    writers, rounds, failures = 4, 15, []
    barrier = threading.Barrier(writers)

    def write(number: int) -> None:
        db = catalogue.connect(rig.folder)
        turns = Turns(rig.folder / WRITE_LOCK_NAME)
        try:
            barrier.wait()
            for _ in range(rounds):
                batch = Batch(np.full((2, 4), number, np.float32), None, None)
                with turns.turn(), db.writing():
                    turn = Turn(db, MANY, MANY)
                    _, first = turn.add(batch)
                    assert keys_of_ids(db, first) == (turn.state.next_key - 2, turn.state.next_key - 1)
                    turn.upsert(Batch(batch.vectors[:1], [0], None))  # all fight over one id
                    turn.finish()
        except BaseException as e:  # carried to the test's own thread
            failures.append(e)
        finally:
            db.close()
            turns.close()

    threads = [threading.Thread(target=write, args=(n,)) for n in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    state = rig.state()
    assert state.live == 1 + 2 * writers * rounds == len(keys(rig))
    assert state.next_key == 2 + 3 * writers * rounds, "every key was given once"
    assert len(set(keys(rig).values())) == state.live
    assert state.log_pos == writers * rounds == len(deaths(rig))
    rig.model = dict.fromkeys(keys(rig), (b"", None))
    rig.assert_sound()


def keys_of_ids(db: object, first: int) -> tuple[int, int]:
    found = catalogue.find_keys(db, [first, first + 1])  # type: ignore[arg-type]
    return found[first], found[first + 1]


def test_the_old_key_of_an_upsert_is_read_inside_the_turn(rig: Rig) -> None:
    """A writer that waited for its turn buries what is there then, not what was there when it began to wait."""
    rig.upsert([1])
    batch = rig.batch([1])
    other = threading.Thread(target=lambda: rig.write(lambda turn: turn.upsert(batch)))
    turns = Turns(rig.folder / WRITE_LOCK_NAME)
    db = catalogue.connect(rig.folder)
    with turns.turn():
        other.start()
        time.sleep(0.05)
        with db.writing():
            turn = Turn(db, MANY, MANY)
            turn.upsert(rig.batch([1]))
            turn.finish()
    other.join()
    turns.close()
    db.close()
    rig._learn(batch, [1])
    assert [key for key, _, _ in deaths(rig)] == [1, 2] and keys(rig) == {1: 3}
    rig.assert_sound()


# -------------------------------------------------------------------- ids


def test_assigned_int_ids_are_the_largest_so_far_plus_one(rig: Rig) -> None:
    rig.upsert([10])
    assert rig.write(lambda turn: turn.add(rig.batch(None, 3))) == (3, 11)
    rig.delete([13])
    assert rig.write(lambda turn: turn.add(rig.batch(None, 1))) == (1, 14), "deleted ids are not given again"


def test_ids_run_out(rig: Rig) -> None:
    rig.upsert([MAX_INT_ID - 1])
    with pytest.raises(errors.IdsExhausted):
        rig.write(lambda turn: turn.add(rig.batch(None, 2)))
    rig.upsert([MAX_INT_ID])
    assert rig.state().next_id == MAX_INT_ID
    with pytest.raises(errors.IdsExhausted):
        rig.write(lambda turn: turn.add(rig.batch(None, 1)))
    rig.assert_sound()


def test_assigned_str_ids_sort_by_time(rig: Rig) -> None:
    rig.upsert(["a"])
    first = rig.assign(2)
    time.sleep(0.003)
    later = rig.assign(1)
    pattern = "[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
    assert all(re.fullmatch(pattern, id_) for id_ in first + later)
    assert max(first) < later[0] and len(set(first)) == 2


# -------------------------------------------------------------------- bounds (rule 4)


def test_at_the_bound_nothing_more_pends(rig: Rig) -> None:
    rig.upsert([1, 2, 3])
    before = rig.state()
    with pytest.raises(errors.PendingFull), rig.turn(max_rows=4) as turn:
        turn.upsert(rig.batch([4, 5]))
    assert rig.state() == before
    with rig.turn(max_rows=4) as turn:
        turn.upsert(rig.batch([4]))
    assert rig.state().pending_rows == 4


def test_bytes_are_bound_too(rig: Rig) -> None:
    row = 4 * rig.dimension + PENDING_ROW_BYTES
    with rig.turns.turn(), rig.db.writing():
        turn = Turn(rig.db, MANY, 2 * row)
        turn.upsert(rig.batch([1, 2]))
        with pytest.raises(errors.PendingFull):
            turn.upsert(rig.batch([3]))


# -------------------------------------------------------------------- idempotency


def test_the_answer_is_stored_with_the_write(rig: Rig) -> None:
    calls = 0

    def add(turn: Turn) -> object:
        nonlocal calls
        calls += 1
        return turn.add(rig.batch(None, 2))

    first = rig.write(lambda turn: turn.once("k", "r", lambda: add(turn)))
    again = rig.write(lambda turn: turn.once("k", "r", lambda: add(turn)))
    assert list(first) == list(again) and calls == 1 and rig.state().live == 2
    with pytest.raises(errors.KeyReused):
        rig.write(lambda turn: turn.once("k", "another", lambda: add(turn)))
    assert calls == 1


def test_a_refused_request_does_not_take_the_key(rig: Rig) -> None:
    rig.upsert([1])
    with pytest.raises(errors.IdsTaken):
        rig.write(lambda turn: turn.once("k", "r", lambda: turn.add(rig.batch([1]))))
    rig.delete([1])
    assert rig.write(lambda turn: turn.once("k", "r", lambda: turn.add(rig.batch([1]))))


def test_keys_are_forgotten_after_a_day(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    rig.write(lambda turn: turn.once("k", "r", lambda: 1))
    monkeypatch.setattr(writes.time, "time", lambda: now + 23 * 3600)
    assert rig.write(lambda turn: turn.once("k", "r", lambda: 2)) == 1
    monkeypatch.setattr(writes.time, "time", lambda: now + 25 * 3600)
    assert rig.write(lambda turn: turn.once("k", "r", lambda: 3)) == 3


def test_old_keys_are_found_without_looking_at_all(rig: Rig) -> None:
    """Every write with a key looks for those of yesterday."""
    plan = rig.db.one("EXPLAIN QUERY PLAN DELETE FROM idempotency WHERE at < 1")
    assert plan is not None and "INDEX" in plan[-1], plan


# -------------------------------------------------------------------- when the disk or the process gives way


@pytest.mark.parametrize(("action", "meaning"), [("enospc", errors.NoSpace), ("eio", errors.OutcomeUnknown)])
def test_a_commit_that_fails_leaves_the_connection_usable(rig: Rig, action: str, meaning: type[Exception]) -> None:
    before = rig.state()
    with armed(f"database.commit:{action}"), pytest.raises(meaning, match="failpoint"):
        rig.add([1])
    assert rig.state() == before and not rig.db.connection.in_transaction
    rig.add([1])
    rig.assert_sound()


def test_a_full_disk_stores_nothing(rig: Rig) -> None:
    """The catalogue's own limit of pages gives SQLite's real error, and its rollback of the whole transaction."""
    rig.upsert([1])
    before = rig.state()
    pages = rig.db.one("PRAGMA page_count")
    assert pages is not None
    rig.db.connection.pragma("max_page_count", pages[0])
    rows = list(range(100, 100 + 2000))
    with pytest.raises(errors.NoSpace), rig.turn() as turn:
        turn.add(rig.batch(rows))
    with pytest.raises(errors.NoSpace):
        rig.write(lambda turn: turn.add(rig.batch(rows)))
    rig.db.connection.pragma("max_page_count", 1 << 30)
    assert rig.state() == before
    rig.add([2])
    rig.assert_sound()


def test_a_dropped_collection_takes_no_write(rig: Rig) -> None:
    rig.upsert([1])
    rig.db.execute("UPDATE state SET dropped = 1")
    with pytest.raises(errors.Dropped):
        rig.write(lambda turn: turn.delete([1]))
    assert len(keys(rig)) == 1


def test_state_columns_are_the_tables() -> None:
    """UPDATE_STATE writes all of them: one forgotten would be a counter that stands still."""
    columns = re.search(r"CREATE TABLE state\((.*?)\);", catalogue.SCHEMA, re.S)
    assert columns is not None
    assert [c.split()[0] for c in columns[1].split(",")] == list(catalogue.STATE_COLUMNS) == list(State.__slots__)
