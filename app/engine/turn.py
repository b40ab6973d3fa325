"""A turn of the event loop: the callbacks that were ready when it began."""

import asyncio
from collections.abc import Callable


def at_end_of_turn(act: Callable[[], None]) -> bool:
    """Calls `act` once this turn is over. False where no event loop runs in this thread: then it is never called.

    What a callback schedules runs in the next turn, after everything that was ready with it. The event loop reads
    its sockets between turns: a request that a turn answers had arrived before the turn began.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return False
    loop.call_soon(act)
    return True
