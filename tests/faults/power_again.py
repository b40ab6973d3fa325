"""The power comes back and goes again while the folder recovers.

The recovery is recorded, so it runs in a process of its own: under the hooks SQLite cannot open a database read-only
(closing it fails in a lock that plain SQLite lets fail), which judging wants to do.
"""

import logging
import random
import shutil
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from app.engine.recovery import recover
from tests.faults.disk import Disk, Image
from tests.faults.power_cases import Case, fate
from tests.faults.power_hooks import Hooks
from tests.faults.power_recorder import Recorder


class Again:
    """The process. It ends with the one that made it."""

    def __init__(self) -> None:
        context = get_context("spawn")
        self._mine, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def lose_power(self, case: Case, data: Path) -> None:
        """Recovers `data`, and leaves in its place what the disk held at some moment of that.

        Raises RuntimeError with what the recovery raised.
        """
        self._mine.send((case, data))
        failed = self._mine.recv()
        if failed is not None:
            raise RuntimeError(f"the recovery before the second power loss: {failed}")


def _serve(theirs: "Connection[str | None, tuple[Case, Path]]") -> None:
    recorder = Recorder()
    Hooks(recorder).install()
    while True:
        try:
            case, data = theirs.recv()
        except EOFError:
            return
        try:
            _fall(recorder, case, data)
            theirs.send(None)
        except Exception as e:
            logging.exception("%s", case)
            theirs.send(f"{type(e).__name__}: {e}")


def _fall(recorder: Recorder, case: Case, data: Path) -> None:
    rng = random.Random(case.seed + 1)
    synced = recorder.begin(data)
    try:
        recover(data)
        recorder.verify()
    finally:
        record = recorder.end()
    disk = Disk(record)
    disk.advance(rng.randint(synced, len(record.events)))
    shutil.rmtree(data)
    data.mkdir()
    Image(disk, fate(case, disk, rng), rng).write(data)
