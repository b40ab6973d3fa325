"""A child does not outlive its parent, by either of its two ways."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.children import PARENT, exit_reason

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 10.0

PARENT_PROGRAM = """
import sys, time
from app.children import start_child
child = start_child("tests.project.sleeper", *sys.argv[1:])
print(child.pid, flush=True)
time.sleep(60)
"""


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def await_gone(pid: int) -> None:
    until = time.monotonic() + PATIENCE_S
    while not gone(pid):
        assert time.monotonic() < until, f"process {pid} goes on although its parent is dead"
        time.sleep(0.02)


@pytest.mark.parametrize("way", ["both", "pipe", "signal"])
def test_a_child_dies_with_its_parent(way: str) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT_PROGRAM, way], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        child = int(parent.stdout.readline())
        assert parent.stdout.readline() == "adopted\n"  # the child shares its parent's output
        assert not gone(child)
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        await_gone(child)


def test_a_child_of_one_thread_dies_with_it_before_it_has_imported_anything() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT_PROGRAM, "late"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent.stdout:
        child = int(parent.stdout.readline())
        assert parent.stdout.readline() == "not adopted\n"
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        await_gone(child)


def test_started_by_hand_it_lives_alone() -> None:
    environment = {name: text for name, text in os.environ.items() if name != PARENT}
    program = "from app.children import adopt; print(adopt())"
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    assert said.stdout == "False\n"


def test_a_child_whose_parent_is_gone_already_ends() -> None:
    reading, writing = os.pipe()
    os.set_inheritable(reading, True)
    program = "from app.children import adopt; adopt(); print('alive')"
    said = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, PARENT: f"{2**22 - 1}:{reading}"},
        pass_fds=(reading,),
        capture_output=True,
        text=True,
    )
    os.close(reading)
    os.close(writing)
    assert said.returncode == 70
    assert said.stdout == ""


def test_reasons_in_words() -> None:
    assert exit_reason(3) == "exit status 3"
    assert exit_reason(-9) == "killed by SIGKILL"
    assert exit_reason(-200) == "killed by signal 200"
