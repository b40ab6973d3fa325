"""`python -m tests.faults.power_record FOLDER`: runs the script under the recorder, and proves the record.

Leaves FOLDER/data, FOLDER/ledger and FOLDER/record (pickled: a `disk.Record`).
"""

import argparse
import asyncio
import pickle
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.faults.disk import Record
from tests.faults.power_hooks import Hooks
from tests.faults.power_recorder import Recorder
from tests.faults.script import SEED, play

TIMEOUT_S = 100.0


class Recorded(NamedTuple):
    """Where a recorded run of the script lies."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger"

    def load(self) -> Record:
        record: Record = pickle.loads((self.folder / "record").read_bytes())
        return record


def record(folder: Path, seed: int = SEED) -> Recorded:
    """In a process of its own: the hooks are for good. Raises CalledProcessError where the script or its proof fails.

    folder: there, and empty.
    """
    words = [sys.executable, "-m", "tests.faults.power_record", str(folder), "--seed", str(seed)]
    subprocess.run(words, check=True, timeout=TIMEOUT_S)
    return Recorded(folder)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=SEED)
    args = parser.parse_args()
    recorded = Recorded(args.folder)
    recorded.data.mkdir()
    recorded.ledger.touch()
    recorder = Recorder()
    Hooks(recorder).install()
    recorder.begin(recorded.data, recorded.ledger)
    asyncio.run(play(recorded.data, recorded.ledger, args.seed, 0, None))
    recorder.verify()
    (args.folder / "record").write_bytes(pickle.dumps(recorder.end()))


if __name__ == "__main__":
    main()
