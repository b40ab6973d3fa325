"""What can go wrong for a Python program, by name.

SeedvecError
├── Refused            a server said no: `status`, `code`, `problem`
│   ├── Malformed      400: the request cannot be read
│   ├── Unauthorized   401, 403: no key, or not one that may
│   ├── NotFound       404: collection-not-found, id-not-found, …
│   ├── Conflict       409: id-exists, settings-differ, …
│   ├── TooLarge       413
│   ├── Invalid        422: read, but not acceptable; nothing of it was stored
│   ├── Overloaded     429, 503: try again later (the client has, for `retry_s`)
│   ├── OutcomeUnknown 503: an fsync failed: the write may be there or not
│   ├── TimedOut       504: past `timeout_ms`
│   └── DiskFull       507
├── BuildFailed        an index that was waited for cannot be built
└── FolderError        a data folder, or what it should hold, cannot be read
    ├── NoCollection   there is none of that name (a KeyError too)
    ├── Closed         the server has closed it: it is damaged
    └── Gone           the process that held a snapshot's files has ended
"""

from collections.abc import Mapping
from typing import Any


class SeedvecError(Exception):
    """Base of all."""


class Refused(SeedvecError):
    """The server refused, or it is no Seedvec server. status: of HTTP; problem: its problem JSON (RFC 9457); code: the
    last part of the problem's type."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.problem = dict(problem)
        self.code = str(problem.get("type", "")).rpartition("/")[2]
        text = problem.get("detail") or problem.get("title") or "no explanation"
        places = "; ".join(f"{e.get('where')}: {e.get('message')}" for e in problem.get("errors", ())[:3])
        super().__init__(f"{status} {self.code}: {text}" + (f" ({places})" if places else ""))


class Malformed(Refused):
    pass


class Unauthorized(Refused):
    pass


class NotFound(Refused):
    pass


class Conflict(Refused):
    pass


class TooLarge(Refused):
    pass


class Invalid(Refused):
    pass


class Overloaded(Refused):
    pass


class OutcomeUnknown(Refused):
    pass


class TimedOut(Refused):
    pass


class DiskFull(Refused):
    pass


BY_STATUS: dict[int, type[Refused]] = {
    400: Malformed,
    401: Unauthorized,
    403: Unauthorized,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    422: Invalid,
    429: Overloaded,
    503: Overloaded,
    504: TimedOut,
    507: DiskFull,
}
BY_CODE: dict[str, type[Refused]] = {"outcome-unknown": OutcomeUnknown}
"""Where the status alone would say the wrong thing."""


def refusal(status: int, problem: Mapping[str, Any]) -> Refused:
    """The error of the kind that the answer's code or status names."""
    code = str(problem.get("type", "")).rpartition("/")[2]
    return BY_CODE.get(code, BY_STATUS.get(status, Refused))(status, problem)


class BuildFailed(SeedvecError):
    pass


class FolderError(SeedvecError):
    pass


class NoCollection(FolderError, KeyError):
    def __str__(self) -> str:
        return str(self.args[0])  # a KeyError shows its text in quotes


class Closed(FolderError):
    pass


class Gone(FolderError):
    pass
