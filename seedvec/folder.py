"""A data folder opened without the server, or beside it: `open(DATA)["clip"]`. Nothing in it is ever written to."""

import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

import numpy as np

from seedvec import catalogue
from seedvec.catalogue import Pending, SegmentRow, Settings
from seedvec.errors import Closed, FolderError, NoCollection
from seedvec.metadata import MetadataCopy
from seedvec.order import in_key_order
from seedvec.part import Ids, Part, Unsealed, sealed
from seedvec.pending_vectors import decode
from seedvec.segment import SegmentError
from seedvec.snapshot import Snapshot

ATTEMPTS: Final = 20
"""Merges that may take a segment away, one after the other, while a collection is being opened."""


class Folder(Mapping[str, Snapshot]):
    """The collections of a data folder by name or alias; each look makes a new snapshot of how it stands then."""

    def __init__(self, data: str | os.PathLike[str]) -> None:
        """Raises FolderError where it is no data folder."""
        self.path = Path(data).absolute()
        self._collections()

    def __repr__(self) -> str:
        return f"<{self.path}: {', '.join(self) or 'no collection'}>"

    def __len__(self) -> int:
        return len(self._collections())

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._collections()))

    def __contains__(self, name: object) -> bool:
        return name in self._collections()

    def __getitem__(self, name: str) -> Snapshot:
        """As `snapshot`, with metadata."""
        return self.snapshot(name)

    def snapshot(self, name: str, *, metadata: bool = True) -> Snapshot:
        """How the collection stands now. metadata: copied into a file of its own, about a second for a million items;
        without, every item of the snapshot has none.

        Raises NoCollection, Closed (the server has found it damaged) and FolderError (it cannot be read)."""
        found = self._collections()
        if name not in found:
            names = ", ".join(sorted(found)) or "none"
            raise NoCollection(f"no collection {name!r} in {self.path}; there are: {names}")
        uuid, reason = found[name]
        if reason is not None:
            raise Closed(f"collection {name} is closed: {reason}")
        return _taken(self.path / catalogue.COLLECTIONS / uuid, name, metadata)

    def _collections(self) -> dict[str, tuple[str, str | None]]:
        with catalogue.connected(self.path / catalogue.REGISTRY, catalogue.REGISTRY_ID) as db:
            return catalogue.collections(db)


def open(data: str | os.PathLike[str]) -> Folder:
    """The data folder of a server, running or not. Raises FolderError."""
    return Folder(data)


def _taken(folder: Path, name: str, metadata: bool) -> Snapshot:
    with (
        catalogue.connected(folder / catalogue.CATALOGUE, catalogue.CATALOGUE_ID) as db,
        closing(MetadataCopy(folder.parent.parent)) as copy,
    ):
        settings = catalogue.read_settings(db)
        if metadata:
            # Slice by slice before the rows are fixed: what is live in the end was live, and had its metadata, all the
            # time. One transaction over all of it would hold back the checkpoint.
            copy.fill(db, catalogue.settled_key(db))
        gone: list[str] = []
        for _ in range(ATTEMPTS):
            db.execute("BEGIN")
            if catalogue.is_dropped(db):
                raise NoCollection(f"collection {name} has been dropped")
            settings = catalogue.read_settings(db)
            segments, dead = catalogue.read_segments(db), catalogue.read_dead(db)
            pending = catalogue.read_pending(db)
            if metadata:
                copy.fill(db)
            db.execute("COMMIT")
            try:
                parts = _held(folder, segments)
                break
            except FileNotFoundError as e:
                # A merge has taken it away since the catalogue was read; or it is lost, and is named again.
                if e.filename in gone:
                    raise FolderError(f"collection {name}: {e.filename} is gone; `seedvec check` says more") from e
                gone.append(e.filename)
        else:
            raise FolderError(f"collection {name}: its segments are merged faster than they can be opened")
        if len(pending.keys):
            parts.append(_unsealed(settings, pending))
        return Snapshot(name, settings, parts, in_key_order([part.keys for part in parts], dead), copy.finish())


def _held(folder: Path, segments: list[SegmentRow]) -> list[Part]:
    """Raises FolderError, and FileNotFoundError."""
    try:
        return [sealed(folder / catalogue.SEGMENTS / s.file, s.base_key, s.span) for s in segments]
    except FileNotFoundError:
        raise
    except (SegmentError, OSError) as e:
        raise FolderError(f"{e}; `seedvec check` says what is damaged") from e


def _unsealed(settings: Settings, pending: Pending) -> Unsealed:
    ids: Ids = pending.ids if settings.id_type == "str" else np.array(pending.ids, np.int64)
    vectors = decode(pending.vectors, settings.dimension, settings.dtype, settings.sparse)
    if isinstance(vectors, np.ndarray):
        vectors = vectors.copy()  # writable, as what is handed out of it may be
    return Unsealed(pending.keys, vectors, ids)
