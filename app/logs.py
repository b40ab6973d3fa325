"""How every process of the server logs: one line each, to stderr, naming the process."""

import logging

FORMAT = "%(asctime)s.%(msecs)03d {process} %(levelname)s %(name)s: %(message)s"


def configure(process: str, level: str) -> None:
    """Send this process's log to stderr. process: as it is to be named (`worker-1`); level: of Settings.log_level."""
    logging.basicConfig(
        level=level.upper(), format=FORMAT.format(process=process), datefmt="%Y-%m-%d %H:%M:%S", force=True
    )
    # uvicorn tells of every start and stop of a worker; the supervisor already does.
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, logging.getLogger().level))
