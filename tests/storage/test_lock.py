"""One owner a data folder, by the kernel and not by a text."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
