"""What a kill leaves behind, at any place of the script: images of the data folder, and real kills beside them.

`python -m tests.faults.kills [--operations N] [--hits N] FAILPOINT…` tries these alone; status 1 at the first loss.

A process that is killed leaves what the kernel has: every byte written, none of what it held in memory, no lock. What
lies on the disk *while* the process stands at a place is therefore exactly what a kill there leaves; so one run of the
script, which copies the folder and the ledger wherever it comes by, gives hundreds of crashes that would each cost a
run of their own. `kill_there` does it the hard way, to show that both leave the same.
"""

import argparse
import asyncio
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Final, NoReturn

from app.engine.recovery import recover
from storage import failpoints
from tests.faults import sqlite_points
from tests.faults.judge import MORE, Judged, judge
from tests.faults.planned import TOUR
from tests.faults.script import SEED, play

Halfwrite = Callable[[], object] | None
Wanted = dict[str, set[int]]
"""Failpoint → which of its hits (from 1)."""
AT_ONCE = 2
"""Processes that crash or judge side by side: as many as a small machine has cores."""
SHM: Final = Path("/dev/shm")
PRELOADED: Final = ["tests.faults.kills"]
HALF: Final = frozenset({"segment.write", "catalogue.remember", "folder.unlink", "sqlite.db.write", "sqlite.wal.write"})
"""Places that offer half of a write: that a real kill leaves there what an image of it shows is tried too."""


def forking() -> ForkServerContext:
    """Children of a process that has imported everything, and has started no thread: a start costs milliseconds."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


@contextmanager
def working_folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where that is possible: a kill leaves what the kernel has, whatever the disk."""
    if not os.access(SHM, os.W_OK):
        yield tmp_path
        return
    folder = SHM / f"seedvec-faults-{os.getpid()}-{threading.get_ident()}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def quietly() -> None:
    """In a child: what recovery says of damage that was done on purpose is nobody's concern."""
    logging.disable(logging.CRITICAL)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)


def watch_sqlite() -> None:
    """In a child that takes images: SQLite's own writes have failpoints too."""
    quietly()
    sqlite_points.install()


@dataclass(frozen=True, slots=True)
class Case:
    """A crash: where, and what it left: a folder with `data` and `ledger`."""

    point: str
    hit: int
    half: bool
    folder: Path

    def __str__(self) -> str:
        return f"{'half a write' if self.half else 'killed'} at {self.point}, hit {self.hit}"


class Camera:
    """Copies the data folder and the ledger at the wanted hits, and with half of a write done where one is offered."""

    def __init__(self, data: Path, ledger: Path, into: Path, wanted: Wanted) -> None:
        self.counts: Counter[str] = Counter()
        self.cases: list[Case] = []
        self._data, self._ledger, self._into, self._wanted = data, ledger, into, wanted
        self._lock = threading.Lock()

    def see(self, name: str, halfwrite: Halfwrite) -> None:
        with self._lock:
            self.counts[name] += 1
            if self.counts[name] not in self._wanted.get(name, ()):
                return
            self._take(name, half=False)
            if halfwrite is not None:
                # The whole write follows at the same place, so that the script goes on as if nothing had been.
                halfwrite()
                self._take(name, half=True)

    def _take(self, name: str, half: bool) -> None:
        folder = self._into / f"{len(self.cases):05d}-{name}{'-half' if half else ''}"
        copy_to(self._data, self._ledger, folder)
        self.cases.append(Case(name, self.counts[name], half, folder))


def copy_to(data: Path, ledger: Path, folder: Path) -> None:
    """Bytes alone: no holes, times or links are needed."""
    folder.mkdir(parents=True)
    shutil.copytree(data, folder / "data", copy_function=shutil.copyfile)
    if ledger.exists():
        shutil.copyfile(ledger, folder / "ledger")


def fresh(base: Path, name: str) -> tuple[Path, Path]:
    """An empty data folder and the place of its ledger."""
    data = base / name / "data"
    data.mkdir(parents=True)
    return data, base / name / "ledger"


def photographed(base: Path, operations: int, wanted: Wanted) -> tuple[Counter[str], list[Case]]:
    """One run of the script in this process: how often each failpoint was hit, and the images."""
    data, ledger = fresh(base, "run")
    camera = Camera(data, ledger, base / "images", wanted)
    with failpoints.watched(camera.see):
        asyncio.run(play(data, ledger, SEED, 0, operations))
    shutil.rmtree(data.parent)
    return camera.counts, camera.cases


def photographed_recovery(case: Case, wanted: Wanted) -> tuple[Counter[str], list[Case]]:
    """The same of the recovery from a crash."""
    folder = case.folder.with_name(case.folder.name + "-recovery")
    copy_to(case.folder / "data", case.folder / "ledger", folder)
    camera = Camera(folder / "data", folder / "ledger", folder / "images", wanted)
    with failpoints.watched(camera.see):
        recover(folder / "data")
    shutil.rmtree(folder / "data")
    return camera.counts, camera.cases


def judge_case(folder: Path, more: int = MORE) -> Judged | str:
    """What was found, or what is wrong. The folder is taken away where all is well. more: as in `judge`."""
    try:
        judged = judge(folder / "data", folder / "ledger", more=more)
    except Exception as e:
        return f"{type(e).__name__}: {e}"
    shutil.rmtree(folder)
    return judged


def evenly(count: int, at_most: int) -> set[int]:
    """Of the numbers 1 … count: the first, the last, and some between."""
    if count <= at_most:
        return set(range(1, count + 1))
    if at_most == 1:
        return {(count + 1) // 2}
    return {1 + round(i * (count - 1) / (at_most - 1)) for i in range(at_most)}


# ------------------------------------------------------------------ the hard way


def kill_there(folder: Path, operations: int, armed: str) -> bool:
    """Runs the script in a fork of this process with these failpoints armed. False: it came to its end alive.

    For a process that has started no thread: one that does nothing else.
    """
    (folder / "data").mkdir(parents=True)
    child = os.fork()
    if child == 0:
        _die(folder, operations, armed)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status) == signal.SIGKILL
    assert os.WEXITSTATUS(status) == 0, f"{armed}: the script failed"
    return False


def _die(folder: Path, operations: int, armed: str) -> NoReturn:
    status = 1
    try:
        failpoints.arm(armed)
        asyncio.run(play(folder / "data", folder / "ledger", SEED, 0, operations))
        status = 0
    finally:
        os._exit(status)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("points", nargs="+")
    parser.add_argument("--operations", type=int, default=len(TOUR))
    parser.add_argument("--hits", type=int, default=10)
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(dir=SHM if os.access(SHM, os.W_OK) else None) as name:
        counts, _ = photographed(Path(name), args.operations, {})
        wanted = {point: evenly(counts[point], args.hits) for point in args.points}
        assert all(wanted.values()), f"nobody comes to {[point for point, hits in wanted.items() if not hits]}"
        _, cases = photographed(Path(name), args.operations, wanted)
        for case in cases:
            found = judge_case(case.folder)
            if isinstance(found, str):
                print(f"{case}: {found}")
                return 1
    print(f"{len(cases)} crashes, nothing lost")
    return 0


if __name__ == "__main__":
    sys.exit(main())
