"""What the kernel knows of each process of the server: memory and processor time."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from app.metrics.shared import PID, Row

PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
_USER, _SYSTEM = 11, 12
"""Fields of /proc/<pid>/stat after the command, in ticks."""


class Process(NamedTuple):
    """private, mapped: resident bytes of its own, and of files that all processes share; cpu_s: since it began."""

    name: str
    private: int
    mapped: int
    cpu_s: float


def processes(rows: Iterable[Row]) -> list[Process]:
    """Those that are running. Some 50 µs each: unlike the proportional share, the kernel keeps these sums."""
    found = (_of(row.name, int(row.slots[PID])) for row in rows if row.slots[PID])
    return [process for process in found if process is not None]


def _of(name: str, pid: int) -> Process | None:
    try:
        status = dict(line.split(":", 1) for line in (PROC / str(pid) / "status").read_text().splitlines())
        # The command may hold spaces and brackets: the fields begin after the last one.
        stat = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None  # it has died, and is about to be started again
    if "RssAnon" not in status:
        return None  # a zombie
    mapped = _bytes(status["RssFile"]) + _bytes(status["RssShmem"])
    return Process(name, _bytes(status["RssAnon"]), mapped, (int(stat[_USER]) + int(stat[_SYSTEM])) / _TICKS)


def _bytes(text: str) -> int:
    """text: as `  1234 kB`."""
    return int(text.split()[0]) * 1024
