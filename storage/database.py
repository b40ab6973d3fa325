"""One SQLite connection as we use it: WAL, synchronous=FULL, our errors.

apsw and not the standard library's sqlite3: SQLite 3.7.0 to 3.51.2 have a WAL-reset race that can corrupt, and
Python 3.11 brings 3.40. A connection belongs to one thread at a time.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from storage import errors, pages
from storage.failpoints import declare, hit

BUSY_TIMEOUT_MS = 10_000
CACHE_KIB = 4 << 10
"""Pages in memory, verified once when they are read. A connection takes what it uses of it."""
COMMIT = declare("database.commit")
COMMITTED = declare("database.committed")
FAILURES = (apsw.FullError, apsw.CorruptError, apsw.NotADBError, apsw.CantOpenError, apsw.IOError)
"""What a disk can do to us. Everything else of apsw's is a mistake of ours."""


class Database:
    def __init__(self, path: Path, application_id: int, *, create: bool = False) -> None:
        flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
        self.path = path
        with translated(path):
            self.connection = apsw.Connection(os.fspath(path), flags, vfs=pages.checksum_vfs())
            self.connection.set_busy_timeout(BUSY_TIMEOUT_MS)
            if create:
                self._initialise(application_id)
            self._configure()
            found = self.connection.pragma("application_id")
        if found != application_id:
            raise errors.Damaged(f"{path}: not ours (application_id {found:#x})")

    def _initialise(self, application_id: int) -> None:
        pages.reserve(self.connection)
        # Before the first table: freed pages can be given back, and freed content is zeroed.
        self.connection.pragma("auto_vacuum", 2)
        self.connection.pragma("journal_mode", "wal")
        self.connection.pragma("application_id", application_id)
        self.connection.pragma("user_version", 1)

    def _configure(self) -> None:
        self.connection.pragma("synchronous", 2)
        self.connection.pragma("secure_delete", "fast")
        self.connection.pragma("cache_size", -CACHE_KIB)
        # Only the background checkpoints: a worker that did would make one request pay for all.
        self.connection.wal_autocheckpoint(0)

    def execute(self, sql: str, bindings: tuple[Any, ...] = ()) -> Any:
        """Steps to the first row. What fails further on is apsw's error, but inside reading() and writing() ours."""
        try:
            return self.connection.execute(sql, bindings)
        except FAILURES as e:
            raise in_our_words(self.path, e) from e

    def one(self, sql: str, bindings: tuple[Any, ...] = ()) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self.execute(sql, bindings).fetchone()
        return row

    def many(self, sql: str, rows: Any) -> Any:
        try:
            return self.connection.executemany(sql, rows)
        except FAILURES as e:
            raise in_our_words(self.path, e) from e

    def data_version(self) -> int:
        """Moves when another connection, of any process, has committed. Costs microseconds."""
        row: Any = self.execute("PRAGMA data_version").fetchone()
        return int(row[0])

    @contextmanager
    def reading(self) -> Iterator["Database"]:
        """One consistent snapshot for several reads. Keep it under 100 ms: it holds back the checkpoint."""
        with translated(self.path):
            self.connection.execute("BEGIN")
            try:
                yield self
            finally:
                if self.connection.in_transaction:  # a failed read may have ended it, and is the error to be told
                    self.connection.execute("COMMIT")

    @contextmanager
    def writing(self) -> Iterator["Database"]:
        """BEGIN IMMEDIATE … COMMIT; any exception rolls back. Durable when it returns.

        Raises NoSpace (nothing was written) and OutcomeUnknown (the commit's own fsync failed).
        """
        with translated(self.path):
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self
            except BaseException:
                self._rollback()
                raise
            try:
                hit(COMMIT)
                self.connection.execute("COMMIT")
            except (apsw.IOError, OSError) as e:  # OSError: what the failpoint makes of a disk that gives way here
                self._rollback()
                full = isinstance(e, OSError) and e.errno == errno.ENOSPC
                raise (errors.NoSpace if full else errors.OutcomeUnknown)(f"{self.path}: {e}") from e
            except BaseException:
                self._rollback()
                raise
            hit(COMMITTED)

    def _rollback(self) -> None:
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def checkpoint(self) -> tuple[int, int]:
        """PASSIVE: waits for nobody. Returns frames in the log, frames brought home."""
        with translated(self.path):
            log, done = self.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        return log, done

    def truncate_log(self) -> bool:
        """Empties the WAL file, so that what was deleted is in it no more. False where a reader stood in the way."""
        with translated(self.path):
            try:
                self.connection.set_busy_timeout(0)
                self.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
                return True
            except apsw.BusyError:
                return False
            finally:
                self.connection.set_busy_timeout(BUSY_TIMEOUT_MS)

    def close(self) -> None:
        self.connection.close()


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """SQLite's errors in our words."""
    try:
        yield
    except FAILURES as e:
        raise in_our_words(path, e) from e


def in_our_words(path: Path, e: apsw.Error) -> errors.StorageError:
    if e.extendedresult == apsw.SQLITE_IOERR_DATA:
        return errors.Damaged(f"{path}: a page is not what was written: its checksum differs")
    if isinstance(e, apsw.FullError) or (isinstance(e, apsw.IOError) and "full" in str(e)):
        return errors.NoSpace(f"{path}: {e}")
    if isinstance(e, apsw.IOError):
        return errors.OutcomeUnknown(f"{path}: {e}")
    return errors.Damaged(f"{path}: {e}")
