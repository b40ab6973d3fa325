"""How every process of the server logs: one line each, to stderr, naming the process; for people or as JSON."""

import logging
import time
from contextvars import ContextVar
from typing import Any, Final, Literal

import orjson

Format = Literal["human", "json"]
FORMAT = "%(asctime)s.%(msecs)03d {process} %(levelname)s %(name)s: %(message)s"

REQUEST_ID: Final[ContextVar[str]] = ContextVar("request_id", default="")
"""Of the request that this code is run for: it stands behind every line that is logged meanwhile."""

FIELDS: Final = "fields"
"""The key of `extra` under which a line brings values of its own: JSON shows them as they are."""


def configure(process: str, level: str, format: str = "human") -> None:
    """Send this process's log to stderr. process: as it is to be named (`worker-1`); level, format: of Settings."""
    handler = logging.StreamHandler()
    handler.setFormatter(Json(process) if format == "json" else Human(process))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # uvicorn tells of every start and stop of a worker; the supervisor already does.
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, logging.getLogger().level))


class Human(logging.Formatter):
    """Local time, and the request's id in brackets at the end of the line."""

    def __init__(self, process: str) -> None:
        super().__init__(FORMAT.format(process=process), "%Y-%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        line, request = super().formatMessage(record), REQUEST_ID.get()
        return f"{line} [{request}]" if request else line


class Json(logging.Formatter):
    """One object a line: `time` (UTC), `level`, `process`, `logger`, `message`, and where they apply `request`,
    `exception` and the line's own fields."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request := REQUEST_ID.get():
            line["request"] = request
        line |= getattr(record, FIELDS, {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _dumped(line)


def _dumped(line: dict[str, Any]) -> str:
    """A client's text (a path) may hold what is no UTF-8."""
    try:
        return orjson.dumps(line, default=str).decode()
    except orjson.JSONEncodeError:
        return orjson.dumps({name: ascii(value) for name, value in line.items()}).decode()
