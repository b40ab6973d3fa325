"""Cancelling a build stops the one that is due or under way, and none that comes later."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.harness import SMALL, Server, wait_for

ROWS = 1500
UNHURRIED = SMALL | {"SEEDVEC_SEAL_QUIET_S": "3600"}
"""A write above a quarter of the bound is a segment at once; its index waits for a pause in writing."""
DEAR = {"kind": "hnsw", "m": 96, "ef_construction": 1000}
"""A graph of 15,000 rows takes a minute."""


def scattered(rows: int, dimension: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, dimension)).astype(np.float32)


def test_only_what_is_due_is_cancelled(tmp_path: Path) -> None:
    with Server(tmp_path / "data", env=UNHURRIED) as server:
        words = server.collection("words")
        words.create(8, index={"kind": "ivf"})
        cancel = ("DELETE", f"{words.path}/index/build")
        words.wire.ok(204, *cancel)  # nothing is there to be built

        words.add(None, scattered(ROWS, 8))
        assert words.describe()["index"]["state"] == "building"

        words.wire.ok(204, *cancel)
        index = words.describe()["index"]
        assert index["state"] == "failed" and "cancelled" in index["reason"]

        words.wire.ok(202, "PUT", f"{words.path}/index", {})
        assert words.describe()["index"]["state"] == "building"


def test_a_build_under_way_ends_and_the_old_index_serves(tmp_path: Path) -> None:
    vectors = scattered(15_000, 64)
    with Server(tmp_path / "data", env=SMALL) as server:
        words = server.collection("words")
        words.create(64, index={"kind": "ivf"})
        words.add(None, vectors)
        before = words.wait_ready()["calibration"]

        def index() -> dict[str, Any]:
            found: dict[str, Any] = words.describe()["index"]
            return found

        words.wire.ok(202, "PUT", f"{words.path}/index", DEAR)
        wait_for("it builds, and says how far it is", lambda: (now := index())["progress"] and now["eta_s"])
        asked = time.monotonic()
        words.wire.ok(204, "DELETE", f"{words.path}/index/build")
        wait_for("it has ended", lambda: index()["progress"] is None, timeout_s=20)
        assert time.monotonic() - asked < 20
        time.sleep(2)
        assert index()["progress"] is None, "it is not begun again"
        assert words.describe()["calibration"] == before
        assert index()["kind"] == "ivf" and index()["indexed"] == len(vectors)


def test_a_merge_that_would_build_waits_until_another_index_is_asked_for(tmp_path: Path) -> None:
    """What is there stays as it is; what is written meanwhile is found all the same."""
    with Server(tmp_path / "data", env=SMALL) as server:
        words = server.collection("words")
        words.create(8, index={"kind": "ivf"})
        words.add(None, scattered(ROWS, 8))
        words.wait_ready()
        # Nothing is due now: a cancel of nothing must not stop what comes.
        words.wire.ok(204, "DELETE", f"{words.path}/index/build")
        words.wire.ok(202, "PUT", f"{words.path}/index", {"kind": "ivf", "nlist": 16})
        words.wire.ok(204, "DELETE", f"{words.path}/index/build")

        words.add(None, scattered(ROWS, 8, seed=2))
        wait_for("the second segment is there", lambda: words.describe()["segments"] == 2)
        time.sleep(2)  # more than a pause in writing, and a merge
        described = words.describe()
        assert described["segments"] == 2, "neither is merged, nor built"
        assert described["index"]["indexed"] == ROWS and described["index"]["state"] == "failed"
        assert "cancelled" in described["index"]["reason"]
        hits = words.search(scattered(ROWS, 8, seed=2)[7], 1)["hits"]
        assert [hit["distance"] for hit in hits] == [0]

        words.wire.ok(202, "PUT", f"{words.path}/index", {})
        described = words.wait_ready()
        assert described["segments"] == 1 and described["index"]["indexed"] == 2 * ROWS
