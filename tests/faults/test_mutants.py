"""Suite 6: what these suites do not notice, nobody does. Each mutant of `mutants.py` must make its suite fail."""

import time
from pathlib import Path

import pytest

from tests.faults.mutants import MUTANTS, WHOLE, Mutant, plant, run, source
from tests.faults.table import Extent, record

COMMANDS = sorted({mutant.command for mutant in MUTANTS if WHOLE not in mutant.command})


@pytest.fixture
def whole(extent: Extent) -> None:
    if extent != "whole":
        pytest.skip("mutants are tried by `make faults`")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_source_still_has_the_line(mutant: Mutant) -> None:
    for change in mutant.changes:
        assert source(change.file).count(change.old) == 1, f"{change.file}: {change.old!r}"


@pytest.mark.usefixtures("whole")
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_tree_as_it_is_passes(tmp_path: Path, command: tuple[str, ...]) -> None:
    """Else a mutant's failure would prove nothing."""
    plant(tmp_path / "tree", ())
    ended = run(tmp_path / "tree", command)
    assert ended.returncode == 0, ended.stdout + ended.stderr[-2000:]


@pytest.mark.usefixtures("whole")
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_mutant_is_noticed(tmp_path: Path, mutant: Mutant) -> None:
    begun = time.monotonic()
    plant(tmp_path / "tree", mutant.changes)
    ended = run(tmp_path / "tree", mutant.command)
    told = ended.stdout + ended.stderr[-2000:]
    # One that cannot even run shows nothing: the suite says what it lost, and does not break.
    survived = ended.returncode != 1 or not ended.stdout.strip()
    record("6 mutants (lost: survived)", 1, int(survived), seconds=time.monotonic() - begun)
    print(told)
    assert not survived, f"status {ended.returncode}: {told}"
