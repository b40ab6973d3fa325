"""Where rows of a snapshot lie: in a sealed segment, mapped when it is first read, or among the pending ones."""

import mmap
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from seedvec.held import HeldFile, hold
from seedvec.order import Keys, Places
from seedvec.segment import KEYS, VECTORS, Extent, Segment, map_segment, open_segment
from seedvec.sparse import SparseRows

MAP_NORESERVE: Final = 0x4000
"""Linux; Python names it from 3.13 on."""

Ids = NDArray[np.int64] | list[str]
Vectors = NDArray[Any] | SparseRows


class Part(Protocol):
    """vectors: (n, d), not to be written to. writable: a dense part's same bytes, each page of which is copied for this
    process once it is written to."""

    @property
    def vectors(self) -> Vectors: ...
    @property
    def writable(self) -> NDArray[Any]: ...
    @property
    def keys(self) -> Keys: ...
    def ids_at(self, rows: Places) -> Ids: ...
    def ids_between(self, start: int, stop: int) -> Ids: ...
    def forget(self, start: int, stop: int) -> None: ...


@dataclass(frozen=True)
class Sealed:
    """A segment. In the pickle: the held file and where its datasets lie, so that no other process parses HDF5."""

    file: HeldFile
    metric: str
    extents: dict[str, Extent]
    dimension: int
    base_key: int
    span: int

    def __getstate__(self) -> tuple[Any, ...]:
        return self.file, self.metric, self.extents, self.dimension, self.base_key, self.span

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        for name, value in zip(self.__dataclass_fields__, state, strict=True):
            object.__setattr__(self, name, value)

    @cached_property
    def segment(self) -> Segment:
        return map_segment(self.file.path, self.metric, self.extents, self.base_key, self.dimension)

    @property
    def vectors(self) -> Vectors:
        return self.segment.vectors

    @cached_property
    def writable(self) -> NDArray[Any]:
        extent = self.extents[VECTORS]
        fd = os.open(self.file.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # Without a reserve: of what is never written to no page is ever copied.
            flags = mmap.MAP_PRIVATE | MAP_NORESERVE
            mapping = mmap.mmap(fd, extent.end, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        finally:
            os.close(fd)
        return np.frombuffer(mapping, extent.dtype, offset=extent.offset).reshape(extent.shape)

    @property
    def keys(self) -> Keys:
        rows = self.extents[KEYS].shape[0]
        if self.span == rows:
            return Keys(self.base_key, rows)  # nothing of it needs reading
        return Keys(self.base_key, rows, self.segment.keys_rel.view(np.int64))

    @cached_property
    def first_id(self) -> int | None:
        """Of ids that count up by one, as the server assigns them: then no other needs to be read."""
        ids = self.segment.ids
        if not isinstance(ids, np.ndarray) or ids[-1] - ids[0] != len(ids) - 1:
            return None
        return int(ids[0]) if bool((ids[1:] > ids[:-1]).all()) else None

    def ids_at(self, rows: Places) -> Ids:
        if self.first_id is not None:
            return rows + self.first_id
        ids = self.segment.ids
        return ids.take(rows) if isinstance(ids, np.ndarray) else ids.ids_at(rows)

    def ids_between(self, start: int, stop: int) -> Ids:
        ids = self.segment.ids
        return ids[start:stop] if isinstance(ids, np.ndarray) else ids.between(start, stop)

    def forget(self, start: int, stop: int) -> None:
        """These rows' pages no longer count as this process's memory. The page cache keeps them, as it sees fit."""
        self.segment.forget(start, stop)


@dataclass(frozen=True)
class Unsealed:
    """Rows that were pending. pending_keys: (n,) int64 ascending; vectors: (n, d); ids: (n,) int64, or n str."""

    pending_keys: NDArray[np.int64]
    vectors: Vectors
    ids: Ids

    @property
    def writable(self) -> NDArray[Any]:
        assert isinstance(self.vectors, np.ndarray)
        return self.vectors

    @property
    def keys(self) -> Keys:
        return Keys(0, len(self.pending_keys), self.pending_keys)

    def ids_at(self, rows: Places) -> Ids:
        return self.ids[rows] if isinstance(self.ids, np.ndarray) else [self.ids[row] for row in rows.tolist()]

    def ids_between(self, start: int, stop: int) -> Ids:
        return self.ids[start:stop]

    def forget(self, start: int, stop: int) -> None:
        pass


def sealed(path: Path, base_key: int, span: int) -> Sealed:
    """Raises SegmentError, and FileNotFoundError where a merge has taken the file away."""
    file = hold(path)
    segment = open_segment(path)
    part = Sealed(file, segment.metric, segment.extents, segment.dimension, base_key, span)
    part.__dict__["segment"] = segment
    return part
