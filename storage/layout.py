"""The grammar of names in a data folder: what is called what, and where. `docs/formats.md` shows the tree."""

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LOCK_NAME: Final = "LOCK"
BALLAST_NAME: Final = "ballast"
REGISTRY_NAME: Final = "registry.db"
COLLECTIONS_NAME: Final = "c"
STAGING_NAME: Final = "staging"
"""What imports and exports under way keep of files on their way in and out: a folder each. Emptied at every start."""
SNAPSHOTS_NAME: Final = "snapshots"
"""The folder of the snapshots, each a data folder of its own under a generated name."""
DAMAGED_NAME: Final = "damaged"
"""What `seedvec repair` has kept of the originals."""
CATALOGUE_NAME: Final = "catalog.db"
WRITE_LOCK_NAME: Final = "write.lock"
SEGMENTS_NAME: Final = "segments"
QUERIES_NAME: Final = "queries"
"""The folder of the queries kept of late: derived, each file one worker's."""
SHUT_NAME: Final = "shut"
"""Closes a collection where the registry could not be told why."""
SQLITE_SUFFIXES: Final = ("", "-wal", "-shm", "-journal")
"""A database and the files SQLite may keep beside it."""


@dataclass(frozen=True, slots=True)
class DataFolder:
    root: Path

    @property
    def lock(self) -> Path:
        return self.root / LOCK_NAME

    @property
    def ballast(self) -> Path:
        return self.root / BALLAST_NAME

    @property
    def registry(self) -> Path:
        return self.root / REGISTRY_NAME

    @property
    def collections(self) -> Path:
        return self.root / COLLECTIONS_NAME

    @property
    def staging(self) -> Path:
        return self.root / STAGING_NAME

    @property
    def snapshots(self) -> Path:
        return self.root / SNAPSHOTS_NAME

    def collection(self, uuid_hex: str) -> "CollectionFolder":
        return CollectionFolder(self.collections / uuid_hex)


@dataclass(frozen=True, slots=True)
class CollectionFolder:
    root: Path

    @property
    def catalogue(self) -> Path:
        return self.root / CATALOGUE_NAME

    @property
    def segments(self) -> Path:
        return self.root / SEGMENTS_NAME

    @property
    def queries(self) -> Path:
        return self.root / QUERIES_NAME


def segment_name(seq: int) -> str:
    """A new name for each attempt: a file left over from a crash is never written again under its name."""
    return f"{seq:06d}-{uuid.uuid4().hex}.h5"


def index_name(segment_file: str, kind: str) -> str:
    """A new name for each attempt: one that is built again while the old one serves must not be taken for it."""
    return f"{segment_file.removesuffix('.h5')}.{kind}-{uuid.uuid4().hex[:8]}.faiss"


def columns_name(segment_file: str, log_pos: int) -> str:
    return f"{segment_file.removesuffix('.h5')}.columns-{log_pos}.npz"
