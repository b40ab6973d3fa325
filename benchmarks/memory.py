"""Resident memory of a server's processes, from /proc/*/smaps_rollup.

Pss shares out the pages that several processes map, so that its sum over the processes is what they hold together;
private pages are those that nobody else maps. Pages of the page cache that no process maps are in neither.
"""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

EVERY_S = 0.25
KIB = 1024


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes, summed over the processes. anonymous: Pss less what is backed by files, which can be dropped at need."""

    pss: int
    private: int
    anonymous: int

    def __str__(self) -> str:
        return ", ".join(f"{name} {getattr(self, name) / 2**20:.0f} MiB" for name in ("pss", "private", "anonymous"))


def measure(pids: list[int]) -> Memory:
    """Processes that are gone are left out."""
    pss = private = anonymous = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        field = {name: int(rest.split()[0]) * KIB for name, _, rest in _lines(text)}
        pss += field["Pss"]
        private += field["Private_Clean"] + field["Private_Dirty"]
        anonymous += field["Pss_Anon"]
    return Memory(pss, private, anonymous)


def measure_self() -> Memory:
    return measure([os.getpid()])


def _lines(text: str) -> list[tuple[str, str, str]]:
    """The first line is the range of addresses."""
    return [line.partition(":") for line in text.splitlines()[1:]]


class Peak:
    """`with Peak(pids) as peak:` measures what `pids()` hold, every EVERY_S; `peak.memory` is the most of each."""

    def __init__(self, pids: Callable[[], list[int]]) -> None:
        self.memory = Memory(0, 0, 0)
        self._pids = pids
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            now, top = measure(self._pids()), self.memory
            self.memory = Memory(
                max(now.pss, top.pss), max(now.private, top.private), max(now.anonymous, top.anonymous)
            )
