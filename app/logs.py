"""How every process of the server logs: one line each, to stderr, naming the process."""

import logging
import time

FORMAT = "%(asctime)s.%(msecs)03d {process} %(levelname)s %(name)s: %(message)s"


class Seldom:
    """What would be logged with every request, or every second for hours, while a disk is full."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._next = 0.0

    def due(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._every_s
        return True


def configure(process: str, level: str) -> None:
    """Send this process's log to stderr. process: as it is to be named (`worker-1`); level: of Settings.log_level."""
    logging.basicConfig(
        level=level.upper(), format=FORMAT.format(process=process), datefmt="%Y-%m-%d %H:%M:%S", force=True
    )
    # uvicorn tells of every start and stop of a worker; the supervisor already does.
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, logging.getLogger().level))
