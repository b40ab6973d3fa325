"""What an fsync error means: the kernel has marked the pages clean, and they may never reach the disk.

The disk below is such a one: a sync that fails forgets what was to be written, and the next one succeeds without it.
What is read comes from the page cache all the while. Then the power goes.
"""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import apsw
import pytest

from storage import database, errors, failpoints, pages
from storage.database import Database

PAGE: Final = 4096
APPLICATION: Final = 0x1234
TABLE: Final = "CREATE TABLE t(n INTEGER PRIMARY KEY, filler)"


class LyingDisk:
    """Of the files of one database: what is in the page cache is in the files, what is on the disk is here."""

    def __init__(self) -> None:
        self.failing = 0
        """Syncs that are to fail."""
        self.gone = False
        """For whoever would settle a doubt."""
        self._on_disk: dict[str, bytearray] = {}
        self._dirty: dict[str, set[int]] = {}

    def wrote(self, path: str, at: int, size: int) -> None:
        self._dirty.setdefault(path, set()).update(range(at // PAGE, (at + size - 1) // PAGE + 1))

    def sync(self, path: str) -> None:
        dirty = self._dirty.pop(path, set())
        if self.failing:
            self.failing -= 1
            error = apsw.IOError("fsync")
            error.extendedresult = apsw.SQLITE_IOERR_FSYNC  # type: ignore[attr-defined]
            raise error
        cache, disk = Path(path).read_bytes(), self._on_disk.setdefault(path, bytearray())
        del disk[len(cache) :]
        disk.extend(bytes(len(cache) - len(disk)))
        for page in dirty:
            part = slice(page * PAGE, min((page + 1) * PAGE, len(cache)))
            disk[part] = cache[part]

    def see(self, name: str, _: object, wal: str) -> None:
        """Ours past SQLite: `rewrite_log` dirties every page of the log, and syncs it."""
        if name == database.REWRITE:
            self.wrote(wal, 0, Path(wal).stat().st_size)
        elif name == database.REWRITE_FSYNC:
            self.sync(wal)
        elif name == database.SETTLE and self.gone:
            raise OSError(errno.EIO, "gone")

    def lose_power(self) -> None:
        for path, content in self._on_disk.items():
            if Path(path).exists():
                Path(path).write_bytes(content)


class _File(apsw.VFSFile):
    def __init__(self, disk: LyingDisk, name: Any, flags: list[int]) -> None:
        super().__init__(pages.VFS, name, flags)
        self._disk = disk
        self._path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        super().xWrite(data, offset)
        self._disk.wrote(self._path, offset, len(data))

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.sync(self._path)


class _Vfs(apsw.VFS):
    def __init__(self, disk: LyingDisk) -> None:
        pages.checksum_vfs()
        super().__init__("lying", pages.VFS)
        self._disk = disk

    def xOpen(self, name: Any, flags: list[int]) -> _File:  # noqa: N802
        return _File(self._disk, name, flags)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[LyingDisk]:
    lying = LyingDisk()
    vfs = _Vfs(lying)
    monkeypatch.setattr(pages, "checksum_vfs", lambda: "lying")
    yield lying
    vfs.unregister()


@pytest.fixture
def path(tmp_path: Path, disk: LyingDisk) -> Path:
    db = Database(tmp_path / "x.db", APPLICATION, create=True)
    with db.writing():
        db.execute(TABLE)
    kill(db)
    return db.path


def kill(db: Database) -> None:
    """What a kill leaves: the log as the page cache has it, and no memory of how much of it counts."""
    db.keep_log()
    db.close()


def insert(db: Database, n: int, pages_long: int = 1) -> None:
    with db.writing():
        db.execute("INSERT INTO t VALUES (?,?)", (n, bytes(PAGE * pages_long)))


def there(path: Path) -> list[int]:
    db = Database(path, APPLICATION)
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    found = [row[0] for row in db.execute("SELECT n FROM t ORDER BY n")]
    db.close()
    return found


@contextmanager
def watching(disk: LyingDisk, path: Path) -> Iterator[None]:
    with failpoints.watched(lambda name, half: disk.see(name, half, f"{path}-wal")):
        yield


@pytest.mark.parametrize("pages_long", [1, 5, 30])
def test_what_was_in_doubt_never_comes_back(disk: LyingDisk, path: Path, pages_long: int) -> None:
    db = Database(path, APPLICATION)
    insert(db, 1)
    disk.failing = 1
    with pytest.raises(errors.OutcomeUnknown) as unknown:
        insert(db, 2, pages_long)
    assert unknown.value.undone
    kill(db)  # who opens it now finds in the log whatever is whole there
    assert there(path) == [1]
    disk.lose_power()
    assert there(path) == [1]


@pytest.mark.parametrize("pages_long", [1, 5, 30])
def test_what_is_acknowledged_after_it_stays(disk: LyingDisk, path: Path, pages_long: int) -> None:
    db = Database(path, APPLICATION)
    insert(db, 1)
    disk.failing = 1
    with pytest.raises(errors.OutcomeUnknown):
        insert(db, 2, pages_long)
    insert(db, 3)
    insert(db, 4, 8)
    kill(db)
    disk.lose_power()
    assert there(path) == [1, 3, 4]


def test_nothing_is_written_until_the_doubt_is_settled(disk: LyingDisk, path: Path) -> None:
    db = Database(path, APPLICATION)
    insert(db, 1)
    disk.failing = 4
    with pytest.raises(errors.OutcomeUnknown) as unknown:
        insert(db, 2)
    assert not unknown.value.undone
    for _ in range(2):
        with pytest.raises(errors.DiskFailed):
            insert(db, 3)
    insert(db, 4)
    kill(db)
    disk.lose_power()
    assert there(path) == [1, 4]


def after_a_kill_in_doubt(disk: LyingDisk, path: Path, go_on: Callable[[Database], None]) -> None:
    """The doubt was never settled; the next start finds the write in its log, where the disk does not have it."""
    db = Database(path, APPLICATION)
    insert(db, 1)
    disk.failing, disk.gone = 1, True
    with pytest.raises(errors.OutcomeUnknown):
        insert(db, 2, 3)
    kill(db)
    disk.gone = False
    db = Database(path, APPLICATION)
    assert [row[0] for row in db.execute("SELECT n FROM t")] == [1, 2]
    go_on(db)
    insert(db, 3)
    insert(db, 4)
    kill(db)
    disk.lose_power()


def test_a_start_writes_the_log_again(disk: LyingDisk, path: Path) -> None:
    with watching(disk, path):
        after_a_kill_in_doubt(disk, path, lambda db: db.rewrite_log())
    assert there(path) == [1, 2, 3, 4]


def test_and_without_that_a_power_cut_would_lose_what_was_acknowledged(disk: LyingDisk, path: Path) -> None:
    """What the test above is worth: SQLite alone trusts what it reads."""
    with watching(disk, path):
        after_a_kill_in_doubt(disk, path, lambda db: None)
    assert there(path) == [1]


def test_where_the_start_cannot_write_it_again_the_database_is_not_opened(disk: LyingDisk, path: Path) -> None:
    db = Database(path, APPLICATION)
    insert(db, 1)
    for action, kind in [("eio", errors.DiskFailed), ("enospc", errors.NoSpace)]:
        with failpoints.armed(f"database.rewrite_fsync:{action}"), pytest.raises(kind):
            db.rewrite_log()
        assert not db.connection.in_transaction
    db.rewrite_log()
    db.close()
    assert there(path) == [1]


def test_a_checkpoint_that_failed_is_made_again_whole(disk: LyingDisk, path: Path) -> None:
    db = Database(path, APPLICATION)
    for n in range(5):
        insert(db, n, 2)
    disk.failing = 2  # of the log, then of the database
    for _ in range(2):
        with pytest.raises(errors.DiskFailed):
            db.checkpoint()
    assert db.truncate_log()
    insert(db, 9)
    kill(db)
    disk.lose_power()
    assert there(path) == [0, 1, 2, 3, 4, 9]
