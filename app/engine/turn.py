"""A turn of the event loop: the callbacks that were ready when it began."""

import asyncio
import threading
from collections.abc import Callable


class _Turn(threading.local):
    """loop: in whose present turn this thread has `acts` to come."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.acts: list[Callable[[], None]] = []

    def end(self) -> None:
        acts, self.acts, self.loop = self.acts, [], None
        for act in acts:
            act()


_turn = _Turn()


def at_end_of_turn(act: Callable[[], None]) -> bool:
    """Calls `act`, which raises nothing, once this turn is over. False where no event loop runs in this thread: then it
    is never called.

    What a callback schedules runs in the next turn, after everything that was ready with it. The event loop reads
    its sockets between turns: a request that a turn answers had arrived before the turn began.
    """
    # One callback for all: a request has three to schedule, and to ask for the running loop is a system call.
    if _turn.loop is None or not _turn.loop.is_running():
        _turn.end()  # of a loop that was stopped in the middle
        try:
            _turn.loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        _turn.loop.call_soon(_turn.end)
    _turn.acts.append(act)
    return True
