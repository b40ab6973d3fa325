"""Suite 4: a disk that takes no writes any more, under a real server: writes are refused, reads go on.

A disk that is in use cannot be remounted read-only in order: the kernel refuses that, because the server has files open
for writing. It happens to a server in two ways: the file system finds an error and shuts itself against writes (there
is no way back without unmounting it), or the system refuses writes for a while (a network disk, an administrator).
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.layout import LOCK_NAME
from tests.faults.judged import DIMENSION, Judged, refused
from tests.faults.table import Extent, record
from tests.harness import SMALL, Server, wait_for

SUITE = "4 a disk that takes no writes"
REFUSALS = {"unavailable", "outcome-unknown"}
ROWS = 500


def succeeds(*command: str) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[Path]:
    """A data folder that is a file system of its own, which shuts itself against writes where it finds an error."""
    image, data = tmp_path / "image", tmp_path / "data"
    data.mkdir()
    image.touch()
    os.truncate(image, 128 << 20)
    made = os.geteuid() == 0 and succeeds("mkfs.ext4", "-q", "-F", os.fspath(image))
    if not made or not succeeds("mount", "-o", "loop,errors=remount-ro", os.fspath(image), os.fspath(data)):
        pytest.skip("no right to mount a file system; test_failing_disk stands for it")
    yield data
    subprocess.run(["umount", os.fspath(data)], check=True)


@pytest.fixture
def immutable(tmp_path: Path) -> Iterator[Path]:
    """A data folder whose files can be made so that nobody can write to them, not even who has them open."""
    probe, data = tmp_path / "probe", tmp_path / "data"
    probe.touch()
    if not succeeds("chattr", "+i", os.fspath(probe)):
        pytest.skip("files cannot be made immutable here; test_failing_disk stands for it")
    succeeds("chattr", "-i", os.fspath(probe))
    yield data
    succeeds("chattr", "-R", "-i", os.fspath(data))


def filled(server: Server) -> Judged:
    judged = Judged(server, "kept")
    judged.there.create(DIMENSION, metric="l2")
    assert judged.try_add(list(range(ROWS)), 7).status == 201
    assert judged.try_add(list(range(ROWS, ROWS + 20)), 8).status == 201
    return judged


def writes_are_refused(server: Server, judged: Judged) -> int:
    """Over both workers. Returns how many rows were read meanwhile."""
    found = 0
    for n in range(4):
        judged.use(server)
        wire, path = judged.there.wire, judged.there.path
        answers = [
            judged.try_add([10_000 + n], 1),
            wire.call("POST", f"{path}/vectors/delete", {"ids": [1]}),
            wire.call("PATCH", judged.there.item(1), {"metadata": {"a": 1}}),
            wire.call("PUT", "/v1/collections/more", {"dimension": 2}),
            wire.call("DELETE", path),
        ]
        assert {refused(answer) for answer in answers} <= REFUSALS
        assert all(answer.headers.get("retry-after") for answer in answers)
        found += judged.judge()
        assert wire.ok(200, "GET", "/readyz")["closed"] == {}
    return found


@pytest.mark.timeout(300)
def test_the_file_system_shuts_itself_against_writes(ext4: Path, extent: Extent) -> None:
    if extent == "quick":
        pytest.skip("a file system is made: `make faults`")
    begun = time.monotonic()
    device = subprocess.check_output(["findmnt", "-no", "SOURCE", os.fspath(ext4)], text=True).strip()
    trigger = Path("/sys/fs/ext4", Path(device).name, "trigger_fs_error")
    with Server(ext4, env=SMALL, checked=False) as server:
        judged = filled(server)
        assert not succeeds("mount", "-o", "remount,ro", os.fspath(ext4)), "in order only without the server"
        trigger.write_text("1")
        found = writes_are_refused(server, judged)
        # A worker that starts now opens what it cannot write to.
        killed = server.children("app.worker")[0]
        os.kill(killed, signal.SIGKILL)
        wait_for("another worker runs", lambda: len(set(server.children("app.worker")) - {killed}) == 2)
        found += writes_are_refused(server, judged)
    record(SUITE, 1, 0, judged=found, seconds=time.monotonic() - begun)


@pytest.mark.timeout(300)
def test_writes_are_refused_for_a_while(immutable: Path) -> None:
    begun = time.monotonic()
    with Server(immutable, env=SMALL) as server:
        judged = filled(server)
        processes = server.children("app.")
        files = [os.fspath(p) for p in immutable.rglob("*") if not p.name.endswith("-shm") and p.name != LOCK_NAME]
        assert succeeds("chattr", "+i", *files)
        found = writes_are_refused(server, judged)
        assert succeeds("chattr", "-R", "-i", os.fspath(immutable))
        for n in range(4):
            judged.use(server)
            assert judged.try_add([20_000 + n], n).status == 201
            judged.delete([n])
        found += judged.judge()
        judged.there.wait_ready()
        assert server.children("app.") == processes, "a process was started anew"
    record(SUITE, 1, 0, judged=found, seconds=time.monotonic() - begun)
