"""Rules 2 to 4 and 6 where requests meet them: group commit, bounds, large writes, full disks, drops in between."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from app.engine import collection as collections
from app.engine import errors
from app.engine.collection import Collection, Limits, Pools
from app.engine.recovery import recover
from app.engine.types import Idempotency, Rows
from storage.failpoints import armed, watched
from storage.turns import Turns
from storage.writes import Turn
from tests.engine.rig import Rig, listed

LIMITS = Limits(pending_rows=40, pending_bytes=1 << 20)
LARGE = 11
"""Rows: above a quarter of the bound."""


Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def run() -> Iterator[Run]:
    """One event loop a test, as a worker has: the writer's thread may still be on its way back to it."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "data")
    yield made
    made.close()


@pytest.fixture
def threads() -> Iterator[Pools]:
    made = [ThreadPoolExecutor(n) for n in (4, 1, 2, 1)]
    yield Pools(*made)
    for pool in made:
        pool.shutdown()


@pytest.fixture
def c(rig: Rig, threads: Pools) -> Iterator[Collection]:
    made = Collection("c", rig.folder, LIMITS, threads)
    yield made
    made.close()


def rows(ids: list[Any] | None, n: int | None = None, value: float = 1.0) -> Rows:
    return Rows(np.full((len(ids) if ids is not None else n or 1, 4), value, np.float32), ids)


def ids_of(c: Collection) -> list[Any]:
    return sorted(listed(c))


def stray(rig: Rig) -> list[str]:
    """Files of the segments folder that no catalogue names."""
    named = {row.file for row in rig.segments()}
    return [name for name in rig.files() if name not in named]


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(2000):
        if holds():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came to that")


# -------------------------------------------------------------------- group commit


def test_waiting_writers_share_a_commit_and_one_refusal_is_its_own(
    run: Run, rig: Rig, c: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(c.add(rows([0]), None))
    turns: list[Turn] = []
    real = Turn.__init__

    def counted(self: Turn, *args: Any) -> None:
        real(self, *args)
        turns.append(self)

    monkeypatch.setattr(Turn, "__init__", counted)

    async def together() -> list[Any]:
        # Somebody else has the turn: all of these are waiting when it ends.
        other = Turns(rig.folder / "write.lock")
        asks = [c.add(rows([i if i != 5 else 0, 100 + i]), None) for i in range(1, 11)]
        with other.turn():
            waiting = [asyncio.create_task(ask) for ask in asks]
            await asyncio.sleep(0.1)
        other.close()
        return await asyncio.gather(*waiting, return_exceptions=True)

    answers = run(together())
    assert [i for i, answer in enumerate(answers, 1) if isinstance(answer, errors.IdExists)] == [5]
    assert all(answer.count == 2 for i, answer in enumerate(answers, 1) if i != 5)
    assert ids_of(c) == sorted([0] + [j for i in range(1, 11) if i != 5 for j in (i, 100 + i)])
    assert len(turns) <= 2, "ten requests, at most two transactions (the first may have been alone)"


def test_a_turn_is_bounded(run: Run, rig: Rig, c: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 5: what does not fit a turn goes into the next one, and the lock is free in between."""
    monkeypatch.setattr("app.engine.writer.CLIENT_TURN_BYTES", 100)
    monkeypatch.setattr("app.engine.writer.CLIENT_TURN_S", 10.0)
    turns: list[Turn] = []

    async def together() -> None:
        other = Turns(rig.folder / "write.lock")
        with other.turn():
            sizes = [60, 60, 30, 30, 200, 10]
            waiting = [asyncio.create_task(c.writer.run(turns.append, size)) for size in sizes]
            await asyncio.sleep(0.1)
        other.close()
        await asyncio.gather(*waiting)

    run(together())
    assert [turns.count(turn) for turn in dict.fromkeys(turns)] == [1, 2, 1, 1, 1]


# -------------------------------------------------------------------- pending is bound (rule 4)


def test_at_the_bound_writes_wait_and_go_on_when_there_is_room(run: Run, rig: Rig, c: Collection) -> None:
    async def fill() -> None:
        for i in range(4):
            await c.add(rows(list(range(10 * i, 10 * i + 10))), None)
        waiting = asyncio.create_task(c.add(rows([100]), None))
        await asyncio.sleep(0.15)
        assert not waiting.done()
        rig.seal()
        await asyncio.wait_for(waiting, 4)

    run(fill())
    assert ids_of(c) == [*range(40), 100]


def test_then_they_are_refused(run: Run, rig: Rig, c: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collections, "FULL_WAIT_S", 0.1)
    rig.upsert(list(range(40)))
    with pytest.raises(errors.Busy):
        run(c.add(rows([100]), None))
    with pytest.raises(errors.Busy):
        run(c.upsert(rows([100])))
    assert rig.state().pending_rows == 40 and ids_of(c) == list(range(40))
    run(c.delete([0], False, None))
    run(c.add(rows([100]), None))
    rig.model.pop(0)
    rig.model[100] = (rows([100]).vectors.tobytes(), None)
    rig.assert_seen(c)


# -------------------------------------------------------------------- large writes (rules 4 and 6)


def test_a_large_write_is_a_segment_at_once(run: Run, rig: Rig, c: Collection) -> None:
    written = run(c.add(rows(None, LARGE), None))
    assert (written.count, written.first_id) == (LARGE, 0)
    (segment,) = rig.segments()
    assert segment.rows == LARGE and rig.state().pending_rows == 0
    run(c.upsert(rows(list(range(5, 5 + LARGE)), value=2.0)))
    assert rig.state().live == 5 + LARGE and len(rig.segments()) == 2
    found = listed(c)
    assert {id_ for id_, (vector, _) in found.items() if vector == np.full(4, 2.0, np.float32).tobytes()} == set(
        range(5, 5 + LARGE)
    )
    rig.model = found
    rig.assert_sound(notes=False)


def test_a_refused_large_write_leaves_nothing(run: Run, rig: Rig, c: Collection) -> None:
    rig.upsert([3])
    before = rig.state()
    with pytest.raises(errors.IdExists) as refused:
        run(c.add(rows(list(range(LARGE))), None))
    assert [fault.where for fault in refused.value.faults] == ["items[3].id"]
    after = rig.state()
    assert rig.files() == [] and (after.live, after.next_key) == (before.live, before.next_key)
    rig.assert_sound(notes=False)


@pytest.mark.parametrize(
    "point",
    ["segment.layout", "segment.reserve", "segment.write", "segment.hashes", "segment.fsync", "database.commit"],
)
@pytest.mark.parametrize("size", [1, LARGE])
def test_a_full_disk_stores_nothing(run: Run, rig: Rig, c: Collection, point: str, size: int) -> None:
    rig.upsert([100])
    if size == 1 and point != "database.commit":
        point = "database.commit"  # a small write touches no segment
    with armed(f"{point}:enospc"), pytest.raises(errors.DiskFull):
        run(c.add(rows(list(range(size))), None))
    assert rig.files() == []
    rig.assert_seen(c)
    rig.assert_sound(notes=False)
    run(c.add(rows(list(range(size))), None))
    assert ids_of(c) == [*range(size), 100]


def test_an_unknown_outcome_keeps_the_file(run: Run, rig: Rig, c: Collection) -> None:
    """The commit's fsync failed: the transaction may be there after a power cut, and then its file must be too."""
    with armed("database.commit:eio:2,database.settle:eio"), pytest.raises(errors.OutcomeUnknown):
        run(c.add(rows(None, LARGE), None))
    assert len(stray(rig)) == 1
    recover(rig.data)
    assert rig.files() == []


def test_a_request_that_goes_away_does_not_take_its_file_along(run: Run, rig: Rig, c: Collection) -> None:
    """Its write was queued and goes on: the segment must be there when the catalogue names it."""
    turns = Turns(rig.folder / "write.lock")
    published, named = threading.Event(), threading.Event()

    def held(name: str, _: object) -> None:
        if name == "segment.published":
            published.set()
            assert named.wait(30)

    async def cancelled() -> None:
        task = asyncio.create_task(c.add(rows(None, LARGE), None))
        await until(published.is_set)
        assert any(name.endswith(".h5") for name in stray(rig))
        with turns.turn():
            named.set()
            await asyncio.sleep(0.3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await c.writer.run(lambda turn: None)  # behind it in the queue

    # The file is there, and its transaction waits for the turn, which is another's.
    with watched(held):
        run(cancelled())
    turns.close()
    assert [row.rows for row in rig.segments()] == [LARGE] and len(listed(c)) == LARGE
    recover(rig.data)
    assert rig.registry.read()[0].reason is None


def test_a_crash_between_file_and_transaction_shows_nothing(run: Run, rig: Rig, c: Collection) -> None:
    """The process stops where it stands: nothing of it is cleared away."""

    def stop(*_: object) -> None:
        raise asyncio.CancelledError  # what ends a task without any answer, and without clearing up

    rig.upsert([100])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Turn, "add", stop)
        with pytest.raises(asyncio.CancelledError):
            run(c.add(rows(None, LARGE), None))
    assert len(stray(rig)) == 1
    rig.assert_seen(c)
    recover(rig.data)
    assert rig.files() == []
    rig.assert_sound(notes=False)


# -------------------------------------------------------------------- idempotency


@pytest.mark.parametrize("size", [1, LARGE])
def test_a_repeated_write_is_answered_and_not_done(run: Run, rig: Rig, c: Collection, size: int) -> None:
    key = Idempotency("k", "request")
    first = run(c.add(rows(None, size), key))
    again = run(c.add(rows(None, size), key))
    assert again == first and rig.state().live == size
    assert stray(rig) == [], "the second one's segment is taken away again"
    with pytest.raises(errors.IdempotencyMismatch):
        run(c.add(rows(None, size), Idempotency("k", "another")))
    assert stray(rig) == [] and rig.state().live == size


def test_repeated_deletes(run: Run, rig: Rig, c: Collection) -> None:
    rig.upsert([1, 2])
    key = Idempotency("k", "request")
    assert run(c.delete([1], False, key)) == 1
    run(c.add(rows([1]), None))
    assert run(c.delete([1], False, key)) == 1
    assert ids_of(c) == [1, 2]
    everything = Idempotency("all", "request")
    assert run(c.delete_all(everything)) == 2
    run(c.add(rows([7]), None))
    assert run(c.delete_all(everything)) == 2
    assert ids_of(c) == [7]


def test_two_at_the_same_time_are_one(run: Run, rig: Rig, c: Collection) -> None:
    async def both(size: int) -> list[Any]:
        key = Idempotency(f"k{size}", "request")
        return await asyncio.gather(*(c.add(rows(None, size), key) for _ in range(3)))

    for size in (1, LARGE):
        answers = run(both(size))
        assert answers[0] == answers[1] == answers[2]
    assert rig.state().live == 1 + LARGE and stray(rig) == []


class Noted(int):
    """An id that remembers which threads compared it with others."""

    threads: ClassVar[set[int]] = set()

    def __hash__(self) -> int:
        self.threads.add(threading.get_ident())
        return super().__hash__()


@pytest.mark.parametrize("write", [lambda c, rows: c.add(rows, None), lambda c, rows: c.upsert(rows)])
def test_nothing_of_a_large_write_is_looked_at_on_the_event_loop(
    run: Run, c: Collection, write: Callable[[Collection, Rows], Coroutine[Any, Any, Any]]
) -> None:
    Noted.threads.clear()
    ids: list[int] = [Noted(i) for i in range(20_000)]
    run(write(c, rows(ids)))
    assert Noted.threads and threading.get_ident() not in Noted.threads


# -------------------------------------------------------------------- dropped meanwhile (rule 3)


@pytest.mark.parametrize("wrote_before", [False, True])
@pytest.mark.parametrize("size", [1, LARGE])
def test_a_write_after_the_drop_says_that_it_is_gone(
    run: Run, rig: Rig, c: Collection, wrote_before: bool, size: int
) -> None:
    if wrote_before:
        run(c.add(rows([1000]), None))
    settled = c.view()
    assert settled.settings.dimension == 4

    async def late() -> None:
        with pytest.MonkeyPatch.context() as patch:
            # The request looked at the view before the drop.
            patch.setattr(c, "view", lambda: settled)
            with pytest.raises(errors.CollectionNotFound):
                await c.add(rows(None, size), None)

    rig.registry.drop("c", rig.uuid)
    run(late())
    assert not rig.folder.exists()


def test_a_drop_while_a_large_write_is_written(run: Run, rig: Rig, c: Collection) -> None:
    """The segment is on its way when the folder goes: nothing is made anew in a folder that is gone."""

    async def both() -> None:
        task = asyncio.create_task(c.add(rows(None, LARGE), None))
        await until(lambda: bool(rig.files()))
        await asyncio.to_thread(drop)
        with pytest.raises((errors.CollectionNotFound, errors.Unavailable)):
            await task

    def drop() -> None:
        other = type(rig.registry)(rig.data)
        other.drop("c", rig.uuid)
        other.close()

    with armed("segment.fsync:sleep=0.2"):
        run(both())
    assert list((rig.data / "c").iterdir()) == []


# -------------------------------------------------------------------- one writer among many (rule 2)


def test_writers_of_two_workers_never_share_a_key(run: Run, rig: Rig, threads: Pools) -> None:
    workers = [Collection("c", rig.folder, Limits(10**6, 10**9), threads) for _ in range(2)]

    async def hammer() -> None:
        asks = [
            w.upsert(rows([i % 7, 100 * (n + 1) + i], value=float(1000 * n + i)))
            for i in range(20)
            for n, w in enumerate(workers)
        ]
        await asyncio.gather(*asks)

    run(hammer())
    state = rig.state()
    assert state.next_key == 1 + 2 * 2 * 20
    seen = [listed(w) for w in workers]
    assert seen[0] == seen[1]
    rig.model = seen[0]
    rig.assert_sound()
    for worker in workers:
        worker.close()


def test_a_writer_is_not_held_up_by_a_reader(run: Run, rig: Rig, c: Collection) -> None:
    """WAL: a read transaction that stands open stops neither commits nor other readers."""
    rig.upsert([1])
    began, ended = threading.Event(), threading.Event()

    def read() -> None:
        db = rig.building_work.reader
        with db.reading():
            db.one("SELECT count(*) FROM items")
            began.set()
            ended.wait(5)

    reader = threading.Thread(target=read)
    reader.start()
    began.wait(5)
    start = time.monotonic()
    run(c.add(rows([2]), None))
    assert ids_of(c) == [1, 2]
    assert time.monotonic() - start < 4, "it did not wait for the reader"
    ended.set()
    reader.join()
