"""What waits for the search thread: bounded by the time that it will take, and not begun past its deadline."""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.engine.errors import DeadlineExceeded, Overloaded
from app.engine.search_queue import MOST_TOGETHER, SearchQueue


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as made:
        yield made


def test_more_than_can_be_done_in_time_is_refused(pool: ThreadPoolExecutor) -> None:
    queue, gate, done = SearchQueue(1.0), threading.Event(), []

    def search(n: int) -> int:
        gate.wait(10)
        done.append(n)
        return n

    async def talk() -> None:
        # Each is planned to take 0.6 s: one runs, two wait, which is over a second.
        first = [asyncio.create_task(queue.run(pool, lambda n=n: search(n), 6e5)) for n in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match=r"1\.2 s") as refused:
            await queue.run(pool, lambda: search(9), 6e5)
        assert refused.value.retry_after_s == 2
        gate.set()
        assert await asyncio.gather(*first) == [0, 1]
        assert await queue.run(pool, lambda: search(2), 6e5) == 2

    asyncio.run(talk())
    assert done == [0, 1, 2]


def test_one_is_always_let_wait(pool: ThreadPoolExecutor) -> None:
    """However dear: a queue of one is none."""

    async def talk() -> None:
        queue = SearchQueue(0.0)
        both = [queue.run(pool, lambda n=n: n, 1e9) for n in range(2)]
        assert await asyncio.gather(*both) == [0, 1]

    asyncio.run(talk())


def test_what_searches_really_take_is_learnt(pool: ThreadPoolExecutor) -> None:
    """Plans that say a hundred seconds for what takes none do not keep others out for ever."""

    async def talk() -> None:
        queue = SearchQueue(1.0)
        for _ in range(60):
            await queue.run(pool, lambda: None, 1e8)
        both = [asyncio.create_task(queue.run(pool, lambda n=n: n, 1e6)) for n in range(20)]
        assert await asyncio.gather(*both) == list(range(20))

    asyncio.run(talk())


def test_past_its_deadline_a_search_is_answered_and_not_begun(pool: ThreadPoolExecutor) -> None:
    queue, gate, begun = SearchQueue(), threading.Event(), []

    async def talk() -> None:
        blocker = asyncio.create_task(queue.run(pool, lambda: gate.wait(10)))
        await asyncio.sleep(0)
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await queue.run(pool, lambda: begun.append(1), 1e3, started + 0.05)
        assert 0.05 <= time.monotonic() - started and not blocker.done()
        gate.set()
        assert await blocker
        assert await queue.run(pool, lambda: "next") == "next"

    asyncio.run(talk())
    assert not begun


def test_a_search_that_fails_leaves_the_queue(pool: ThreadPoolExecutor) -> None:
    def fail() -> None:
        raise ValueError("broken")

    async def talk() -> None:
        queue = SearchQueue(0.5)
        for _ in range(5):
            with pytest.raises(ValueError, match="broken"):
                await queue.run(pool, fail, 1e6)
        assert await asyncio.gather(*(queue.run(pool, lambda: 1, 4e5) for _ in range(2))) == [1, 1]

    asyncio.run(talk())


def doubled(runs: list[list[int]]) -> Callable[[Sequence[int]], list[int]]:
    """Answers twice what each asks, and notes who was asked together."""

    def act(asked: Sequence[int]) -> list[int]:
        runs.append(list(asked))
        return [2 * n for n in asked]

    return act


def test_those_alike_that_wait_are_one_batch(pool: ThreadPoolExecutor) -> None:
    queue, gate = SearchQueue(), threading.Event()
    runs: list[list[int]] = []

    async def talk() -> None:
        first = asyncio.create_task(queue.run(pool, lambda: gate.wait(10)))
        await asyncio.sleep(0)
        others = [queue.run_with_others(pool, n % 2, n, doubled(runs), 1e3, math.inf) for n in range(7)]
        tasks = [asyncio.create_task(other) for other in others]
        await asyncio.sleep(0)
        gate.set()
        assert await asyncio.gather(*tasks) == [2 * n for n in range(7)] and await first
        assert await queue.run_with_others(pool, 0, 9, doubled(runs), 1e3, math.inf) == 18

    asyncio.run(talk())
    assert runs == [[0, 2, 4, 6], [1, 3, 5], [9]]


def test_a_batch_has_an_end(pool: ThreadPoolExecutor) -> None:
    queue, gate = SearchQueue(), threading.Event()
    runs: list[list[int]] = []

    async def talk() -> None:
        first = asyncio.create_task(queue.run(pool, lambda: gate.wait(10)))
        await asyncio.sleep(0)
        many = range(2 * MOST_TOGETHER + 1)
        tasks = [asyncio.create_task(queue.run_with_others(pool, 0, n, doubled(runs), 1e3, math.inf)) for n in many]
        await asyncio.sleep(0)
        gate.set()
        assert await asyncio.gather(*tasks) == [2 * n for n in many] and await first

    asyncio.run(talk())
    assert [len(run) for run in runs] == [MOST_TOGETHER, MOST_TOGETHER, 1]


def test_who_is_too_late_or_gone_is_left_out_of_the_batch(pool: ThreadPoolExecutor) -> None:
    queue, gate = SearchQueue(), threading.Event()
    runs: list[list[int]] = []

    async def talk() -> None:
        first = asyncio.create_task(queue.run(pool, lambda: gate.wait(10)))
        await asyncio.sleep(0)
        deadlines = [time.monotonic() + 0.05, math.inf, math.inf]
        late, gone, stays = [
            asyncio.create_task(queue.run_with_others(pool, "alike", n, doubled(runs), 1e3, deadline))
            for n, deadline in enumerate(deadlines)
        ]
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(DeadlineExceeded):
            await late
        gate.set()
        assert await stays == 4 and await first
        with pytest.raises(asyncio.CancelledError):
            await gone

    asyncio.run(talk())
    assert runs == [[2]]


def test_a_batch_that_fails_fails_for_all_of_it(pool: ThreadPoolExecutor) -> None:
    def fail(asked: Sequence[int]) -> list[int]:
        raise ValueError("broken")

    async def talk() -> None:
        queue = SearchQueue(0.5)
        for _ in range(3):
            both = [queue.run_with_others(pool, 0, n, fail, 4e5, math.inf) for n in range(2)]
            found = await asyncio.gather(*both, return_exceptions=True)
            assert [str(error) for error in found] == ["broken", "broken"]
        assert await queue.run(pool, lambda: 1, 4e5) == 1

    asyncio.run(talk())
