"""`python -m app.builder`: merges, builds and calibrates, one job at a time. Started by the supervisor."""

import os

from app import logs, settings
from app.children import adopt
from app.counting import count_as
from app.engine.background import Stop, Watched, Worked, work
from app.engine.building import Building
from app.engine.policy import Grounds
from app.granted import granted_cores

POLL_S = 0.1


def run(config: settings.Settings) -> None:
    stop = Stop()
    threads = granted_cores()

    grounds = Grounds(config.index_min_rows, config.memory_bytes, config.workers)

    def building(c: Worked) -> Building:
        return Building(c, grounds, config.seal_quiet_s, threads, stop)

    work(Watched(config.data), building, stop, POLL_S, lambda: None)


def main() -> None:
    adopt()
    config = settings.load({}, os.environ)
    logs.configure("builder", config.log_level, config.log_format)
    count_as("builder")
    run(config)


if __name__ == "__main__":
    main()
