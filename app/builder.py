"""`python -m app.builder`: merges, builds and calibrates, one job at a time. Started by the supervisor."""

import logging
import os
import time

from app import logs, settings
from app.children import adopt
from app.engine.background import Stop, Watched, be_nice
from app.engine.building import Building
from storage import errors

log = logging.getLogger("seedvec.builder")
POLL_S = 0.1
RETRY_S = 2.0


def run(config: settings.Settings) -> None:
    stop = Stop()
    watched = Watched(config.data)
    buildings: dict[int, Building] = {}
    resume: dict[int, float] = {}
    threads = settings.granted_cores()
    while not stop:
        busy = False
        here = list(watched.collections())
        buildings = {
            id(c): buildings.get(id(c)) or Building(c, config.index_min_rows, config.seal_quiet_s, threads, stop)
            for c in here
        }
        for c in here:
            if stop or time.monotonic() < resume.get(id(c), 0.0):
                continue
            try:
                busy |= buildings[id(c)].step()
            except errors.Dropped:
                continue
            except (errors.StorageError, OSError) as e:
                log.error("collection %s: background work failed, trying again: %s", c.name, e)
                resume[id(c)] = time.monotonic() + RETRY_S
        if not busy:
            stop.wait(POLL_S)


def main() -> None:
    adopt()
    config = settings.load({}, os.environ)
    logs.configure("builder", config.log_level)
    be_nice()
    run(config)


if __name__ == "__main__":
    main()
