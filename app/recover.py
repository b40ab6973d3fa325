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
from storage.ballast import Ballast

log = logging.getLogger("seedvec.recover")
UNREADABLE = 1


def main() -> int:
    adopt()
    config = settings.load({}, os.environ)
    logs.configure("recover", config.log_level)
    data = Path(sys.argv[1])
    ballast = Ballast(data)
    try:
        ballast.room_for_a_start()
        recover(data)
    except (errors.StorageError, OSError) as e:
        log.error("%s cannot be opened: %s", data, e)
        return UNREADABLE
    try:
        if not ballast.restore(config.ballast_bytes):
            log.warning("the disk is full: until there is room, only what frees room is written")
    except OSError as e:
        log.error("the ballast cannot be made: %s", e)
    return 0


if __name__ == "__main__":
    sys.exit(main())
