"""Makes images of a recorded run and judges them, in processes of their own."""

import logging
import os
import random
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from tests.faults.disk import Disk, Image, Record
from tests.faults.judge import Lost, judge
from tests.faults.power_again import Again
from tests.faults.power_cases import Case, fate
from tests.faults.power_record import Recorded

PROCESSES = 2
CASES_AT_ONCE = 20
FEW_AT_ONCE = 4
"""Where the first failure is waited for: what has begun is judged to its end."""
SHARED_MEMORY = Path("/dev/shm")
SHM_BYTES = 32 << 10
STALE_SHM = 0.3
"""Share of the databases beside which shared memory is left."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An image that was not what was acknowledged. lost: differences found; 0: the folder was unfit altogether."""

    case: Case
    lost: int
    message: str
    kept: Path
    """A copy of the (first) image (`data`) and of the ledger at that point (`ledger`)."""

    def __str__(self) -> str:
        return f"{self.case}: {self.message}; the image is in {self.kept}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """images: those judged; judged: acknowledged operations looked for in them, all together."""

    images: int
    judged: int
    failures: list[Failure]


def write_image(record: Record, ledger: bytes, case: Case, disk: Disk, target: Path) -> None:
    """target/data and target/ledger. disk: anywhere before the case's point; it moves there."""
    rng = random.Random(case.seed)
    disk.advance(case.point)
    (target / "data").mkdir(parents=True)
    Image(disk, fate(case, disk, rng), rng).write(target / "data")
    for database in sorted((target / "data").rglob("*.db")):
        if rng.random() < STALE_SHM:
            # Shared memory is pages of a file too: whatever of it came to the disk must be of no account.
            database.with_name(database.name + "-shm").write_bytes(rng.randbytes(SHM_BYTES))
    sizes = record.ledger_bytes
    known = sizes[case.point] if case.point < len(sizes) else len(ledger)
    (target / "ledger").write_bytes(ledger[:known])


def judge_all(recorded: Recorded, cases: Sequence[Case], keep: Path, *, fail_fast: bool = False) -> Outcome:
    """Two at a time. keep: where failed images are left; fail_fast: the first one ends it."""
    keep.mkdir(parents=True, exist_ok=True)
    size = FEW_AT_ONCE if fail_fast else CASES_AT_ONCE
    parts = [cases[i : i + size] for i in range(0, len(cases), size)]
    images = judged = 0
    failures: list[Failure] = []
    with ProcessPoolExecutor(PROCESSES, get_context("spawn"), _begin, (keep,)) as pool:
        running = [pool.submit(_judge_part, recorded, part, keep, fail_fast) for part in parts]
        for future in as_completed(running):
            outcome = future.result()
            images, judged = images + outcome.images, judged + outcome.judged
            failures += outcome.failures
            if failures and fail_fast:
                pool.shutdown(cancel_futures=True)
                break
    return Outcome(images, judged, sorted(failures, key=lambda f: f.case.number))


_again: list[Again] = []
"""Of a judging process: one, once it was needed."""


def _begin(keep: Path) -> None:
    """What judging says of itself (collections that are closed, Faiss's warnings) goes to a file."""
    log = os.open(keep / f"judge-{os.getpid()}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    logging.basicConfig(level=logging.INFO)


def _lose_power_again(case: Case, data: Path) -> None:
    if not _again:
        _again.append(Again())
    _again[0].lose_power(case, data)


def _judge_part(recorded: Recorded, cases: Sequence[Case], keep: Path, fail_fast: bool) -> Outcome:
    record, ledger = recorded.load(), recorded.ledger.read_bytes()
    disk = Disk(record)
    judged, failures = 0, []
    for number, case in enumerate(cases, 1):
        with _room(recorded.folder) as folder:
            write_image(record, ledger, case, disk, folder)
            try:
                if case.again:
                    _lose_power_again(case, folder / "data")
                judged += judge(folder / "data", folder / "ledger").acknowledged
                continue
            except Exception as e:
                logging.exception("%s", case)
                lost, message = e.lost if isinstance(e, Lost) else 0, f"{type(e).__name__}: {e}"
        kept = Path(tempfile.mkdtemp(prefix=f"case-{case.number}-", dir=keep))
        write_image(record, ledger, case, Disk(record), kept)
        failures.append(Failure(case, lost, message, kept))
        if fail_fast:
            return Outcome(number, judged, failures)
    return Outcome(len(cases), judged, failures)


@contextmanager
def _room(otherwise: Path) -> Iterator[Path]:
    """An empty folder, in memory where that can be had: images are many, small, and soon gone."""
    base = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else otherwise
    folder = Path(tempfile.mkdtemp(prefix="seedvec-image-", dir=base))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
