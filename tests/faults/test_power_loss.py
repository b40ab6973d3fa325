"""Suite 3: the power goes. Whatever was acknowledged is on the disk, whatever of the unsynced is lost.

`python -m tests.faults.power` runs it by itself.
"""

import time
from pathlib import Path

import pytest

from tests.faults.power import QUICK_IMAGES, WHOLE_IMAGES, lose_power
from tests.faults.table import Extent, record


@pytest.mark.timeout(3600)
def test_everything_acknowledged_survives_a_power_loss(tmp_path: Path, extent: Extent) -> None:
    begun = time.monotonic()
    images = WHOLE_IMAGES if extent == "whole" else QUICK_IMAGES
    outcome = lose_power(tmp_path, images, seed=1)
    failures = outcome.failures
    record("3 power loss", outcome.images, len(failures), judged=outcome.judged, seconds=time.monotonic() - begun)
    assert not failures, f"{len(failures)} of {outcome.images} images: " + "\n".join(map(str, failures[:5]))
    assert outcome.images == images
