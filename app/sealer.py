"""`python -m app.sealer`: the process that seals pending rows, of every collection. Started by the supervisor."""

import os

from app import logs, settings
from app.children import adopt
from app.counting import count_as
from app.engine.background import Refill, Stop, Watched, Worked, work
from app.engine.sealing import Sealing

POLL_S = 0.05


def run(config: settings.Settings) -> None:
    def sealing(c: Worked) -> Sealing:
        return Sealing(c, config.pending_rows, config.pending_bytes, config.seal_quiet_s)

    def each_round() -> None:
        watched.checkpoint_registry()
        refill.look()

    watched, refill = Watched(config.data), Refill(config.data, config.ballast_bytes)
    work(watched, sealing, Stop(), POLL_S, each_round)


def main() -> None:
    adopt()
    config = settings.load({}, os.environ)
    logs.configure("sealer", config.log_level, config.log_format)
    count_as("sealer")
    run(config)


if __name__ == "__main__":
    main()
