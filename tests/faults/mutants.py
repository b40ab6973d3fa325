"""Suite 6: each line that keeps a promise, taken out in turn. The suites must notice every one.

A mutant is a change of the source as small as the mistake it stands for, made in a copy of the tree; the command that
must go red is the cheapest that can. Killing alone shows no missing fsync, and a power cut no wrong answer: each mutant
names the suite that is there for it.
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
TREE: Final = ("app", "storage", "index", "seedvec", "tests", "pyproject.toml")
"""What a mutant needs of it."""
TIMEOUT_S: Final = 600


@dataclass(frozen=True, slots=True)
class Change:
    """In `file`, the one place that reads `old` becomes `new`."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """command: arguments of `python -m` that must end with status 1 on it, and with 0 on the tree as it is."""

    name: str
    changes: tuple[Change, ...]
    command: tuple[str, ...]


def kills(*points: str, hits: int = 10) -> tuple[str, ...]:
    return ("tests.faults.kills", "--hits", str(hits), *points)


POWER: Final = ("tests.faults.power", "--images", "400", "--fail-fast")
PYTEST: Final = ("pytest", "-x", "-q", "-p", "no:cacheprovider")
WHOLE: Final = "--faults=whole"
"""Of a suite that is part of the same run: that it passes on the tree as it is need not be shown twice."""


def damaged(kind: str) -> tuple[str, ...]:
    return (*PYTEST, WHOLE, f"tests/faults/test_damage.py::test_damage_before_a_start[{kind}]")


RECOVERY: Final = (*PYTEST, "tests/engine/test_recovery.py")
FAILING_DISK: Final = (*PYTEST, "tests/faults/test_failing_disk.py")

MUTANTS: Final = (
    Mutant(
        "a segment is not synced",
        (Change("storage/atomic.py", "        fsync_file(tmp)\n", ""),),
        POWER,
    ),
    Mutant(
        "nor is the folder that it appears in",
        (Change("storage/atomic.py", "        fsync_dir(final.parent)\n", ""),),
        POWER,
    ),
    Mutant(
        "nor is the folder of a new collection",
        (Change("storage/catalogue.py", "        fsync_dir(made)\n", ""),),
        POWER,
    ),
    Mutant(
        "SQLite does not sync",
        (Change("storage/database.py", 'pragma("synchronous", 2)', 'pragma("synchronous", 0)'),),
        POWER,
    ),
    Mutant(
        "SQLite syncs at checkpoints only",
        (Change("storage/database.py", 'pragma("synchronous", 2)', 'pragma("synchronous", 1)'),),
        POWER,
    ),
    Mutant(
        "a delete is acknowledged before its commit",
        (
            Change(
                "app/engine/writer.py",
                "                waiting.result = waiting.act(turn)\n",
                "                waiting.result = waiting.act(turn)\n"
                "                if waiting.frees:\n"
                "                    waiting.done.get_loop().call_soon_threadsafe(_settle, [waiting])\n",
            ),
        ),
        kills("database.commit", hits=1000),
    ),
    Mutant(
        "what is acknowledged is remembered before its commit",
        (
            Change(
                "app/engine/writer.py",
                "                turn = self._act_on_all(db, batch)\n",
                "                turn = self._act_on_all(db, batch)\n                turns.remember(turn.state)\n",
            ),
        ),
        kills("database.commit"),
    ),
    Mutant(
        "the idempotency key comes in a transaction of its own, later",
        (
            Change(
                "storage/writes.py",
                '            self.db.execute("INSERT INTO idempotency VALUES (?,?,?,?)", row)\n',
                "            LATER.append((self.db.path, row))\n",
            ),
            Change(
                "storage/writes.py",
                "        self.state = catalogue.read_state(db)\n",
                "        self.state = catalogue.read_state(db)\n"
                "        for path, row in [entry for entry in LATER if entry[0] == db.path]:\n"
                '            db.execute("INSERT OR IGNORE INTO idempotency VALUES (?,?,?,?)", row)\n',
            ),
            Change("storage/writes.py", "IDEMPOTENCY_S = ", "LATER: list[Any] = []\nIDEMPOTENCY_S = "),
        ),
        kills("database.committed", hits=40),
    ),
    Mutant(
        "a segment is named before it is renamed into its place",
        (
            Change(
                "app/engine/files.py",
                '    atomic.publish(tmp, final, "segment")\n',
                '    LATER.append((tmp, final)) if DELAYED else atomic.publish(tmp, final, "segment")\n',
            ),
            Change(
                "app/engine/files.py",
                "@dataclass",
                "DELAYED = False\nLATER: list[tuple[Path, Path]] = []\n\n\n@dataclass",
            ),
            Change(
                "app/engine/sealing.py",
                "        written = write_sealed(",
                "        files.DELAYED = True\n        written = write_sealed(",
            ),
            Change(
                "app/engine/sealing.py",
                "            c.publisher.seal(segment, last, state.log_pos)\n",
                "            c.publisher.seal(segment, last, state.log_pos)\n"
                "            for tmp, final in files.LATER:\n"
                '                atomic.publish(tmp, final, "segment")\n'
                "            files.DELAYED = False\n"
                "            files.LATER.clear()\n",
            ),
            Change(
                "app/engine/sealing.py",
                "from app.engine.files import write_sealed\n",
                "from app.engine import files\nfrom app.engine.files import write_sealed\n",
            ),
        ),
        kills("segment.fsync", "segment.rename"),
    ),
    Mutant(
        "pending rows are removed in one transaction, their segment is named in the next",
        (
            Change(
                "storage/publish.py",
                "snapshot_pos)\n            if segment is not None:\n",
                "snapshot_pos)\n        with self._turn() as state:\n            if segment is not None:\n",
            ),
        ),
        kills("seal.commit"),
    ),
    Mutant(
        "deaths are forgotten before the merge that leaves them out",
        (
            Change(
                "app/engine/building.py",
                "            gone = c.publisher.merge(",
                "            c.publisher.forget_deaths(rows.dropped)\n            gone = c.publisher.merge(",
            ),
        ),
        kills("merge.commit"),
    ),
    Mutant(
        "what was merged is unlinked before the merge is real",
        (
            Change(
                "app/engine/building.py",
                "            gone = c.publisher.merge(",
                "            self._unlink([row.file for row in job.segments])\n            gone = c.publisher.merge(",
            ),
        ),
        kills("merge.commit"),
    ),
    Mutant(
        "a collection is named before its folder is there",
        (
            Change(
                "storage/registry.py",
                "        try:\n            _make(folder, settings, name, made_for)\n",
                "        try:\n"
                "            with self._db.writing():\n"
                '                self._db.execute("INSERT INTO collections VALUES (?,?,?,NULL)", '
                "(name, uuid, settings.created))\n"
                "            _make(folder, settings, name, made_for)\n"
                "            with self._db.writing():\n"
                '                self._db.execute("DELETE FROM collections WHERE name = ?", (name,))\n',
            ),
        ),
        kills("catalogue.create", "catalogue.create.database"),
    ),
    Mutant(
        "a collection is unlinked before it has lost its name",
        (
            Change(
                "storage/registry.py",
                "            hit(MARKED_DROPPED)\n",
                "            shutil.rmtree(folder)\n            hit(MARKED_DROPPED)\n",
            ),
            Change("storage/registry.py", "usable and mark_dropped(folder)\n", "usable\n"),
        ),
        kills("registry.drop.marked"),
    ),
    Mutant(
        "recovery does not sweep",
        (Change("storage/atomic.py", "    for name in strays:\n", "    for name in strays[:0]:\n"),),
        kills("segment.rename", "segment.published"),
    ),
    Mutant(
        "a drop that was cut off is not brought to its end",
        (
            Change(
                "app/engine/recovery.py",
                "                if _drop_to_the_end(registry, entry):\n",
                "                if entry.uuid:\n",
            ),
        ),
        kills("registry.drop.marked"),
    ),
    Mutant(
        "a segment's checksum is not compared at the start",
        (Change("app/engine/verifying.py", "        if hex16(digest) != segment.xxh3:\n", "        if not digest:\n"),),
        RECOVERY,
    ),
    Mutant(
        "an index's checksum is not compared at the start",
        (Change("app/engine/verifying.py", " and hex16(digest) == row.xxh3", ""),),
        RECOVERY,
    ),
    Mutant(
        "a catalogue's pages are not verified at the start",
        (
            Change(
                "app/engine/verifying.py", "    bad = pages.verify(db.path)\n", "    bad = pages.verify(db.path)[:0]\n"
            ),
        ),
        damaged("catalogue"),
    ),
    Mutant(
        "what was remembered of the last write is not compared",
        (Change("app/engine/verifying.py", "    if lacks:\n", "    if lacks and not folder:\n"),),
        damaged("catalogue's log"),
    ),
    Mutant(
        "a commit that failed is acknowledged",
        (
            Change(
                "storage/database.py",
                "            full = isinstance(e, OSError) and e.errno in FULL\n",
                "            return\n            full = isinstance(e, OSError) and e.errno in FULL\n",
            ),
        ),
        FAILING_DISK,
    ),
    Mutant(
        "the frames of a commit that failed are not written over",
        (
            Change(
                "storage/database.py",
                '                fresh.pragma("user_version", fresh.pragma("user_version"))',
                "                pass",
            ),
        ),
        (*PYTEST, "tests/storage/test_fsync_error.py"),
    ),
    Mutant(
        "a start trusts the log that it reads",
        (Change("app/engine/recovery.py", "        db.rewrite_log()\n", ""),),
        (*PYTEST, "tests/engine/test_start_on_a_bad_disk.py"),
    ),
    Mutant(
        "a full disk is answered with success",
        (
            Change(
                "app/engine/writer.py",
                "        for waiting in refused:\n            waiting.error = waiting.error or e\n",
                "",
            ),
        ),
        FAILING_DISK,
    ),
)


def source(file: str) -> str:
    return (ROOT / file).read_text()


def plant(tree: Path, changes: Sequence[Change]) -> None:
    """Copies what is needed of the tree, with the changes made."""
    for part in TREE:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            tree.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / part, tree / part)
    for change in changes:
        path = tree / change.file
        text = path.read_text()
        assert text.count(change.old) == 1, f"{change.file} does not say {change.old!r} once"
        path.write_text(text.replace(change.old, change.new))


def run(tree: Path, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """In a process of its own, whose modules are the tree's."""
    words = [sys.executable, "-P", "-m", *command]
    return subprocess.run(
        words,
        cwd=tree,
        env={"PYTHONPATH": str(tree), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "TMPDIR": str(tree.parent)},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
