"""Rows of an import on their way into segments that no catalogue names yet.

Where the file says how many rows there are, and none may be left out, they flow straight into one large segment. Else
they are gathered up to a bound and written as a segment at once: an upsert's too, which commits segment by segment.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from app.engine.files import write_sealed
from app.engine.intake import last_of_each
from index.norms import norms
from seedvec.sparse import SparseRows, concatenate
from storage import atomic
from storage.catalogue import Settings
from storage.files.contract import BadFile
from storage.hashing import hex16
from storage.imports import Finished, Import, Reserved
from storage.layout import SEGMENTS_NAME, segment_name
from storage.segment import SegmentWriter
from storage.writes import Batch, assigned_str_ids

STREAMED_BYTES = 4 << 30
"""Vectors of one segment that is written as it is read."""
GATHERED_BYTES = 32 << 20
"""Vectors of one segment that is held in memory first."""
GATHERED_ROWS = 50_000
"""Rows of it: an upsert replaces so many in one turn."""
STR_ID_BYTES = 36
"""Of an id that the server assigns."""


@dataclass(frozen=True, slots=True)
class Checked:
    """Rows that can be stored. ids: n of them (int64 or str), None: the server assigns; rows: which of the file each
    is."""

    vectors: NDArray[Any] | SparseRows
    ids: NDArray[np.int64] | list[Any] | None
    metadata: list[bytes | None] | None
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, some: NDArray[np.int64]) -> "Checked":
        ids = [self.ids[i] for i in some.tolist()] if isinstance(self.ids, list) else self.ids
        metadata = None if self.metadata is None else [self.metadata[i] for i in some.tolist()]
        return Checked(self.vectors[some], ids[some] if isinstance(ids, np.ndarray) else ids, metadata, self.rows[some])


class TakenRows(Exception):
    """Ids that exist, or stand in the file before. rows: (row of the file, id)."""

    def __init__(self, rows: list[tuple[int, Any]]) -> None:
        super().__init__(f"{len(rows)} ids are taken")
        self.rows = rows


class Staging(Protocol):
    done: list[Finished]
    """Written and synced."""

    def settle(self) -> None:
        """Nothing of it has the catalogue in hand when this returns, until the next `put`. Raises as `put` does."""

    def put(self, rows: Checked) -> list[tuple[int, Any]]:
        """Takes rows; returns those whose ids were taken, where these may be left out. Raises TakenRows, OSError."""

    def finish(self) -> list[tuple[int, Any]]:
        """All is in `done` then. Returns and raises as `put` does."""

    def abandon(self) -> None:
        """Closes and unlinks what is half written."""


class Streamed:
    """rows: how many come, ≥ 0; id_type: of the collection; their ids are int, or assigned."""

    def __init__(self, one: Import, folder: Path, settings: Settings, rows: int, id_type: str) -> None:
        self._one = one
        self._folder = folder
        self._settings = settings
        self._left = rows
        self._id_type = id_type
        self._most = max(1, STREAMED_BYTES // (settings.dimension * settings.vector_dtype.itemsize))
        self._writer: SegmentWriter | None = None
        self._reserved = Reserved(0, 0, None)
        self._final = folder
        self.done: list[Finished] = []
        # SQLite inserts while the next rows are read and written: half of the time of each.
        self._claiming = ThreadPoolExecutor(1, "claims")
        self._claimed: Future[None] = Future()
        self._claimed.set_result(None)

    def put(self, rows: Checked) -> list[tuple[int, Any]]:
        begin = 0
        while begin < len(rows):
            if self._writer is None and not self._left:
                raise BadFile("it holds more rows than it says")
            writer = self._writer or self._open(rows.ids is None)
            n = min(len(rows) - begin, writer.rows - writer.done)
            part = rows if n == len(rows) else rows.take(np.arange(begin, begin + n))
            self._append(writer, part)
            begin += n
            if writer.done == writer.rows:
                self._close(writer)
        return []

    def _append(self, writer: SegmentWriter, rows: Checked) -> None:
        first = self._reserved.first_key + writer.done
        ids: Any = rows.ids
        if ids is None and self._id_type == "str":
            ids = assigned_str_ids(len(rows))
        elif ids is None:
            assert self._reserved.first_id is not None
            ids = np.arange(len(rows), dtype=np.int64) + (self._reserved.first_id + writer.done)
        self.settle()
        self._claimed = self._claiming.submit(self._claim, first, ids, rows)
        keys = np.arange(writer.done, writer.done + len(rows), dtype=np.uint64)
        writer.append(rows.vectors, keys, ids, norms(rows.vectors))

    def _claim(self, first: int, ids: Any, rows: Checked) -> None:
        taken = self._one.claim(first, ids, rows.metadata)
        if len(taken):
            raise TakenRows([(int(rows.rows[i]), _plain(ids, i)) for i in taken.tolist()])

    def _open(self, assign: bool) -> SegmentWriter:
        self.settle()  # one thread at a time has the catalogue
        n = min(self._left, self._most)
        self._reserved = self._one.reserve(n, self._id_type, assign=assign)
        self._final = self._folder / SEGMENTS_NAME / segment_name(self._reserved.seq)
        s = self._settings
        id_bytes = STR_ID_BYTES * n if self._id_type == "str" else None
        tmp, first = atomic.temporary(self._final), self._reserved.first_key
        self._writer = SegmentWriter(tmp, n, s.dimension, s.vector_dtype, s.metric, id_bytes, first)
        self._left -= n
        return self._writer

    def _close(self, writer: SegmentWriter) -> None:
        written = writer.finish()
        atomic.publish(writer.path, self._final, "segment")
        self._writer = None
        self.done.append(
            Finished(self._reserved.seq, self._final.name, written.rows, written.bytes, hex16(written.xxh3))
        )

    def settle(self) -> None:
        self._claimed.result()

    def finish(self) -> list[tuple[int, Any]]:
        self.settle()
        if self._writer is not None or self._left:
            raise BadFile("it holds fewer rows than it says")
        self._claiming.shutdown()
        return []

    def abandon(self) -> None:
        self._claiming.shutdown()
        if self._writer is not None:
            self._writer.abandon()


class Gathered:
    """upsert: of an id that stands in it twice the last counts, and nothing is claimed; skip: rows whose ids are taken
    are left out, instead of refusing them all."""

    def __init__(
        self, one: Import, folder: Path, settings: Settings, id_type: str, *, upsert: bool, skip: bool
    ) -> None:
        self._one = one
        self._folder = folder
        self._settings = settings
        self._id_type = id_type
        self._upsert = upsert
        self._skip = skip
        self._held: list[Checked] = []
        self.done: list[Finished] = []

    def put(self, rows: Checked) -> list[tuple[int, Any]]:
        self._held.append(rows)
        n = sum(len(part) for part in self._held)
        if n < GATHERED_ROWS and sum(int(part.vectors.nbytes) for part in self._held) < GATHERED_BYTES:
            return []
        return self._flush()

    def _flush(self) -> list[tuple[int, Any]]:
        """A segment of what is held. Returns rows that are left out."""
        held, self._held = _joined(self._held), []
        if held is None:
            return []
        n = len(held)
        reserved = self._one.reserve(n, self._id_type, assign=held.ids is None)
        ids = held.ids if held.ids is not None else self._assigned(reserved, n)
        keys = np.arange(n, dtype=np.uint64)
        left_out: list[tuple[int, Any]] = []
        rows = Batch(held.vectors, ids if isinstance(ids, list) else ids.tolist(), held.metadata)
        if self._upsert:
            rows = last_of_each(rows)
            keys = keys[: len(rows)]
            if rows.metadata is not None:
                self._one.describe(reserved.first_key, rows.metadata)
        else:
            taken = self._one.claim(reserved.first_key, ids, held.metadata)
            left_out = [(int(held.rows[i]), _plain(ids, i)) for i in taken.tolist()]
            if left_out and not self._skip:
                raise TakenRows(left_out)
            if left_out:
                keys = np.delete(keys, taken)
                kept = keys.astype(np.int64)
                assert rows.ids is not None
                rows = Batch(held.vectors[kept], [rows.ids[i] for i in kept.tolist()], None)
        if len(rows):
            self._write(reserved, keys, rows)
        return left_out

    def _write(self, reserved: Reserved, keys: NDArray[np.uint64], rows: Batch) -> None:
        written = write_sealed(
            self._folder,
            reserved.seq,
            keys_rel=keys,
            ids=rows.ids,
            vectors=rows.vectors,
            metric=self._settings.metric,
            base_key=reserved.first_key,
        )
        self.done.append(Finished(reserved.seq, written.file, len(rows), written.bytes, written.xxh3))

    def _assigned(self, reserved: Reserved, n: int) -> NDArray[np.int64] | list[Any]:
        if reserved.first_id is None:
            return list(assigned_str_ids(n))
        return np.arange(reserved.first_id, reserved.first_id + n, dtype=np.int64)

    def settle(self) -> None:
        """It never has, between two calls."""

    def finish(self) -> list[tuple[int, Any]]:
        return self._flush()

    def abandon(self) -> None:
        self._held.clear()


def _joined(parts: list[Checked]) -> Checked | None:
    if len(parts) < 2:
        return parts[0] if parts else None
    sparse = [part.vectors for part in parts if isinstance(part.vectors, SparseRows)]
    vectors = concatenate(sparse) if sparse else np.concatenate([part.vectors for part in parts])
    ids: Any = None
    if isinstance(parts[0].ids, np.ndarray):
        ids = np.concatenate([part.ids for part in parts])
    elif parts[0].ids is not None:
        ids = [id_ for part in parts for id_ in part.ids or ()]
    metadata = None
    if any(part.metadata is not None for part in parts):
        metadata = [text for part in parts for text in part.metadata or [None] * len(part)]
    return Checked(vectors, ids, metadata, np.concatenate([part.rows for part in parts]))


def _plain(ids: NDArray[np.int64] | list[Any], i: int) -> Any:
    return ids[i] if isinstance(ids, list) else int(ids[i])
