"""Suite 4: a disk that is full or fails at every write, sync, truncation, rename and unlink, ours and SQLite's own.

What is acknowledged is there; what is refused says whether it is; reads go on meanwhile; on a disk that is well again
the same operation succeeds, and nothing was started anew.
"""

import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from storage.check import check
from tests.faults import failing, kills
from tests.faults.failing import FAILURES, Failure, Fault, Outcome
from tests.faults.judge import Judged
from tests.faults.planned import OPERATIONS, TOUR
from tests.faults.table import Extent, record

SUITE = "4 a full or failing disk"
REFUSALS = {"disk-full", "unavailable", "outcome-unknown"}
MORE_OF_A_RUN = 4


@dataclass(frozen=True, slots=True)
class Share:
    """operations: of the script; each: faults beside one operation, evenly over its places; of_a_name: and beside as
    many operations as that, at the first place of every name."""

    operations: int
    each: int
    of_a_name: int


SHARES: dict[Extent, tuple[Share, ...]] = {
    "quick": (Share(len(TOUR) + 5, 1, 0),),
    "whole": (Share(len(TOUR) + 5, 16, 3), Share(OPERATIONS, 2, 6)),
}


def faults_of(places: list[list[str]], share: Share) -> list[list[Fault]]:
    """Runs of the script, with one fault an operation at most: every fault is in one of them."""
    seen, by_operation = Counter[str](), []
    for n, there in enumerate(places):
        chosen = set(kills.evenly(len(there), share.each)) if there else set()
        for name in sorted(set(there)):
            seen[name] += 1
            if seen[name] <= share.of_a_name:
                chosen.add(there.index(name) + 1)
        by_operation.append(
            [
                Fault(n, place, failure, lasting)
                for place in sorted(chosen)
                for failure in FAILURES
                for lasting in (False, True)
            ]
        )
    runs = max(len(faults) for faults in by_operation)
    return [[faults[run] for faults in by_operation if run < len(faults)] for run in range(runs)]


def verdict(folder: Path) -> tuple[str, Judged | str]:
    """What a check says of the folder as the server left it (empty: it is sound), and the judge after a restart."""
    report = check(folder / "data")
    return "" if report.sound else str(report), kills.judge_case(folder, MORE_OF_A_RUN)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", [0, 1])
def test_a_disk_that_fails_at_every_place(
    base: Path, players: ProcessPoolExecutor, judges: ProcessPoolExecutor, extent: Extent, part: int
) -> None:
    if part >= len(SHARES[extent]):
        pytest.skip("the long script: `make faults`")
    share, begun = SHARES[extent][part], time.monotonic()
    places = players.submit(failing.places_of, *kills.fresh(base, "counted"), share.operations).result()
    runs = faults_of(places, share)
    outcomes = [
        players.submit(failing.play_on, *kills.fresh(base, f"run-{n}"), share.operations, faults)
        for n, faults in enumerate(runs)
    ]
    verdicts = [judges.submit(verdict, base / f"run-{n}") for n, outcome in enumerate(outcomes) if outcome.result()]
    struck, refused = Counter[tuple[str, Failure]](), Counter[str]()
    for n, outcome in enumerate(outcomes):
        found: Outcome = outcome.result()
        struck, refused = struck + found.struck, refused + found.refused
        unsound, judged = verdicts[n].result()
        wrong = [*found.wrong, unsound, judged if isinstance(judged, str) else ""]
        acknowledged = judged.acknowledged if isinstance(judged, Judged) else 0
        record(SUITE, len(runs[n]), any(wrong), judged=acknowledged + found.judged)
        assert not any(wrong), f"run {n}: {wrong}"
    record(SUITE, 0, 0, seconds=time.monotonic() - begun)
    print(dict(refused), {name: struck[name] for name in sorted(struck)})
    assert {code for code in refused if "-" in code} <= REFUSALS, refused
    if share.of_a_name:
        reached = {name for there in places for name in there}
        missed = {(name, failure) for name in reached for failure in FAILURES} - struck.keys()
        assert not missed, f"never failed: {sorted(missed)}"
