"""What the engine refuses, by name. `app/api/problems.py` alone turns these into HTTP.

Refused
├── Malformed            the body cannot be read (400)
├── Invalid              read, but not acceptable (422)
│   ├── DimensionMismatch, NotFinite, ZeroVector, IdTypeMismatch, OutOfRange
│   └── InvalidFilter, IdempotencyMismatch
├── NotFound             collection-not-found, id-not-found (404)
├── Conflict             id-exists, settings-differ (409)
├── TooLarge             (413)
└── Unavailable          the server, not the request (429, 503, 507)
    ├── Busy, CollectionClosed, OutcomeUnknown, DiskFull, InsufficientMemory
"""

from collections.abc import Sequence

from seedvec.filters.faults import MAX_FAULTS as MAX_FAULTS
from seedvec.filters.faults import Fault as Fault


class Refused(Exception):
    """Base of all. `code` is the last part of the problem's type URI."""

    code = "refused"

    def __init__(self, detail: str, faults: Sequence[Fault] = (), fault_count: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.faults = tuple(faults[:MAX_FAULTS])
        self.fault_count = len(faults) if fault_count is None else fault_count


class Malformed(Refused):
    code = "malformed-body"


class Invalid(Refused):
    code = "invalid-request"


class DimensionMismatch(Invalid):
    code = "dimension-mismatch"


class NotFinite(Invalid):
    code = "not-finite"


class ZeroVector(Invalid):
    code = "zero-vector"


class IdTypeMismatch(Invalid):
    code = "id-type-mismatch"


class OutOfRange(Invalid):
    code = "out-of-range"


class InvalidFilter(Invalid):
    code = "invalid-filter"


class IdempotencyMismatch(Invalid):
    code = "idempotency-mismatch"


class NotFound(Refused):
    code = "not-found"


class CollectionNotFound(NotFound):
    code = "collection-not-found"


class IdNotFound(NotFound):
    code = "id-not-found"


class Conflict(Refused):
    code = "conflict"


class IdExists(Conflict):
    code = "id-exists"


class SettingsDiffer(Conflict):
    code = "settings-differ"


class TooLarge(Refused):
    code = "too-large"


class Unavailable(Refused):
    code = "unavailable"
    retry_after_s: int | None = 1


class Busy(Unavailable):
    """Too much is pending; nothing was stored (429)."""

    code = "too-many-pending"


class CollectionClosed(Unavailable):
    code = "collection-closed"
    retry_after_s = None


class OutcomeUnknown(Unavailable):
    """An fsync failed: the write may or may not be there (503)."""

    code = "outcome-unknown"


class DiskFull(Unavailable):
    code = "disk-full"


class InsufficientMemory(Unavailable):
    """The index asked for would not fit; the one that is there goes on serving (507)."""

    code = "insufficient-memory"
    retry_after_s = None
