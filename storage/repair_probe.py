"""A catalogue that is damaged, as far as its pages' checksums prove it. Reads, and never writes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import apsw
import numpy as np
from numpy.typing import NDArray

from seedvec.pending_vectors import is_whole
from storage import catalogue, errors, pages, remembered
from storage.catalogue import NOT_CLAIMED, SegmentRow, Settings, State
from storage.layout import CATALOGUE_NAME, WRITE_LOCK_NAME
from storage.readonly import ReadOnlyDatabase

FETCH_ROWS: Final = 1000
LAST_KEY: Final = 2**63 - 1
T = TypeVar("T")


class Unreadable(Exception):
    """What was asked for lies in a damaged page, or was never there to be read."""


class Wreck:
    """damage: why the catalogue cannot serve as it is, in words (empty: it can). settings, state, segments,
    given (the queries to calibrate on): None where they cannot be read. behind: it is whole, but older than the last
    acknowledged write.

    Raises OtherVersion: it is as it should be, for another seedvec."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damage: list[str] = []
        self.behind = False
        self.known = remembered.recall(folder / WRITE_LOCK_NAME)
        self.zeros = False
        """There are pages of zeros, which SQLite takes for the end of a long value."""
        self._db = self._opened()
        self.settings: Settings | None = self._try(catalogue.read_settings)
        self.state: State | None = self._try(catalogue.read_state)
        self.segments: list[SegmentRow] | None = self._try(catalogue.read_segments)
        self.given: NDArray[np.float32] | None = self._try(catalogue.read_calibration_queries)
        self._judge()

    def _opened(self) -> ReadOnlyDatabase | None:
        path = self.folder / CATALOGUE_NAME
        try:
            if not path.exists():
                raise errors.Damaged(f"{path.name} is gone")
            return ReadOnlyDatabase(path, catalogue.APPLICATION_ID, catalogue.VERSION)
        except errors.OtherVersion:
            raise
        except (errors.StorageError, apsw.Error, OSError) as e:
            self.damage.append(f"{path.name} cannot be opened: {e}")
            return None

    def _try(self, read: Callable[[ReadOnlyDatabase], T]) -> T | None:
        if self._db is None:
            return None
        try:
            return read(self._db)
        except (errors.StorageError, apsw.Error, ValueError, TypeError):
            return None

    def _judge(self) -> None:
        if self._db is None:
            return
        state = self.state
        if state is not None and self._try(lambda db: catalogue.is_owned(db, state)) is False:
            # What of it is ours cannot be told: as if it were not there.
            self.damage.append(f"{CATALOGUE_NAME} or its log is another collection's")
            self._db.close()
            self._db = self.settings = self.state = self.segments = self.given = None
            return
        bad = pages.verify(self._db.path)
        if bad:
            self.zeros = True
            self.damage.append(f"{CATALOGUE_NAME}: {len(bad)} of its pages are damaged")
        lacks = "" if state is None else remembered.missing(self.known, state)
        if lacks:
            self.behind = True
            self.damage.append(lacks)
        if not bad and None in (self.settings, self.state, self.segments):
            self.damage.append(f"{CATALOGUE_NAME} cannot be read")

    @property
    def sound(self) -> bool:
        return not self.damage

    # ---------------------------------------------------------------- single rows; each raises Unreadable

    def key_of(self, id_: Any) -> int | None:
        row = self._row(f"SELECT key FROM items WHERE id = ? AND {NOT_CLAIMED}", (id_,))
        return None if row is None else int(row[0])

    def is_dead(self, key: int) -> bool:
        return self._row("SELECT 1 FROM deaths WHERE key = ?", (key,)) is not None

    def metadata(self, key: int) -> bytes | None:
        row = self._row("SELECT json FROM metadata WHERE key = ?", (key,))
        if row is None:
            return None
        if not isinstance(row[0], bytes) or row[0][-1:] in (b"", b"\0"):
            raise Unreadable  # its last page has become zeros
        return row[0]

    def _row(self, sql: str, bindings: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._db is None:
            raise Unreadable
        try:
            return self._db.one(sql, bindings)
        except (errors.StorageError, apsw.Error) as e:
            raise Unreadable from e

    # ---------------------------------------------------------------- tables

    def pending(self) -> Iterator[tuple[int, Any, bytes]]:
        """Key, id and vector of the rows that can be read."""
        assert self.settings is not None
        s = self.settings
        for key, id_, vector in self._rows("SELECT key, id, vector FROM pending WHERE key > ? ORDER BY key LIMIT ?"):
            # A value that goes on into a page of zeros ends in zeros.
            whole = is_whole(vector, s.dimension, s.vector_dtype, s.sparse)
            if whole and not (self.zeros and not any(vector[-256:])):
                yield key, id_, vector

    def items(self) -> Iterator[tuple[Any, int]]:
        """(id, key) of those that can be read: of str ids the first and the last, up to where the damage lies."""
        if self.settings is None or self.settings.id_type == "auto":
            return
        if self.settings.id_type == "int":
            yield from self._rows(f"SELECT id, key FROM items WHERE id > ? AND {NOT_CLAIMED} ORDER BY id LIMIT ?")
            return
        seen = set()
        for order in ("ASC", "DESC"):
            for row in self._until_damage(f"SELECT id, key FROM items WHERE {NOT_CLAIMED} ORDER BY id {order}"):
                if row[0] in seen:
                    return
                seen.add(row[0])
                yield row[0], row[1]

    def _until_damage(self, sql: str) -> Iterator[tuple[Any, ...]]:
        if self._db is None:
            return
        try:
            yield from self._db.execute(sql)
        except (errors.StorageError, apsw.Error):
            return

    def _rows(self, sql: str) -> Iterator[tuple[Any, ...]]:
        """Rows by an integer key (their first column), in its order; around what is damaged."""
        last = -1
        while last < LAST_KEY:
            try:
                rows = self._some(sql, last, FETCH_ROWS)
            except Unreadable:
                try:
                    rows = self._some(sql, last, 1)
                except Unreadable:
                    beyond = self._beyond(sql, last)
                    if beyond is None:
                        return
                    last = beyond
                    continue
            if not rows:
                return
            yield from rows
            last = rows[-1][0]

    def _some(self, sql: str, last: int, limit: int) -> list[tuple[Any, ...]]:
        if self._db is None:
            raise Unreadable
        try:
            return list(self._db.execute(sql, (last, limit)))
        except (errors.StorageError, apsw.Error) as e:
            raise Unreadable from e

    def _beyond(self, sql: str, last: int) -> int | None:
        """The smallest place after which a row can be read again; None: there is none."""
        good, step = None, 1
        while last + step < LAST_KEY:
            if self._readable(sql, last + step):
                good = last + step
                break
            step *= 2
        if good is None:
            return None
        bad = last + step // 2
        while good - bad > 1:
            middle = (good + bad) // 2
            good, bad = (middle, bad) if self._readable(sql, middle) else (good, middle)
        return good

    def _readable(self, sql: str, after: int) -> bool:
        try:
            self._some(sql, after, 1)
        except Unreadable:
            return False
        return True

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
