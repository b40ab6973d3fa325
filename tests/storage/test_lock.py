"""One owner a data folder, by the kernel and not by a text."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from storage.failpoints import armed
from storage.lock import LockHeld, acquire, holder

HOLD = "import sys; sys.stdin.read()"


def test_a_second_server_is_told_who_holds_it(tmp_path: Path) -> None:
    lock = acquire(tmp_path)
    lock.describe("http://127.0.0.1:8080")
    with pytest.raises(LockHeld, match=f"process {os.getpid()} on .*, serving http://127.0.0.1:8080") as raised:
        acquire(tmp_path)
    assert raised.value.holder == holder(tmp_path)
    lock.release()
    assert holder(tmp_path) is None
    acquire(tmp_path).release()


def test_a_stale_text_is_seen_through(tmp_path: Path) -> None:
    (tmp_path / "LOCK").write_text("pid 1\nhost elsewhere\naddress http://10.0.0.1:80\n" + "x" * 100)
    assert holder(tmp_path) is None
    lock = acquire(tmp_path, "here")
    assert (tmp_path / "LOCK").read_text().startswith(f"pid {os.getpid()}\n")
    assert "xxx" not in (tmp_path / "LOCK").read_text()
    lock.release()


def test_a_shorter_name_leaves_nothing_of_a_longer_one(tmp_path: Path) -> None:
    lock = acquire(tmp_path)
    lock.describe("http://" + "x" * 200)
    lock.describe("http://[::1]:1")
    assert (tmp_path / "LOCK").read_text().endswith("address http://[::1]:1\n")
    assert str(holder(tmp_path)).endswith(", serving http://[::1]:1")
    lock.release()


@pytest.mark.parametrize("action", ["enospc", "eio"])
def test_a_full_disk_is_locked_all_the_same(tmp_path: Path, action: str) -> None:
    with armed(f"lock.describe:{action}"):
        lock = acquire(tmp_path)
    with pytest.raises(LockHeld, match="in use by a process that left no name"):
        acquire(tmp_path)
    lock.release()


def test_a_holder_whose_parent_is_gone_is_named(tmp_path: Path) -> None:
    """The text names the parent, a child of which still holds the lock: the reader is told both."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    lock = acquire(tmp_path)
    (tmp_path / "LOCK").write_text(f"pid {gone.pid}\nhost {socket.gethostname()}\naddress http://x:1\n")
    with pytest.raises(LockHeld, match=f"process {gone.pid} on .*, serving http://x:1 .it is gone, but a child of it"):
        acquire(tmp_path)
    lock.release()


@pytest.mark.parametrize("text", ["", "nonsense", "pid x\nhost\n", "pid 99999999999999999999\n", "\0\xff"])
def test_text_that_says_nothing_hides_no_holder(tmp_path: Path, text: str) -> None:
    lock = acquire(tmp_path)
    (tmp_path / "LOCK").write_text(text)
    with pytest.raises(LockHeld, match="is in use by"):
        acquire(tmp_path)
    lock.release()


def test_a_child_that_inherited_it_keeps_it(tmp_path: Path) -> None:
    lock = acquire(tmp_path)
    child = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, pass_fds=[lock.fd])
    lock.release()
    with pytest.raises(LockHeld):
        acquire(tmp_path)
    child.communicate(b"")
    acquire(tmp_path).release()


def test_other_children_do_not_get_it(tmp_path: Path) -> None:
    lock = acquire(tmp_path)
    child = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE)
    lock.release()
    acquire(tmp_path).release()
    child.communicate(b"")


def test_no_folder_no_lock(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        acquire(tmp_path / "absent")
    assert holder(tmp_path / "absent") is None
