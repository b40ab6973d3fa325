"""What /proc says about a server's processes: its children, and which of them holds a connection."""

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")


def descendants(pid: int) -> list[int]:
    """Process ids below `pid`, parents first. Processes that vanish while we look are left out."""
    parents: dict[int, int] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            parent = _parent(int(entry.name))
            if parent is not None:
                parents[int(entry.name)] = parent
    found, queue = [], [pid]
    while queue:
        above = queue.pop(0)
        below = sorted(child for child, parent in parents.items() if parent == above)
        found += below
        queue += below
    return found


def _parent(pid: int) -> int | None:
    """Parent of a live process; None for one that is gone or a zombie (its parent has yet to reap it)."""
    try:
        stat = (PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command may hold spaces and brackets: the fields begin after the last one.
    state, parent = stat.rpartition(")")[2].split()[:2]
    return None if state in "ZX" else int(parent)


def alive(pid: int) -> bool:
    return _parent(pid) is not None


def command(pid: int) -> str:
    """The command line, arguments separated by blanks; empty for a process that is gone."""
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def wait_gone(pids: Iterable[int], timeout_s: float) -> list[int]:
    """Those that are still there after timeout_s."""
    end = time.monotonic() + timeout_s
    left = [pid for pid in pids if alive(pid)]
    while left and time.monotonic() < end:
        time.sleep(0.02)
        left = [pid for pid in left if alive(pid)]
    return left


def holder_of(server_port: int, client_port: int, among: Iterable[int]) -> int | None:
    """Which process of `among` holds the server's end of a loopback connection (None: not accepted yet)."""
    fields = _socket(server_port, client_port)
    if fields is None:
        return None
    return next((pid for pid in among if f"socket:[{fields[9]}]" in _open_files(pid)), None)


def _open_files(pid: int) -> list[str]:
    """What the descriptors of a process lead to. Those that are closed while we look are left out."""
    found = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for name in os.listdir(folder := PROC / str(pid) / "fd"):
            with suppress(FileNotFoundError, ProcessLookupError):
                found.append(os.readlink(folder / name))
    return found


def held_by(pid: int, server_port: int) -> int:
    """How many connections on that port the process has open."""
    lines = (PROC / "net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    inodes = {f"socket:[{f[9]}]" for f in fields if int(f[1].rpartition(":")[2], 16) == server_port}
    return sum(name in inodes for name in _open_files(pid))


def unread_bytes(server_port: int, client_port: int) -> int | None:
    """What a loopback connection's client has sent and the server has not read (None: it is not open)."""
    there, here = _socket(server_port, client_port), _socket(client_port, server_port)
    if there is None or here is None:
        return None
    sending, receiving = here[4].partition(":")[0], there[4].partition(":")[2]
    return int(sending, 16) + int(receiving, 16)


def private_bytes(pid: int) -> int:
    """Memory that no file stands behind (RssAnon). Raises FileNotFoundError where the process is gone."""
    lines = (PROC / str(pid) / "status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon:")).split()[1])


def _socket(local_port: int, remote_port: int) -> list[str] | None:
    """Fields of a TCP socket's line."""
    for line in (PROC / "net/tcp").read_text().splitlines()[1:]:
        field = line.split()
        local, remote = (int(address.rpartition(":")[2], 16) for address in field[1:3])
        if (local, remote) == (local_port, remote_port):
            return field
    return None
