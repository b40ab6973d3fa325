"""What the server's workers cost and hold while they are asked: processor time, connections, and its own counters."""

import os
from collections import Counter
from collections.abc import Collection as Among
from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc")
TICKS_A_S = os.sysconf("SC_CLK_TCK")
ESTABLISHED = "01"


def cpu_s(pids: Iterable[int]) -> float:
    """Processor time of these processes so far, user and system."""
    ticks = 0
    for pid in pids:
        # The command may hold spaces and brackets: the fields begin after the last one.
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_A_S


def connections(port: int, pids: Iterable[int], but: Among[int] = ()) -> list[int]:
    """How many connections to `port` each process holds, the most first. but: ports of clients that do not count."""
    sockets = _sockets(port, but)
    held = Counter(dict.fromkeys(pids, 0))
    for pid in held:
        for name in (PROC / str(pid) / "fd").iterdir():
            try:
                held[pid] += name.readlink().name in sockets
            except FileNotFoundError:
                continue
    return sorted(held.values(), reverse=True)


def _sockets(port: int, but: Among[int]) -> set[str]:
    found = set()
    for line in (PROC / "net/tcp").read_text().splitlines()[1:]:
        field = line.split()
        local, remote = (int(address.rpartition(":")[2], 16) for address in field[1:3])
        if local == port and remote not in but and field[3] == ESTABLISHED:
            found.add(f"socket:[{field[9]}]")
    return found


def counted(metrics: str, name: str, labels: str = "") -> float:
    """The sum of a counter's series whose labels hold `labels`, from the text of /metrics."""
    total = 0.0
    for line in metrics.splitlines():
        series, _, value = line.rpartition(" ")
        if (series == name or series.startswith(name + "{")) and labels in series:
            total += float(value)
    return total
