"""Failpoints act where and when they are told, and never otherwise."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from storage import failpoints
from storage.failpoints import BadFailpoint, armed, declare, hit


def test_unarmed_nothing_happens() -> None:
    hit("anything")


def test_only_the_nth_hit_or_every_one() -> None:
    with armed("a:eio:2, b:enospc"):
        hit("a")
        with pytest.raises(OSError) as raised:
            hit("a")
        assert raised.value.errno == errno.EIO
        hit("a")
        for _ in range(2):
            with pytest.raises(OSError) as raised:
                hit("b")
            assert raised.value.errno == errno.ENOSPC
    hit("b")


def test_only_in_the_process_of_a_module(tmp_path: Path) -> None:
    (tmp_path / "some_module.py").write_text("from storage.failpoints import hit\nhit('a')\nprint('survived')\n")
    path = os.pathsep.join([os.fspath(tmp_path), os.fspath(Path(__file__).parents[2])])
    for point, survives in [("a@some_module:kill", False), ("a@app.builder:kill", True)]:
        environment = {**os.environ, failpoints.VARIABLE: point, "PYTHONPATH": path}
        command = [sys.executable, "-m", "some_module"]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert ended.stdout == ("survived\n" if survives else ""), ended.stderr


def test_sleep() -> None:
    with armed("a:sleep=0.05"):
        begun = time.monotonic()
        hit("a")
    assert time.monotonic() - begun >= 0.05


def test_halfwrite_writes_then_dies(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with armed("a:halfwrite"):
            hit("a", lambda: (tmp_path / "half").write_bytes(b"ha"))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and (tmp_path / "half").read_bytes() == b"ha"


def test_watched_sees_every_hit_and_what_could_be_half_written() -> None:
    name, seen = declare("test.watched"), list[tuple[str, bool]]()
    with failpoints.watched(lambda name, halfwrite: seen.append((name, halfwrite is not None))):
        hit(name)
        hit(name, lambda: None)
    hit(name)
    assert seen == [(name, False), (name, True)]


@pytest.mark.parametrize("text", ["a", "a:explode", ":kill", "@b:kill", "a:sleep", "a:sleep=x", "a:eio:x", "a:eio:1:2"])
def test_text_that_cannot_be_read_arms_nothing(text: str) -> None:
    with pytest.raises(BadFailpoint):
        failpoints.arm(f"b:eio,{text}")
    hit("b")


def test_declared_names_are_known() -> None:
    assert declare("test.only") == "test.only" and "test.only" in failpoints.names()
