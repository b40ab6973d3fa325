"""A segment that was not finished leaves nothing that counts: killed at any step, or on a full disk."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from seedvec.segment import open_segment
from storage import atomic, failpoints, hashing, segment
from storage.segment import SegmentFile, write_segment

ROWS, DIMENSION = 5000, 128
NAME = "000001-" + "0" * 32 + ".h5"
STEPS = [name for name in failpoints.names() if name.startswith("segment.")]
AFTER_RENAME = {"segment.fsync_dir", "segment.published"}
WRITE = """
from pathlib import Path
from tests.storage.test_segment_crash import publish_one
publish_one(Path.cwd())
"""


def write_one(path: Path) -> SegmentFile:
    vectors = np.arange(ROWS * DIMENSION, dtype=np.float32).reshape(ROWS, DIMENSION)
    keys, norms = np.arange(ROWS, dtype=np.uint64), np.linalg.norm(vectors, axis=1)
    return write_segment(path, vectors=vectors, keys_rel=keys, ids=np.arange(ROWS), norms=norms, metric="l2")


def publish_one(folder: Path) -> SegmentFile:
    tmp = atomic.temporary(folder / NAME)
    written = write_one(tmp)
    atomic.publish(tmp, folder / NAME, "segment")
    return written


def test_every_step_has_its_failpoint() -> None:
    assert STEPS == sorted(
        f"segment.{step}"
        for step in ("layout", "reserve", "write", "hashes", "fsync", "rename", "fsync_dir", "published")
    )


@pytest.mark.parametrize(
    "point",
    [f"{name}:kill" for name in STEPS] + ["segment.write:kill:3", "segment.write:halfwrite:2"],
)
def test_killed_at_any_step(tmp_path: Path, point: str) -> None:
    root = Path(__file__).parents[2]
    environment = {**os.environ, failpoints.VARIABLE: point, "PYTHONPATH": os.fspath(root)}
    ended = subprocess.run([sys.executable, "-c", WRITE], cwd=tmp_path, env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL, "the failpoint was never hit"
    final = tmp_path / NAME
    assert final.exists() == (point.split(":")[0] in AFTER_RENAME)
    if final.exists():
        # Complete, though no catalogue names it yet.
        assert hashing.file_xxh3(final)[1] == write_one(tmp_path / "again").xxh3
        assert open_segment(final).rows == ROWS
    atomic.sweep(tmp_path, named=())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("action", ["enospc", "eio"])
@pytest.mark.parametrize("name", [s for s in STEPS if s != "segment.published"])
def test_a_failing_disk_is_an_oserror_and_leaves_nothing(tmp_path: Path, name: str, action: str) -> None:
    with failpoints.armed(f"{name}:{action}"), pytest.raises(OSError) as raised:
        publish_one(tmp_path)
    assert raised.value.errno == {"enospc": errno.ENOSPC, "eio": errno.EIO}[action]
    assert list(tmp_path.iterdir()) == []
    publish_one(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [NAME]


def test_no_room_is_noticed_before_hdf5_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = os.statvfs(tmp_path)
    monkeypatch.setattr(segment, "SPARE_BYTES", room.f_bavail * room.f_frsize)
    with failpoints.armed("segment.layout:eio"), pytest.raises(OSError) as raised:
        publish_one(tmp_path)
    assert raised.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 2 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", os.fspath(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("no right to mount a small disk; the failpoints above stand for it")
    yield disk
    subprocess.run(["umount", os.fspath(disk)], check=True)


def test_a_real_full_disk(tiny_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError) as raised:
        publish_one(tiny_disk)
    assert raised.value.errno == errno.ENOSPC and list(tiny_disk.iterdir()) == []
    # And where the room was taken by somebody else between the question and the reservation:
    monkeypatch.setattr(segment, "require_room", lambda folder, needed: None)
    with pytest.raises(OSError) as raised:
        publish_one(tiny_disk)
    assert raised.value.errno == errno.ENOSPC and list(tiny_disk.iterdir()) == []
