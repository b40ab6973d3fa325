"""What the engine refuses, by name. `app/api/problems.py` alone turns these into HTTP.

Refused
├── Malformed            the body cannot be read (400)
├── Invalid              read, but not acceptable (422)
│   ├── DimensionMismatch, NotFinite, ZeroVector, IdTypeMismatch, OutOfRange
│   └── InvalidFilter, IdempotencyMismatch, BadSnapshot
├── NotFound             collection-not-found, id-not-found, snapshot-not-found, alias-not-found (404)
├── Conflict             id-exists, settings-differ, name-taken, collection-aliased (409)
├── TooLarge             (413)
├── DeadlineExceeded     (504)
└── Unavailable          the server, not the request (429, 503, 507)
    ├── Busy, Overloaded, CollectionClosed, OutcomeUnknown, DiskFull, InsufficientMemory
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


class BadFile(Invalid):
    """A file that is not what it should be, or cannot be taken; nothing of it was imported."""

    code = "bad-file"


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


class BadSnapshot(Invalid):
    """A snapshot that is not whole, or was never one."""

    code = "bad-snapshot"


class NotFound(Refused):
    code = "not-found"


class CollectionNotFound(NotFound):
    code = "collection-not-found"


class IdNotFound(NotFound):
    code = "id-not-found"


class SnapshotNotFound(NotFound):
    code = "snapshot-not-found"


class AliasNotFound(NotFound):
    code = "alias-not-found"


class Conflict(Refused):
    code = "conflict"


class NameTaken(Conflict):
    """Collections and aliases share one namespace; snapshots have their own."""

    code = "name-taken"


class Aliased(Conflict):
    """Aliases lead to what was to be dropped."""

    code = "collection-aliased"


class IdExists(Conflict):
    code = "id-exists"


class SettingsDiffer(Conflict):
    code = "settings-differ"


class TooLarge(Refused):
    code = "too-large"


class DeadlineExceeded(Refused):
    """It took longer than the client, or the server, gives it; only what changes nothing has a deadline (504)."""

    code = "deadline-exceeded"


class Unavailable(Refused):
    code = "unavailable"
    retry_after_s: int | None = 1


class Busy(Unavailable):
    """Too much is pending; nothing was stored (429)."""

    code = "too-many-pending"


class Overloaded(Unavailable):
    """More waits than can be answered in time; this was not begun (503)."""

    code = "overloaded"


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
