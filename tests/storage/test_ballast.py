"""Room kept back: made where there is room for it twice, given up at once, and never a reason to fail."""

import errno
import os
from pathlib import Path

import pytest

from storage.ballast import Ballast
from storage.failpoints import armed
from storage.layout import DataFolder

SIZE = 64 << 10


@pytest.fixture
def ballast(tmp_path: Path) -> Ballast:
    return Ballast(tmp_path)


def size(root: Path) -> int | None:
    path = DataFolder(root).ballast
    return path.stat().st_size if path.exists() else None


def test_it_takes_real_room_and_frees_it(ballast: Ballast, tmp_path: Path) -> None:
    assert ballast.restore(SIZE) and not ballast.given_up()
    assert DataFolder(tmp_path).ballast.stat().st_blocks * 512 >= SIZE, "a hole is no room"
    assert ballast.give_up() and ballast.given_up()
    assert DataFolder(tmp_path).ballast.stat().st_blocks == 0
    assert not ballast.give_up(), "there is nothing more to free"
    assert ballast.restore(SIZE) and not ballast.given_up()


def test_without_one_nothing_is_kept_back(ballast: Ballast, tmp_path: Path) -> None:
    assert not ballast.given_up() and not ballast.give_up()
    assert ballast.restore(SIZE)
    assert ballast.restore(0)
    assert size(tmp_path) is None and not ballast.given_up()


def test_another_size(ballast: Ballast, tmp_path: Path) -> None:
    for wanted in (SIZE, 2 * SIZE, SIZE // 2):
        assert ballast.restore(wanted) and size(tmp_path) == wanted


def test_too_little_room_leaves_it_given_up(ballast: Ballast, tmp_path: Path) -> None:
    room = os.statvfs(tmp_path)
    assert not ballast.restore(room.f_bavail * room.f_frsize)
    assert ballast.given_up() and size(tmp_path) == 0
    with armed("ballast.restore:enospc"):
        assert not ballast.restore(SIZE)
    assert ballast.given_up()


def test_a_failing_disk(ballast: Ballast) -> None:
    with armed("ballast.restore:eio"), pytest.raises(OSError) as raised:
        ballast.restore(SIZE)
    assert raised.value.errno == errno.EIO and ballast.given_up()
    assert ballast.restore(SIZE)
    with armed("ballast.give_up:eio"):
        assert not ballast.give_up()
    assert not ballast.given_up()
