"""Suite 4: a real server on a small disk of its own, filled to the brim.

Writes are refused with 507, reads and deletes go on, nothing is lost; once there is room, writes, sealing and merging
go on in the same processes.
"""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.layout import DataFolder
from tests.faults.judged import DIMENSION, Judged, drawn, refused
from tests.faults.table import Extent, record
from tests.harness import SMALL, Server, wait_for
from tests.wire import plain

SUITE = "4 a disk filled to the brim"
DISK = "48m"
BALLAST_BYTES = 1 << 20
SETTINGS = {**SMALL, "SEEDVEC_BALLAST_BYTES": str(BALLAST_BYTES)}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A data folder that is a file system of 48 MiB."""
    data = tmp_path / "data"
    data.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", os.fspath(data)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("no right to mount a small disk; test_failing_disk stands for it")
    yield data
    subprocess.run(["umount", os.fspath(data)], check=True)


class Filled:
    """What takes all room that is left, to the last byte, until it is taken away."""

    def __init__(self, disk: Path) -> None:
        self.path = disk / "hog"

    def fill(self) -> None:
        with self.path.open("ab") as hog:
            for size in (1 << 20, 1 << 12):
                while self._grow(hog.fileno(), size):
                    pass

    def _grow(self, fd: int, size: int) -> bool:
        try:
            os.posix_fallocate(fd, os.fstat(fd).st_size, size)
        except OSError:
            return False
        return True

    def clear(self) -> None:
        self.path.unlink()


def fill_up(judged: Judged, hog: Filled, begin: int) -> int:
    """Adds on a full disk until they are refused: SQLite's log has room in it. Returns the first id not added."""
    hog.fill()
    for n in range(begin, begin + 2000):
        answer = judged.try_add([n], n)
        if answer.status != 201:
            assert refused(answer) == "disk-full"
            return n
        hog.fill()
    raise AssertionError("2,000 adds found room on a full disk")


@pytest.mark.timeout(300)
def test_filled_to_the_brim(disk: Path) -> None:
    begun, hog, ballast = time.monotonic(), Filled(disk), DataFolder(disk).ballast
    with Server(disk, env=SETTINGS) as server:
        kept, going = Judged(server, "kept"), Judged(server, "going")
        for collection in (kept, going):
            collection.there.create(DIMENSION, metric="l2")
        assert kept.try_add(list(range(1500)), 7).status == 201
        assert going.try_add(list(range(300)), 8).status == 201
        kept.there.wait_ready()
        going.there.wait_ready()
        processes = server.children("app.")
        full_from = fill_up(kept, hog, 10_000)

        for _ in range(2):  # over both workers
            for collection in (kept, going):
                collection.use(server)
                collection.judge()
            wire = server.wire()
            assert wire.ok(200, "GET", "/readyz")["closed"] == {}
            answers = [
                kept.try_add([full_from], 1),
                wire.call("PUT", f"{kept.there.path}/vectors", {"ids": [1], "vectors": plain(drawn(1))}),
                wire.call("POST", f"{kept.there.path}/vectors", {"vectors": plain(drawn(400))}),
                wire.call("PATCH", kept.there.item(1), {"metadata": {"a": 1}}),
                wire.call("PUT", "/v1/collections/more", {"dimension": 2}),
            ]
            assert [refused(answer) for answer in answers] == ["disk-full"] * len(answers)

        # What frees room is taken, on the ballast's room, and nothing else.
        assert ballast.stat().st_size == BALLAST_BYTES
        kept.delete(list(range(20)))
        for id in (20, 21):
            kept.there.wire.ok(204, "DELETE", kept.there.item(id))
            del kept.rows[id]
        assert ballast.stat().st_size == 0
        assert refused(kept.try_add([full_from], 1)) == "disk-full"
        kept.judge()
        going.delete([5])
        assert going.there.wire.call("DELETE", going.there.path).status == 204
        assert server.wire().ok(200, "GET", "/v1/collections")["collections"] == ["kept"]
        assert server.children("app.") == processes, "a process was started anew"

        hog.clear()
        wait_for("adds are taken again", lambda: kept.try_add([full_from], 1).status == 201, every_s=0.2)
        assert ballast.stat().st_size == BALLAST_BYTES
        assert kept.try_add(list(range(20_000, 20_500)), 9).status == 201
        kept.there.wait_ready()
        assert server.children("app.") == processes, "a process was started anew"
        kept.judge()
        server.restart()
        kept.use(server)
        judged = kept.judge()
    record(SUITE, 1, 0, judged=judged, seconds=time.monotonic() - begun)


@pytest.mark.timeout(300)
def test_a_start_on_a_full_disk(disk: Path, extent: Extent) -> None:
    if extent == "quick":
        pytest.skip("three starts: `make faults`")
    begun, hog = time.monotonic(), Filled(disk)
    with Server(disk, env=SETTINGS) as server:
        kept = Judged(server, "kept")
        kept.there.create(DIMENSION, metric="l2")
        assert kept.try_add(list(range(500)), 7).status == 201
        fill_up(kept, hog, 10_000)
        server.kill()
        hog.fill()
        server.start()
        kept.use(server)
        kept.judge()
        assert server.wire().ok(200, "GET", "/readyz")["closed"] == {}
        kept.delete(list(range(50)))
        server.stop()
        hog.fill()
        hog.clear()
        server.start()
        kept.use(server)
        kept.judge()
        assert kept.try_add([1], 3).status == 201
        judged = kept.judge()
    record(SUITE, 1, 0, judged=judged, seconds=time.monotonic() - begun)
