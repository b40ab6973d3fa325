"""Suite 3: the power goes. Whatever was acknowledged is on the disk, whatever of the unsynced is lost.

`python -m tests.faults.power` runs it by itself.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults.power import QUICK_IMAGES, WHOLE_IMAGES
from tests.faults.power_cases import SHARES, Case, cases, first_start
from tests.faults.power_images import judge_all
from tests.faults.power_record import Recorded, record
from tests.faults.table import Extent
from tests.faults.table import record as note

SUITE = "3 power loss"
pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    begun = time.monotonic()
    made = record(tmp_path_factory.mktemp("recorded"))
    note(SUITE, 0, 0, seconds=time.monotonic() - begun)
    return made


def _judge(recorded: Recorded, chosen: Sequence[Case], keep: Path) -> None:
    begun = time.monotonic()
    outcome = judge_all(recorded, chosen, keep)
    failures = outcome.failures
    note(SUITE, outcome.images, len(failures), judged=outcome.judged, seconds=time.monotonic() - begun)
    assert not failures, f"{len(failures)} of {outcome.images} images: " + "\n".join(map(str, failures[:5]))
    assert outcome.images == len(chosen)


def test_everything_acknowledged_survives_a_power_loss(recorded: Recorded, tmp_path: Path, extent: Extent) -> None:
    images = WHOLE_IMAGES if extent == "whole" else QUICK_IMAGES
    _judge(recorded, cases(recorded.load(), recorded.ledger.read_bytes(), images, seed=1), tmp_path)


def test_a_folder_whose_first_start_was_cut_off_starts(recorded: Recorded, tmp_path: Path, extent: Extent) -> None:
    hows = list(SHARES) if extent == "whole" else ["all lost"]
    _judge(recorded, first_start(recorded.load(), hows, seed=1), tmp_path)
