"""One SQLite connection as we use it: WAL, synchronous=FULL, our errors.

apsw and not the standard library's sqlite3: SQLite 3.7.0 to 3.51.2 have a WAL-reset race that can corrupt, and
Python 3.11 brings 3.40. A connection belongs to one thread at a time.

When the fsync of a commit fails, nobody knows whether its frames are on the disk, and the kernel has marked their
pages clean: to sync again would succeed and mean nothing. SQLite rolls back, so no reader sees them; but they lie in
the log, and whoever opened it after a kill would find them whole. So the connection and all it has cached is thrown
away, and an empty transaction is committed, whose frames are written over theirs (`_settle`): from then on they can
never come back, and their pages are dirty again. Until that has succeeded nothing else is written.
At a start the log is all there is, and it comes from the page cache: `rewrite_log` brings it to the disk again.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import apsw

from storage import errors, pages, syncs
from storage.errors import FULL
from storage.failpoints import declare, hit

BUSY_TIMEOUT_MS = 10_000
CACHE_KIB: Final = 4 << 10
"""Pages in memory, verified once when they are read. A connection takes what it uses of it."""
REWRITE_BYTES: Final = 1 << 20
MAKE = declare("database.make")
BEGIN = declare("database.begin")
COMMIT = declare("database.commit")
COMMITTED = declare("database.committed")
SETTLE = declare("database.settle")
REWRITE = declare("database.rewrite")
REWRITE_FSYNC = declare("database.rewrite_fsync")
CHECKPOINT = declare("database.checkpoint")
TRUNCATE = declare("database.truncate")
FAILURES = (
    apsw.FullError,
    apsw.CorruptError,
    apsw.NotADBError,
    apsw.CantOpenError,
    apsw.IOError,
    apsw.ReadOnlyError,
    apsw.PermissionsError,
    apsw.BusyError,
    apsw.ProtocolError,
)
"""What a disk, or another process, can do to us. Everything else of apsw's is a mistake of ours."""


class Database:
    _suspect = False
    """A write has met a failing disk: `_settle` comes before the next."""
    _files: list[tuple[int, int] | None] | None = None
    """The database and its log, as they were in the first transaction of this connection."""

    def __init__(self, path: Path, application_id: int, *, create: bool = False, version: int = 1) -> None:
        """create: makes what is not there, or was not made to the end, with `version` as its user_version."""
        self.path = path
        self._application_id = application_id
        self._version = version
        with translated(path):
            self.connection = self._connect(create)

    def _connect(self, create: bool = False) -> apsw.Connection:
        flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
        connection = apsw.Connection(os.fspath(self.path), flags, vfs=pages.checksum_vfs())
        try:
            connection.set_busy_timeout(BUSY_TIMEOUT_MS)
            if create and _is_blank(connection):
                _initialise(connection, self._application_id, self._version)
            _configure(connection)
            found = connection.pragma("application_id")
            if found != self._application_id:
                raise errors.Damaged(f"{self.path}: not ours (application_id {found:#x})")
        except BaseException as e:
            full = _is_full(e, connection)
            connection.close()
            if full:
                raise errors.NoSpace(f"{self.path}: {e}") from e
            raise
        return connection

    def execute(self, sql: str, bindings: tuple[Any, ...] = ()) -> Any:
        """Steps to the first row. What fails further on is apsw's error, but inside reading() and writing() ours."""
        try:
            return self.connection.execute(sql, bindings)
        except FAILURES as e:
            raise in_our_words(self.path, e, self.connection) from e

    def one(self, sql: str, bindings: tuple[Any, ...] = ()) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self.execute(sql, bindings).fetchone()
        return row

    def many(self, sql: str, rows: Any) -> Any:
        try:
            return self.connection.executemany(sql, rows)
        except FAILURES as e:
            raise in_our_words(self.path, e, self.connection) from e

    def data_version(self) -> int:
        """Moves when another connection, of any process, has committed. Costs microseconds."""
        row: Any = self.execute("PRAGMA data_version").fetchone()
        return int(row[0])

    @contextmanager
    def reading(self) -> Iterator["Database"]:
        """One consistent snapshot for several reads. Keep it under 100 ms: it holds back the checkpoint."""
        with translated(self.path, self.connection):
            self.connection.execute("BEGIN")
            try:
                yield self
            finally:
                if self.connection.in_transaction:  # a failed read may have ended it, and is the error to be told
                    self.connection.execute("COMMIT")

    @contextmanager
    def writing(self) -> Iterator["Database"]:
        """BEGIN IMMEDIATE … COMMIT; any exception rolls back. Durable when it returns.

        Raises NoSpace, DiskFailed and Locked (nothing was written), and OutcomeUnknown (the commit itself failed).
        """
        if self._suspect:
            self._settle()
        try:
            with translated(self.path, self.connection):
                _disk(self.path, BEGIN)
                self.connection.execute("BEGIN IMMEDIATE")
                try:
                    self._require_files()
                    yield self
                except BaseException:
                    self._rollback()
                    raise
                self._commit()
        except (errors.DiskFailed, errors.OutcomeUnknown) as e:
            self._suspect = True
            with suppress(errors.StorageError):  # then the next write tries
                self._settle()
            if isinstance(e, errors.OutcomeUnknown):
                e.undone = not self._suspect
            raise

    def _require_files(self) -> None:
        """Inside a write transaction, so that there is a log. What would be committed to files that are gone would be
        gone with the last process that has them open. Two stat calls: 2 µs. Raises Damaged, Dropped."""
        here = [_inode(Path(f"{self.path}{suffix}")) for suffix in ("", "-wal")]
        self._files = self._files or here
        if None in here or here != self._files:
            if not self.path.parent.exists():
                raise errors.Dropped(str(self.path.parent))
            raise errors.Damaged(f"{self.path} or its log was removed or replaced while it was in use")

    def _commit(self) -> None:
        try:
            hit(COMMIT)
            with syncs.timed("commit"):
                self.connection.execute("COMMIT")
        except (apsw.IOError, OSError) as e:  # OSError: what the failpoint makes of a disk that gives way here
            self._rollback()
            # On a full disk SQLite says FullError, and no frame that ends a transaction has been written. Every
            # other error may have come after it, even a lack of room (the shared index of a log that is written).
            full = isinstance(e, OSError) and e.errno in FULL
            raise (errors.NoSpace if full else errors.OutcomeUnknown)(f"{self.path}: {e}") from e
        except BaseException:
            self._rollback()
            raise
        hit(COMMITTED)

    def _rollback(self) -> None:
        # Where the disk fails here too, the connection is thrown away: the error to be told is the first.
        with suppress(apsw.Error):
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")

    def _settle(self) -> None:
        """Begins anew from what is on the disk, and writes over what a failed commit has left in the log.

        Raises StorageError where the disk still fails, and then nothing else may be written.
        """
        with translated(self.path, self.connection):
            _disk(self.path, SETTLE)
            fresh = self._connect()
            with suppress(apsw.Error):
                self.connection.close()
            self.connection, self._files = fresh, None
        with translated(self.path, self.connection):
            fresh.execute("BEGIN IMMEDIATE")
            try:
                fresh.pragma("user_version", fresh.pragma("user_version"))  # the same: a page is written all the same
                fresh.execute("COMMIT")
            except BaseException:
                self._rollback()
                raise
        self._suspect = False

    def rewrite_log(self) -> None:
        """Writes the log's bytes over themselves and syncs them. Raises StorageError.

        For the first connection after a start. What it has read may be in the page cache alone, in pages that a failed
        fsync has left clean: whatever was committed behind them would be lost with the power, and a checkpoint would
        leave the log's older pages in force over the newer ones.
        """
        with translated(self.path, self.connection):
            self.connection.execute("BEGIN IMMEDIATE")  # nobody appends meanwhile
            try:
                # Not the database itself: closing it would take away SQLite's locks on it.
                _rewrite(Path(f"{self.path}-wal"))
            except FileNotFoundError:
                pass
            except OSError as e:
                kind = errors.NoSpace if e.errno in FULL else errors.DiskFailed
                raise kind(f"{self.path}-wal: {e.strerror}") from e
            finally:
                self._rollback()

    def checkpoint(self) -> tuple[int, int]:
        """PASSIVE: waits for nobody. Returns frames in the log, frames brought home."""
        with translated(self.path, self.connection):
            _disk(self.path, CHECKPOINT)
            with syncs.timed("checkpoint"):
                log, done = self.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        return log, done

    def truncate_log(self) -> bool:
        """Empties the WAL file, so that what was deleted is in it no more. False where a reader stood in the way."""
        with translated(self.path, self.connection):
            try:
                self.connection.set_busy_timeout(0)
                _disk(self.path, TRUNCATE)
                self.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
                return True
            except apsw.BusyError:
                return False
            finally:
                self.connection.set_busy_timeout(BUSY_TIMEOUT_MS)

    def keep_log(self) -> None:
        """Closing then leaves the WAL as it is: what is damaged is not to be written on."""
        self.connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)

    def close(self) -> None:
        # The last to close brings the log home. Where the disk fails it stays in the log, and nothing is lost.
        with suppress(apsw.FullError, apsw.IOError):
            self.connection.close()


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_blank(connection: apsw.Connection) -> bool:
    """Just made, or by a process that did not get further: ours to begin."""
    empty = connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None
    return empty and connection.pragma("application_id") == 0


def _initialise(connection: apsw.Connection, application_id: int, version: int) -> None:
    hit(MAKE)
    pages.reserve(connection)
    # Before the first table: freed pages can be given back, and freed content is zeroed.
    connection.pragma("auto_vacuum", 2)
    connection.pragma("journal_mode", "wal")
    connection.pragma("user_version", version)
    # Last: it is what `_is_blank` goes by, and each of these is a commit of its own.
    connection.pragma("application_id", application_id)


def _configure(connection: apsw.Connection) -> None:
    connection.pragma("synchronous", 2)
    connection.pragma("secure_delete", "fast")
    connection.pragma("cache_size", -CACHE_KIB)
    # Only the background checkpoints: a worker that did would make one request pay for all.
    connection.wal_autocheckpoint(0)


def _disk(path: Path, failpoint: str) -> None:
    """The disk gives way here, and nothing was written. Raises StorageError."""
    try:
        hit(failpoint)
    except OSError as e:
        raise (errors.NoSpace if e.errno in FULL else errors.DiskFailed)(f"{path}: {e.strerror}") from e


def _rewrite(path: Path) -> None:
    """Raises OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        at = 0
        while part := os.pread(fd, REWRITE_BYTES, at):
            hit(REWRITE)
            at += os.pwrite(fd, part, at)
        if at:
            hit(REWRITE_FSYNC)
            os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def translated(path: Path, connection: apsw.Connection | None = None) -> Iterator[None]:
    """SQLite's errors in our words."""
    try:
        yield
    except FAILURES as e:
        raise in_our_words(path, e, connection) from e


def in_our_words(path: Path, e: apsw.Error, connection: apsw.Connection | None = None) -> errors.StorageError:
    """Of an error anywhere but in a COMMIT: nothing was written, and what was read is not told."""
    if getattr(e, "extendedresult", 0) == apsw.SQLITE_IOERR_DATA:
        return errors.Damaged(f"{path}: a page is not what was written: its checksum differs")
    if getattr(e, "extendedresult", 0) == apsw.SQLITE_IOERR_DATA:
        return errors.Damaged(f"{path}: a page is not what was written: its checksum differs")
    if _is_full(e, connection):
        return errors.NoSpace(f"{path}: {e}")
    if isinstance(e, apsw.BusyError | apsw.ProtocolError):
        return errors.Locked(f"{path}: {e}")
    if isinstance(e, apsw.IOError | apsw.ReadOnlyError | apsw.PermissionsError):
        return errors.DiskFailed(f"{path}: {e}")
    if isinstance(e, apsw.CantOpenError) and path.is_file():
        return errors.DiskFailed(f"{path}: {e}")  # no descriptor left, or no right to it
    return errors.Damaged(f"{path}: {e}")


def _is_full(e: BaseException, connection: apsw.Connection | None) -> bool:
    if isinstance(e, apsw.FullError):
        return True
    told = isinstance(e, apsw.IOError | apsw.CantOpenError) and connection is not None
    return told and connection is not None and connection.system_errno in FULL
