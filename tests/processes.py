"""What /proc says about a server's processes: its children, and which of them holds a connection."""

import os
import time
from collections.abc import Iterable
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
    inode = _inode(server_port, client_port)
    if inode is None:
        return None
    wanted = f"socket:[{inode}]"
    for pid in among:
        try:
            names = os.listdir(PROC / str(pid) / "fd")
        except (FileNotFoundError, ProcessLookupError):
            continue
        for name in names:
            try:
                if os.readlink(PROC / str(pid) / "fd" / name) == wanted:
                    return pid
            except (FileNotFoundError, ProcessLookupError):
                continue
    return None


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


def _inode(server_port: int, client_port: int) -> str | None:
    found = _socket(server_port, client_port)
    return None if found is None else found[9]


def _socket(local_port: int, remote_port: int) -> list[str] | None:
    """Fields of a TCP socket's line."""
    for line in (PROC / "net/tcp").read_text().splitlines()[1:]:
        field = line.split()
        local, remote = (int(address.rpartition(":")[2], 16) for address in field[1:3])
        if (local, remote) == (local_port, remote_port):
            return field
    return None
