"""Adds, upserts, deletes and searches go on while an index is being built, and every answer stays right."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.harness import SMALL, Server
from tests.oracle import Oracle
from tests.wire import Collection

DIMENSION = 32
ROWS = 12_000
MOST_S = 40.0
LEAST_WHILE_BUILDING = 40
"""Answers that must have been given while a build was going on, or the test has shown nothing."""
ASKED_AFTER = 60
"""So that the average recall does not hang on a few queries."""


def drawn(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    """Clustered, as real data is: independent Gaussians have no neighbours that an index could find."""
    centres = np.random.default_rng(7).standard_normal((50, DIMENSION))
    rows: NDArray[np.float32] = (centres[rng.integers(0, 50, n)] + 0.4 * rng.standard_normal((n, DIMENSION))).astype(
        np.float32
    )
    return rows


class Story:
    """One client's writes and searches, each answer held against the oracle before the next request."""

    def __init__(self, writer: Collection, reader: Collection, oracle: Oracle) -> None:
        self.writer, self.reader, self.oracle = writer, reader, oracle
        self.rng = np.random.default_rng(11)
        self.next_id = 10**6
        self.recalls: list[float] = []
        self.while_building = 0

    def step(self) -> None:
        building = self.reader.describe()["index"]["state"] == "building"
        fresh = self.add()
        self.find(fresh)
        moved = self.upsert()
        self.find(moved)
        self.delete()
        self.search(drawn(self.rng, 1)[0])
        # Only steps that began and ended during a build count: the searches in between surely were beside it.
        if building and self.reader.describe()["index"]["state"] == "building":
            self.while_building += 3

    def add(self) -> int:
        ids = list(range(self.next_id, self.next_id + 5))
        self.next_id += 5
        vectors = drawn(self.rng, 5)
        metadata: list[dict[str, Any]] = [{"n": id} for id in ids]
        self.writer.add(ids, vectors, metadata)
        self.oracle.put(ids, vectors, metadata)
        return ids[0]

    def upsert(self) -> int:
        id = int(self.rng.integers(0, ROWS))
        vector = drawn(self.rng, 1)
        self.writer.upsert([id], vector)
        self.oracle.put([id], vector)
        return id

    def delete(self) -> None:
        ids = [int(id) for id in self.rng.integers(0, ROWS, 3)]
        gone = self.writer.delete(ids)
        assert gone == self.oracle.remove(ids)
        assert self.reader.fetch(ids)["items"] == []

    def find(self, id: int) -> None:
        """What was just written is its own nearest neighbour, whatever any index knows of it."""
        vector = self.oracle.vector(id)
        hits = self.reader.search(vector, k=5)["hits"]
        assert hits[0]["id"] == id, f"{id} was acknowledged and is not found: {hits}"
        near = self.reader.neighbors(id, k=5)
        self.oracle.judge(vector, 5, near["hits"], exact=near["exact"], without=id)

    def search(self, query: NDArray[np.float32]) -> None:
        exact = self.reader.search(query, exact=True)
        assert exact["exact"] is True
        self.oracle.judge(query, 10, exact["hits"], exact=True)
        answer = self.reader.search(query)
        self.recalls.append(self.oracle.judge(query, 10, answer["hits"], exact=answer["exact"]))
        for hit in answer["hits"]:
            assert (hit["metadata"] or {}) == (self.oracle.metadata[hit["id"]] or {})


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_answers_stay_right(tmp_path: Path, kind: str) -> None:
    # A build of so few rows is over in a moment: it is held up before its publication, where races would be.
    env = SMALL | {"SEEDVEC_FAILPOINTS": "index.fsync:sleep=1.5"}
    with Server(tmp_path / "data", env=env) as server:
        writer, reader = server.collection("built"), server.collection("built")
        writer.create(DIMENSION, metric="cosine", id_type="int", index={"kind": kind})
        vectors, oracle = drawn(np.random.default_rng(1), ROWS), Oracle(DIMENSION, "cosine")
        for begin in range(0, ROWS, 3000):
            ids = list(range(begin, begin + 3000))
            writer.add(ids, vectors[ids])
            oracle.put(ids, vectors[ids])
        story = Story(writer, reader, oracle)
        end = time.monotonic() + MOST_S
        while story.while_building < LEAST_WHILE_BUILDING:
            assert time.monotonic() < end, f"only {story.while_building} answers beside a build: {reader.describe()}"
            if reader.describe()["index"]["state"] == "ready":
                assert writer.wire.call("PUT", f"{writer.path}/index", {"kind": kind}).status == 202
            story.step()
        described = writer.wait_ready()
        assert described["index"]["kind"] == kind
        for _ in range(5):
            story.step()
        for query in drawn(story.rng, ASKED_AFTER):
            story.search(query)
        oracle.judge_stored(reader.everything())
        assert float(np.mean(story.recalls)) >= 0.9, f"recall {np.mean(story.recalls)} over {len(story.recalls)}"
