"""What a disk, or another process, does to a database, in our words; and what is left of it."""

import os
import resource
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import errors
from storage.database import Database
from storage.failpoints import armed

APPLICATION = 0x1234


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    made = Database(tmp_path / "x.db", APPLICATION, create=True)
    with made.writing():
        made.execute("CREATE TABLE t(n)")
    yield made
    made.close()


def insert(db: Database, n: int) -> None:
    with db.writing():
        db.execute("INSERT INTO t VALUES (?)", (n,))


def numbers(db: Database) -> list[int]:
    return [row[0] for row in db.execute("SELECT n FROM t ORDER BY n")]


def test_a_database_that_is_held_too_long(db: Database) -> None:
    db.connection.set_busy_timeout(20)
    other = Database(db.path, APPLICATION)
    with other.writing():
        other.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(errors.Locked, match=r"x\.db"):
            insert(db, 2)
    insert(db, 3)
    assert numbers(db) == [1, 3]
    other.close()


@pytest.mark.parametrize(
    ("point", "kind"),
    [
        ("database.begin:enospc", errors.NoSpace),
        ("database.begin:eio", errors.DiskFailed),
        ("database.commit:enospc", errors.NoSpace),
        ("database.commit:eio", errors.OutcomeUnknown),
    ],
)
def test_after_a_failure_it_is_written_again(db: Database, point: str, kind: type[Exception]) -> None:
    insert(db, 1)
    with armed(point), pytest.raises(kind):
        insert(db, 2)
    assert not db.connection.in_transaction and numbers(db) == [1]
    insert(db, 3)
    assert numbers(db) == [1, 3]


def test_the_connection_is_another_one_after_a_failed_commit(db: Database) -> None:
    before = db.connection
    with armed("database.commit:eio"), pytest.raises(errors.OutcomeUnknown) as unknown:
        insert(db, 1)
    assert unknown.value.undone and errors.is_undone(unknown.value) and db.connection is not before


def test_as_long_as_the_disk_fails_nothing_is_written(db: Database) -> None:
    with armed("database.commit:eio,database.settle:eio"):
        with pytest.raises(errors.OutcomeUnknown) as unknown:
            insert(db, 1)
        assert not unknown.value.undone and not errors.is_undone(unknown.value)
        for _ in range(2):
            with pytest.raises(errors.DiskFailed):
                insert(db, 2)
    insert(db, 3)
    assert numbers(db) == [3]


def test_what_was_not_made_to_the_end_is_made_anew(tmp_path: Path) -> None:
    """A kill in the middle of making a registry must not keep the server from ever starting."""
    path = tmp_path / "x.db"
    for begun in (b"", None):
        if begun is None:
            half = sqlite3.connect(path)
            half.execute("PRAGMA journal_mode = wal")
            half.execute("PRAGMA user_version = 1")
            half.close()
        else:
            path.write_bytes(begun)
        made = Database(path, APPLICATION, create=True)
        assert made.connection.pragma("application_id") == APPLICATION
        assert made.connection.pragma("journal_mode") == "wal"
        made.close()
        path.unlink()


def test_what_is_another_programs_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE theirs(n)")
    other.close()
    with pytest.raises(errors.Damaged, match="not ours"):
        Database(path, APPLICATION, create=True)


def test_a_missing_file_is_damage_and_no_descriptor_left_is_not(tmp_path: Path, db: Database) -> None:
    with pytest.raises(errors.Damaged):
        Database(tmp_path / "absent.db", APPLICATION)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The limit is on their numbers: below the lowest that is free, none is left, however many there are above.
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        with pytest.raises(errors.DiskFailed):
            Database(db.path, APPLICATION)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
