"""`python -m app.sealer`: the process that seals pending rows, of every collection. Started by the supervisor."""

import logging
import os
import time

from app import logs, settings
from app.children import adopt
from app.engine.background import Stop, Watched, Worked, be_nice
from app.engine.sealing import Sealing
from storage import errors

log = logging.getLogger("seedvec.sealer")
POLL_S = 0.05
RETRY_S = 1.0


def run(config: settings.Settings) -> None:
    stop = Stop()
    watched = Watched(config.data)
    sealings: dict[int, Sealing] = {}
    resume: dict[int, float] = {}
    while not stop:
        busy = False
        here = list(watched.collections())
        sealings = {id(c): sealings.get(id(c)) or _sealing(c, config) for c in here}
        for c in here:
            if time.monotonic() < resume.get(id(c), 0.0):
                continue
            try:
                busy |= sealings[id(c)].step()
            except errors.Dropped:
                continue
            except (errors.StorageError, OSError) as e:
                # A full disk, most often: writes are refused meanwhile, and it goes on when there is room again.
                log.error("collection %s: sealing failed, trying again: %s", c.name, e)
                resume[id(c)] = time.monotonic() + RETRY_S
        _checkpoint(watched)
        if not busy:
            stop.wait(POLL_S)


def _checkpoint(watched: Watched) -> None:
    try:
        watched.checkpoint_registry()
    except (errors.StorageError, OSError) as e:
        log.error("the registry: %s", e)


def _sealing(c: Worked, config: settings.Settings) -> Sealing:
    return Sealing(c, config.pending_rows, config.pending_bytes, config.seal_quiet_s)


def main() -> None:
    adopt()
    config = settings.load({}, os.environ)
    logs.configure("sealer", config.log_level)
    be_nice()
    run(config)


if __name__ == "__main__":
    main()
