"""Rule 5: everybody comes to write, the background leaves room, and nobody's read holds the log for ever."""

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import catalogue, turns
from storage.layout import WRITE_LOCK_NAME
from storage.turns import Turns
from storage.writes import Turn
from tests.engine.rig import MANY, Rig

WRITERS = 4
TURNS = 320


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "data")
    yield made
    made.close()


def test_every_writer_comes_to_its_turns(rig: Rig) -> None:
    """Counted in turns, not in seconds: while one writer waits, the others have few turns, however slow the disk."""
    rig.upsert([0])
    order: list[int] = []
    failures: list[BaseException] = []
    barrier = threading.Barrier(WRITERS + 1)

    def write(number: int) -> None:
        db, mine = catalogue.connect(rig.folder), Turns(rig.folder / WRITE_LOCK_NAME)
        try:
            barrier.wait()
            while len(order) < TURNS:
                background = number == WRITERS
                with mine.background_turn() if background else mine.turn(), db.writing():
                    turn = Turn(db, MANY, MANY)
                    turn.upsert(rig.batch([number]))
                    turn.finish()
                    order.append(number)
        except BaseException as e:  # carried to the test's own thread
            failures.append(e)
        finally:
            db.close()
            mine.close()

    threads = [threading.Thread(target=write, args=(n,)) for n in range(WRITERS + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    turns_of = [order.count(n) for n in range(WRITERS + 1)]
    print("turns of each:", turns_of, "longest wait in turns:", [waited(order, n) for n in range(WRITERS + 1)])
    assert min(turns_of[:WRITERS]) >= TURNS // (2 * WRITERS), turns_of
    assert turns_of[WRITERS] >= 5, "the background comes to its turns too"
    assert max(waited(order, n) for n in range(WRITERS)) < TURNS // 8


def waited(order: list[int], number: int) -> int:
    """The most turns of others between two of this one's."""
    at = [-1, *(i for i, n in enumerate(order) if n == number), len(order)]
    return max(b - a - 1 for a, b in itertools.pairwise(at))


def test_a_background_turn_leaves_the_lock_alone_as_long_as_it_held_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(turns.time, "sleep", slept.append)
    begun = time.monotonic()
    with rig.turns.background_turn():
        while time.monotonic() - begun < 0.03:
            pass
    (pause,) = slept
    assert 0.03 <= pause <= time.monotonic() - begun
    other = Turns(rig.folder / WRITE_LOCK_NAME)
    with other.turn():
        pass  # it does not hang: the pause comes after the lock was given back
    other.close()


def test_the_lock_excludes_threads_of_one_process_and_goes_back_after_an_error(rig: Rig) -> None:
    other = Turns(rig.folder / WRITE_LOCK_NAME)
    order: list[str] = []

    def second() -> None:
        with other.turn():
            order.append("second")

    thread = threading.Thread(target=second)
    with pytest.raises(ZeroDivisionError), rig.turns.turn():
        thread.start()
        time.sleep(0.05)
        order.append("first")
        raise ZeroDivisionError
    thread.join(5)
    assert order == ["first", "second"]
    other.close()


def test_long_work_of_the_background_is_many_turns(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgetting a merge's deaths: thousands of rows, a short turn at a time."""
    rig.upsert(list(range(60)))
    rig.seal()
    rig.delete(list(range(50)))
    monkeypatch.setattr("storage.publish.TRIM_KEYS", 7)
    held: list[int] = []
    publisher = rig.building_publisher
    real = publisher.turns.background_turn

    def counted():  # type: ignore[no-untyped-def]
        held.append(1)
        return real()

    monkeypatch.setattr(publisher.turns, "background_turn", counted)
    before = len(held)
    publisher.forget_deaths(catalogue.read_deaths(rig.db, 0)[:20])
    assert len(held) - before == 3
    assert rig.db.one("SELECT count(*) FROM deaths") == (30,)
