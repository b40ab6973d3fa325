"""Who comes first: what `app.scheduling` asks for is what the kernel has noted, for that thread alone."""

import ctypes
import os
import subprocess
import sys
import threading

import pytest

from app import scheduling
from tests.harness import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux" or os.uname().machine not in scheduling.CALLS, reason="Linux's")


def noted(pid: int = 0) -> tuple[int, int, int]:
    """(policy, niceness, slice in ns) of a thread; 0: the calling one. A kernel without slices says 0."""
    room = ctypes.create_string_buffer(scheduling.ATTRIBUTES.size)
    # sched_getattr stands behind sched_setattr.
    call = scheduling.CALLS[os.uname().machine] + 1
    assert ctypes.CDLL(None).syscall(call, pid, room, len(room), 0) == 0
    _, policy, _, niceness, _, slice_ns, _, _ = scheduling.ATTRIBUTES.unpack(room.raw)
    return policy, niceness, slice_ns


def in_thread(act: "list[tuple[int, int, int]]") -> None:
    thread = threading.Thread(target=lambda: act.append(noted()))
    thread.start()
    thread.join()


def test_one_thread_alone_comes_first() -> None:
    before = noted()
    found: list[tuple[int, int, int]] = []

    def first() -> None:
        scheduling.come_first()
        found.append(noted())
        in_thread(found)
        scheduling.come_first()  # asked for again, nothing changes
        found.append(noted())

    thread = threading.Thread(target=first)
    thread.start()
    thread.join()
    mine, started, again = found
    assert mine[:2] == before[:2] and mine == again
    assert mine[2] == (scheduling.SHORT_SLICE_NS if before[2] else 0), "0: a kernel that knows no slices"
    assert started == noted() == before


def test_who_stands_behind_is_niced_and_wakes_nobody_out_of_a_core() -> None:
    before = noted()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, cwd=ROOT) as other:
        scheduling.stand_behind(4, other.pid)
        there = noted(other.pid)
        other.communicate(b"\n")
    assert there == (scheduling.BATCH, min(scheduling.LEAST_PRIORITY, before[1] + 4), before[2])
    scheduling.stand_behind(4, other.pid)  # it has ended: nobody is told
    assert noted() == before


def test_what_it_starts_comes_first_too_where_that_is_wanted() -> None:
    found: list[tuple[int, int, int]] = []

    def first() -> None:
        scheduling.come_first(alone=False)
        found.append(noted())
        in_thread(found)

    thread = threading.Thread(target=first)
    thread.start()
    thread.join()
    assert found[0] == found[1]
