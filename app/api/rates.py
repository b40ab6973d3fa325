"""How fast each key may ask: one budget for all workers, in memory that they share."""

import mmap
import os
import time

from app.api.keys import Key

_SLOTS = 1 << 16
"""Two of ten keys share a slot once in 1,500 servers; then they share the lower of their budgets."""
SHARED_BYTES = 8 * _SLOTS
BURST_S = 2.0
"""What a key has not used for so long, it may use at once."""


def shared_memory() -> int:
    """A descriptor of memory for `Rates`, zeroed, that children may inherit."""
    descriptor = os.memfd_create("seedvec-rates")
    os.ftruncate(descriptor, SHARED_BYTES)
    return descriptor


class Rates:
    """For each key the time until which what it has asked for is paid for (GCRA: a bucket of tokens in one number).

    Workers read and write these numbers without a lock: two that do so within the same microsecond count one request
    instead of two.
    """

    def __init__(self, descriptor: int) -> None:
        """descriptor: of `shared_memory`."""
        self._paid_until = memoryview(mmap.mmap(descriptor, SHARED_BYTES)).cast("d")

    def wait_s(self, key: Key) -> float:
        """0, and the request is counted; or for how long the key has to wait, and it is not."""
        # Of the whole machine, not of the process: the workers' clocks are one.
        now = time.monotonic()
        slot = int.from_bytes(key.digest[:2], "big")
        paid_until = max(self._paid_until[slot], now)
        if paid_until - now > BURST_S:
            return paid_until - now - BURST_S
        self._paid_until[slot] = paid_until + 1 / key.rate
        return 0.0
