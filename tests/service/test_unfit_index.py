"""An index that cannot be had for the rows there are is refused, and what is there goes on serving."""

from pathlib import Path

import numpy as np

from tests.harness import SMALL, Server

ROWS, DIMENSION = 1500, 8
SCANT = SMALL | {"SEEDVEC_MEMORY_BYTES": "1MiB"}


def test_too_little_memory_and_too_many_lists(tmp_path: Path) -> None:
    vectors = np.random.default_rng(1).standard_normal((ROWS, DIMENSION)).astype(np.float32)
    with Server(tmp_path / "data", env=SCANT) as server:
        words = server.collection("words")
        words.create(DIMENSION, index={"kind": "flat"})
        words.add(None, vectors)
        before = words.wait_ready()

        problem = words.wire.ok(507, "PUT", f"{words.path}/index", {"kind": "hnsw"})
        assert problem["type"] == "/problems/insufficient-memory"
        for words_of_it in ("hnsw", f"it may have {1 << 19:,}", "flat", "--memory-bytes"):
            assert words_of_it in problem["detail"]

        problem = words.wire.ok(422, "PUT", f"{words.path}/index", {"kind": "ivf", "nlist": ROWS + 1})
        assert problem["type"] == "/problems/out-of-range"
        assert [fault["where"] for fault in problem["errors"]] == ["nlist"]

        assert words.describe() == before, "nothing was changed"
        assert words.search(vectors[3], 1)["hits"][0]["distance"] == 0


def test_rows_that_have_grown_past_it_are_searched_exactly_and_it_is_said(tmp_path: Path) -> None:
    vectors = np.random.default_rng(1).standard_normal((ROWS, DIMENSION)).astype(np.float32)
    with Server(tmp_path / "data", env=SCANT) as server:
        words = server.collection("words")
        words.create(DIMENSION, index={"kind": "ivf"})
        words.add(None, vectors)
        index = words.wire.ok(200, "GET", f"{words.path}?wait=ready")["index"]
        assert index["state"] == "failed" and "too little memory" in index["reason"]
        answer = words.search(vectors[3], 1)
        assert answer["exact"] and answer["hits"][0]["distance"] == 0
    again = {name: value for name, value in SCANT.items() if name != "SEEDVEC_MEMORY_BYTES"}
    with Server(tmp_path / "data", env=again) as server:
        assert server.collection("words").wait_ready()["index"]["kind"] == "ivf"
