"""Is each page of a database what was written, and does it hold everything that was acknowledged?"""

import time
from pathlib import Path
from typing import Final

from storage import pages
from storage.report import Report, examples

REPAIR: Final = "`seedvec repair`, with the server stopped, saves what can be read of it; or restore it from a copy"
LOOKS: Final = 3
LOOK_AGAIN_S: Final = 0.05
"""A checkpoint of a running server may be writing the very page."""


def check_pages(path: Path, where: str, report: Report) -> None:
    """Raises OSError."""
    bad = set(pages.verify(path))
    for _ in range(LOOKS - 1):
        if bad:
            time.sleep(LOOK_AGAIN_S)
            bad &= set(pages.verify(path))
    if bad:
        listed = examples([*sorted(bad)])
        report.add("error", where, f"damaged: {len(bad)} of its pages differ from their checksums: {listed}", REPAIR)
