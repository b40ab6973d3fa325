"""`python -m app.settling DATA NAME UUID`: sees an import to its end whose process is gone.

Exit status 0: its rows are there, given that it had foretold that; 1: nothing of it is; 2: the disk fails.
"""

import logging
import os
import sys
from pathlib import Path

from app import logs, settings
from app.children import adopt
from app.engine.importing import settle_own
from storage.errors import StorageError

REAL, GONE, FAILED = 0, 1, 2
log = logging.getLogger("seedvec.settling")


def main() -> int:
    adopt()
    logs.configure("settling", settings.load({}, os.environ).log_level)
    data, name, uuid = sys.argv[1:]
    try:
        return REAL if settle_own(Path(data), name, None, uuid) else GONE
    except (StorageError, OSError) as e:
        log.error("what an import into %s has staged stays until the next start: %s", name, e)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
