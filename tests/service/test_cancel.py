"""Cancelling a build stops the one that is due, and none that comes later."""

from pathlib import Path

import numpy as np

from tests.harness import SMALL, Server

ROWS = 1500
UNHURRIED = SMALL | {"SEEDVEC_SEAL_QUIET_S": "3600"}
"""A write above a quarter of the bound is a segment at once; its index waits for a pause in writing."""


def test_only_what_is_due_is_cancelled(tmp_path: Path) -> None:
    vectors = np.random.default_rng(1).standard_normal((ROWS, 8)).astype(np.float32)
    with Server(tmp_path / "data", env=UNHURRIED) as server:
        words = server.collection("words")
        words.create(8, index={"kind": "ivf"})
        cancel = ("DELETE", f"{words.path}/index/build")
        words.wire.ok(204, *cancel)  # nothing is there to be built

        words.add(None, vectors)
        assert words.describe()["index"]["state"] == "building"

        words.wire.ok(204, *cancel)
        index = words.describe()["index"]
        assert index["state"] == "failed" and "cancelled" in index["reason"]

        words.wire.ok(202, "PUT", f"{words.path}/index", {})
        assert words.describe()["index"]["state"] == "building"
