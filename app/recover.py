"""`python -m app.recover`: what every start begins with, before any worker: sweep, verify, say what is closed.

`--beside`: beside a running server, after one of its processes has crashed (see `app/inspecting.py`).
Exit status 0 unless the registry itself cannot be read: one bad collection never keeps the others from opening.
"""

import logging
import os
import sys
from pathlib import Path

from app import logs, settings
from app.children import adopt
from app.engine.inspection import inspect
from app.engine.recovery import recover
from app.inspecting import BESIDE
from storage import errors
from storage.ballast import Ballast

log = logging.getLogger("seedvec.recover")
UNREADABLE = 1


def main() -> int:
    adopt()
    config = settings.load({}, os.environ)
    logs.configure("recover", config.log_level, config.log_format)
    data = Path(sys.argv[1])
    if BESIDE in sys.argv[2:]:
        return _inspect(data)
    ballast = Ballast(data)
    try:
        ballast.room_for_a_start()
        recover(data)
    except (errors.StorageError, OSError) as e:
        advice = "; `seedvec repair` on it mends what can be mended" if isinstance(e, errors.Damaged) else ""
        log.error("%s cannot be opened: %s%s", data, e, advice)
        return UNREADABLE
    try:
        if not ballast.restore(config.ballast_bytes):
            log.warning("the disk is full: until there is room, only what frees room is written")
    except OSError as e:
        log.error("the ballast cannot be made: %s", e)
    return 0


def _inspect(data: Path) -> int:
    try:
        inspect(data)
    except (errors.StorageError, OSError) as e:
        log.error("%s cannot be verified: %s", data, e)
        return UNREADABLE
    return 0


if __name__ == "__main__":
    sys.exit(main())
