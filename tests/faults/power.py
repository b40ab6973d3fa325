"""`python -m tests.faults.power [--images N] [--seed N] [--fail-fast]`: the power-loss suite by itself.

Exit status 1 where an image is not what was acknowledged. Leaves failed images in a folder that it names.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.power_cases import cases
from tests.faults.power_images import Outcome, judge_all
from tests.faults.power_record import record
from tests.faults.script import SEED

QUICK_IMAGES = 60
WHOLE_IMAGES = 2_000


def lose_power(folder: Path, images: int, seed: int, *, fail_fast: bool = False, script_seed: int = SEED) -> Outcome:
    """Records the script below `folder` and judges so many images of it. folder: there; what fails is left in it."""
    (folder / "recorded").mkdir()
    recorded = record(folder / "recorded", script_seed)
    chosen = cases(recorded.load(), recorded.ledger.read_bytes(), images, seed)
    return judge_all(recorded, chosen, folder / "failed", fail_fast=fail_fast)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=QUICK_IMAGES)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--script-seed", type=int, default=SEED)
    parser.add_argument("--fail-fast", action="store_true")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="seedvec-power-"))
    begun = time.monotonic()
    outcome = lose_power(folder, args.images, args.seed, fail_fast=args.fail_fast, script_seed=args.script_seed)
    for failure in outcome.failures:
        print(failure)
    print(f"{outcome.images} images, {outcome.judged} acknowledged operations judged, {len(outcome.failures)} failed")
    print(f"{time.monotonic() - begun:.1f} s; {folder}")
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
