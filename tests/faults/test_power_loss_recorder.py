"""The recorder: whatever a process does to its folder is in the record, and played back it makes the same bytes."""

import mmap
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from storage.database import Database
from storage.segment import write_segment
from tests.faults.disk import Disk, Fate, Image, Record, Synced, Wrote, nothing
from tests.faults.power_hooks import Hooks
from tests.faults.power_recorder import Recorder, Unrecordable

APPLICATION_ID = 0x53656565


def by_os(root: Path) -> None:
    fd = os.open(root / "a", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"12345")
    os.write(fd, b"678")
    os.pwrite(fd, b"x", 1)
    os.ftruncate(fd, 6)
    os.posix_fallocate(fd, 0, 100)
    os.fsync(fd)
    os.close(fd)
    os.truncate(root / "a", 50)
    os.close(os.open(root / "a", os.O_WRONLY | os.O_TRUNC))
    os.rename(root / "a", root / "b")
    os.close(os.open(root / "a", os.O_WRONLY | os.O_CREAT))


def by_files_and_paths(root: Path) -> None:
    with (root / "a").open("wb") as file:
        file.write(b"1" * 100_000)
        file.flush()
        file.write(b"2" * 10)
        os.fsync(file.fileno())
    with open(root / "a", "ab") as file:
        file.write(b"3")
    (root / "b").touch()
    (root / "c" / "d").mkdir(parents=True)
    (root / "c" / "d" / "e").touch()
    (root / "c").rename(root / "f")
    (root / "g").mkdir()
    (root / "g" / "h").touch()
    shutil.rmtree(root / "g")


def by_sqlite(root: Path) -> None:
    db = Database(root / "a.db", APPLICATION_ID, create=True)
    with db.writing():
        db.execute("CREATE TABLE t(x)")
        db.execute("INSERT INTO t VALUES (zeroblob(100000))")
    db.checkpoint()
    with db.writing():
        db.execute("DELETE FROM t")
    db.truncate_log()
    with db.writing():
        db.execute("INSERT INTO t VALUES (randomblob(10000))")
    db.keep_log()  # so that one stays
    db.close()


def by_hdf5(root: Path) -> None:
    vectors = np.arange(40, dtype=np.float32).reshape(10, 4)
    keys = np.arange(10, dtype=np.uint64)
    write_segment(root / "a.h5", vectors=vectors, keys_rel=keys, ids=list(range(10)), norms=vectors[:, 0], metric="l2")


def past_the_recorder(root: Path) -> None:
    """What a C library could do: the standard library's SQLite goes past apsw's."""
    with (root / "a").open("wb") as file:
        file.write(b"seen")
    connection = sqlite3.connect(root / "a.sqlite")
    connection.execute("CREATE TABLE t(x)")
    connection.commit()
    (root / "a.sqlite").rename(root / "b.sqlite")  # taken here
    connection.close()
    connection = sqlite3.connect(root / "b.sqlite")
    connection.execute("INSERT INTO t VALUES (1)")
    connection.commit()
    connection.close()


def through_a_mapping(root: Path) -> None:
    (root / "a").write_bytes(bytes(4096))
    with (root / "a").open("rb") as file:
        mmap.mmap(file.fileno(), 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)


def _recorded(act: Callable[[Path], None], root: Path) -> Record:
    recorder = Recorder()
    Hooks(recorder).install()
    recorder.begin(root)
    act(root)
    recorder.verify()
    return recorder.end()


def recorded(act: Callable[[Path], None], tmp_path: Path) -> Record:
    """In a process of its own: the hooks are for good."""
    (tmp_path / "data").mkdir()
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_recorded, act, tmp_path / "data").result()


def contents(root: Path) -> dict[str, bytes]:
    paths = [p for p in sorted(root.rglob("*")) if not p.name.endswith("-shm")]
    return {str(p.relative_to(root)): b"" if p.is_dir() else p.read_bytes() for p in paths}


@pytest.mark.parametrize("act", [by_os, by_files_and_paths, by_sqlite, by_hdf5])
def test_a_record_played_back_makes_the_same_bytes(act: Callable[[Path], None], tmp_path: Path) -> None:
    record = recorded(act, tmp_path)
    disk = Disk(record)
    disk.advance(len(record.events))
    (tmp_path / "again").mkdir()
    Image(disk, Fate(nothing), random.Random(1)).write(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "data")
    assert any(isinstance(event, Wrote) for event in record.events)


def test_sqlite_syncs_its_folder_and_its_log_at_the_first_commit(tmp_path: Path) -> None:
    """Not taken from its documentation: seen in the system call that it makes for that alone."""
    record = recorded(by_sqlite, tmp_path)
    [root, *_] = [event.inode for event in record.events]
    assert record.events.count(Synced(root)) >= 3  # at the beginning, with a journal, with the log


def test_what_goes_past_the_recorder_is_told(tmp_path: Path) -> None:
    with pytest.raises(Unrecordable):
        recorded(past_the_recorder, tmp_path)


def test_a_shared_mapping_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unrecordable):
        recorded(through_a_mapping, tmp_path)
