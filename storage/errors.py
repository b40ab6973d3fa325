"""What can go wrong with bytes on disk.

StorageError
├── Damaged            a checksum, a length or SQLite's own check says no
│   └── OtherVersion   written by an older or a later seedvec: not damaged at all, but not to be read by this one
├── Dropped            the collection was dropped meanwhile
├── IdsTaken           an add names ids that exist
├── WrongIdType        ids of the other type than the collection's
├── IdsExhausted       no int id is left to assign
├── PendingFull        too much waits to be sealed; nothing was written
├── KeyReused          an idempotency key came again with another request
├── NotEmpty           what only an empty collection may take came to one that is not
├── Stale              what a background job worked on is no longer there
├── NoSpace            the disk is full; nothing was written
├── DiskFailed         the disk cannot be read or written; nothing was written
├── Locked             another process kept the database for too long; nothing was written
└── OutcomeUnknown     an fsync failed: the write may be there or not
"""

import errno
from collections.abc import Sequence
from typing import Final

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What the system says where there is no room: on the disk, or for this user."""


class StorageError(Exception):
    """Base of all."""

    undone = True
    """The write that ended so is not there, and cannot come to be."""


class Damaged(StorageError):
    pass


class OtherVersion(Damaged):
    pass


class Dropped(StorageError):
    pass


class IdsTaken(StorageError):
    def __init__(self, rows: Sequence[tuple[int, int | str]]) -> None:
        super().__init__(f"{len(rows)} ids exist")
        self.rows = rows
        """(row in the request, id), in order."""


class WrongIdType(StorageError):
    def __init__(self, wanted: str) -> None:
        super().__init__(f"the collection's ids are of type {wanted}")
        self.wanted = wanted


class IdsExhausted(StorageError):
    pass


class PendingFull(StorageError):
    pass


class KeyReused(StorageError):
    pass


class NotEmpty(StorageError):
    pass


class Stale(StorageError):
    pass


class NoSpace(StorageError):
    pass


class DiskFailed(StorageError):
    pass


class Locked(StorageError):
    pass


class OutcomeUnknown(StorageError):
    undone = False
    """True for one that has been written over since: what it named can be unlinked."""


def is_undone(e: BaseException) -> bool:
    """Whether a write that ended in this is surely not there."""
    return not isinstance(e, StorageError) or e.undone
