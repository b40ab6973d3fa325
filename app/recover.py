"""`python -m app.recover`: what every start begins with, before any worker: sweep, verify, say what is closed.

Exit status 0 unless the registry itself cannot be read: one bad collection never keeps the others from opening.
"""

import logging
import os
import sys
from pathlib import Path

from app import logs, settings
from app.children import adopt
from app.engine.recovery import recover
from storage import errors

log = logging.getLogger("seedvec.recover")
UNREADABLE = 1


def main() -> int:
    adopt()
    config = settings.load({}, os.environ)
    logs.configure("recover", config.log_level)
    data = Path(sys.argv[1])
    try:
        recover(data)
    except (errors.StorageError, OSError) as e:
        log.error("%s cannot be opened: %s", data, e)
        return UNREADABLE
    return 0


if __name__ == "__main__":
    sys.exit(main())
