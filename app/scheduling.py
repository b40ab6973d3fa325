"""Whose turn it is where several want one core: a worker's event loop comes before what is done in the background.

Niceness shares the time out, but does not say when: since Linux 6.6 whoever runs keeps the core for its slice, which
ends with a tick (4 ms at 250 Hz), though a process with a greater claim was woken meanwhile. A thread that asks for a
short slice is let in at once (6.12 and later; before 6.6 niceness did that, and a kernel that knows no slices ignores
them). SCHED_IDLE would let it in as well, but then a server that is asked all it can answer never builds an index.
"""

import contextlib
import ctypes
import os
import struct
import sys

LEAST_PRIORITY = 19
SHORT_SLICE_NS = 100_000
"""The shortest there is."""
OWN_SLICE = 0
"""What the kernel gives who asks for nothing."""
RESET_ON_FORK = 1
"""A flag: threads and processes that are started from there are like others."""
OTHER, BATCH = 0, 3
"""SCHED_BATCH: as others, but when it wakes it waits for the end of the slice of who runs."""

CALLS = {"x86_64": 314, "aarch64": 274}
"""The number of sched_setattr, for which older C libraries have no function."""
ATTRIBUTES = struct.Struct("IIQiIQQQ")
"""struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period. The runtime is the slice."""


def come_first(alone: bool = True) -> None:
    """The calling thread is let in as soon as it wakes. alone: but not what it starts from then on."""
    _ask(0, OTHER, RESET_ON_FORK if alone else 0, os.getpriority(os.PRIO_PROCESS, 0), SHORT_SLICE_NS)


def stand_behind(by: int, pid: int = 0) -> None:
    """Sets a process (0: the calling one) behind this one. by: steps of niceness."""
    niceness = min(LEAST_PRIORITY, os.getpriority(os.PRIO_PROCESS, 0) + by)
    with contextlib.suppress(OSError):  # it has ended already
        os.setpriority(os.PRIO_PROCESS, pid, niceness)
        _ask(pid, BATCH, 0, niceness, OWN_SLICE)


def _ask(pid: int, policy: int, flags: int, niceness: int, slice_ns: int) -> None:
    """Where it cannot be had, nothing happens: it is for speed alone."""
    call = CALLS.get(os.uname().machine)
    if sys.platform == "linux" and call is not None:
        wish = ATTRIBUTES.pack(ATTRIBUTES.size, policy, flags, niceness, 0, slice_ns, 0, 0)
        ctypes.CDLL(None).syscall(call, pid, wish, 0)
