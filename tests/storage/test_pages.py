"""Every byte of a database is watched over: on reading by SQLite's checksum VFS, at a start by `pages.verify`."""

import os
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from storage import pages
from storage.database import Database
from storage.errors import Damaged
from tests.bits import flip

APPLICATION_ID = 0x1234
ROWS = 3000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Rows, long values, and free pages: some zeroed, some not."""
    db = Database(tmp_path / "x.db", APPLICATION_ID, create=True)
    with db.writing():
        db.execute("CREATE TABLE t(key INTEGER PRIMARY KEY, v BLOB)")
        db.many("INSERT INTO t VALUES (?,?)", ((i, os.urandom(9000 if i % 50 == 0 else 40)) for i in range(ROWS)))
    with db.writing():
        db.execute("DELETE FROM t WHERE key BETWEEN 1000 AND 1500")
    assert db.truncate_log()
    db.close()
    return tmp_path / "x.db"


@pytest.fixture
def opened(path: Path) -> Iterator[Database]:
    db = Database(path, APPLICATION_ID)
    yield db
    db.close()


def test_a_sound_database(path: Path) -> None:
    assert pages.checksummed(path) and pages.verify(path) == []


def test_every_flipped_bit_is_found(path: Path) -> None:
    rng = random.Random(1)
    size = path.stat().st_size
    for at in [0, 20, 27, 100, 4095, size - 1, *(rng.randrange(size) for _ in range(60))]:
        flip(path, at)
        if at >= 100:
            assert pages.verify(path) == [at // 4096 + 1], at
        else:
            # The header may then not say any more that there are checksums: but then it cannot be opened as ours.
            assert pages.verify(path) or not pages.checksummed(path)
        flip(path, at)
    assert pages.verify(path) == []


def test_reading_a_damaged_page_is_an_error(path: Path) -> None:
    """A bit in a value, which SQLite itself gives back as if nothing were wrong."""
    for page in range(2, path.stat().st_size // 4096):
        flip(path, page * 4096 + 4000)
    db = Database(path, APPLICATION_ID)
    with pytest.raises(Damaged, match="checksum"):
        list(db.execute("SELECT v FROM t"))
    db.close()


def test_pages_of_zeros(path: Path) -> None:
    """Their checksum is zeros: found where they are in use, and let be where they are free."""
    whole = path.read_bytes()
    with path.open("rb") as file:
        free = pages._unused(file.fileno(), 4096)
    assert len(free) > 2, "the fixture has free pages"
    for page in range(1, len(whole) // 4096 + 1):
        raw = bytearray(whole)
        raw[(page - 1) * 4096 : page * 4096] = bytes(4096)
        path.write_bytes(raw)
        found = pages.verify(path)
        if page == 1:
            assert not pages.checksummed(path)
        elif page not in free:
            assert found == [page]


def test_what_the_log_holds_too_does_not_count(path: Path, opened: Database) -> None:
    """A crash in the middle of a checkpoint leaves half a page, and the log that makes it whole."""
    with opened.writing():
        opened.execute("UPDATE t SET v = zeroblob(30)")
    assert pages._logged(path, 4096)
    before = path.read_bytes()
    for page in sorted(pages._logged(path, 4096))[1:]:
        flip(path, (page - 1) * 4096 + 7)
    assert pages.verify(path) == []
    path.write_bytes(before)


def test_a_file_that_is_cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1000)
    assert pages.verify(path)[-1] == 0
    os.truncate(path, path.stat().st_size // 8192 * 4096)
    with pytest.raises(Damaged), closing(Database(path, APPLICATION_ID)) as db:
        list(db.execute("SELECT v FROM t"))
