"""`python -m tests.faults.power [--images N] [--seed N] [--fail-fast]`: the power-loss suite by itself.

Exit status 1 where an image is not what was acknowledged. Leaves failed images in a folder that it names.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.power_cases import cases, first_start
from tests.faults.power_images import judge_all
from tests.faults.power_record import record
from tests.faults.script import SEED

QUICK_IMAGES = 60
WHOLE_IMAGES = 2_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=QUICK_IMAGES, help="besides those of the first start")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--script-seed", type=int, default=SEED)
    parser.add_argument("--fail-fast", action="store_true", help="end at the first image that fails")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="seedvec-power-"))
    begun = time.monotonic()
    recorded = record(folder, args.script_seed)
    chosen = cases(recorded.load(), recorded.ledger.read_bytes(), args.images, args.seed)
    chosen += first_start(recorded.load(), ["all lost"], args.seed)
    outcome = judge_all(recorded, chosen, folder / "failed", fail_fast=args.fail_fast)
    for failure in outcome.failures:
        print(failure)
    print(f"{outcome.images} images, {outcome.judged} acknowledged operations judged, {len(outcome.failures)} failed")
    print(f"{time.monotonic() - begun:.1f} s; {folder}")
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
