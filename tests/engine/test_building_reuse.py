"""What a growing collection costs: merges extend the index of the largest part, and copy it seldom."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from app.engine import policy
from app.engine.policy import Grounds
from app.engine.segments import load_index, open_one
from index.exact import Exact
from index.load import META_VERSION
from storage import catalogue
from storage.catalogue import IndexRow, SegmentRow, Settings, State
from storage.layout import SEGMENTS_NAME
from tests.engine.rig import Rig

DIMENSION = 32
FIRST, STEP, STEPS = 3000, 300, 5
GROUNDS = Grounds(256, 1 << 50, 1)


class Cloud(Rig):
    """Its vectors are scattered."""

    def vectors(self, n: int) -> NDArray[np.float32]:
        first, self._drawn = self._drawn, self._drawn + n
        return np.random.default_rng(first).standard_normal((n, self.dimension)).astype(np.float32)


@pytest.fixture(params=["ivf", "hnsw"])
def cloud(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cloud]:
    made = Cloud(tmp_path / "data", dimension=DIMENSION, index=request.param, index_min_rows=256, durable=False)
    made.upsert_directly(list(range(FIRST)))
    made.merge()
    yield made
    made.close()


def built(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    """Rows of each index that was written, and how it came about."""
    found = []
    for record in caplog.records:
        if record.name == "app.engine.indexing" and record.levelno == logging.INFO:
            _, _, rows, how = record.args  # type: ignore[misc]
            found.append((int(str(rows)), str(how)))
    return found


def found_share(rig: Rig) -> float:
    """recall@10 of the largest segment's index with its parameters for 0.95, of stored and of strange vectors."""
    row = max(rig.segments(), key=lambda s: s.rows)
    segment = open_one(rig.folder, row)
    index = load_index(rig.folder, row, segment.vectors)
    assert index is not None
    strange = np.random.default_rng(99).standard_normal((100, DIMENSION)).astype(np.float32)
    queries = np.concatenate([np.asarray(segment.vectors.rows[:: row.rows // 100]), strange])
    got = index.search(queries, 10, index.plan(10, 0.95)).rows
    truth = Exact(segment.vectors).search(queries, 10).rows
    return float(np.mean([len(set(a.tolist()) & set(b.tolist())) / 10 for a, b in zip(got, truth, strict=True)]))


def test_growing_by_tenths_builds_nothing_again(cloud: Cloud, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for step in range(STEPS):
            first = FIRST + step * STEP
            cloud.upsert_directly(list(range(first, first + STEP)))
            cloud.merge()
    large = [(rows, how) for rows, how in built(caplog) if rows >= FIRST]
    assert large, "the parts were never brought together"
    assert all(how == f"extended by {rows - before}" for (rows, how), before in zip(large, [FIRST, 3600], strict=False))
    anew = sum(rows for rows, how in built(caplog) if how == "built anew")
    assert anew <= 2 * STEPS * STEP, "what came in was indexed by itself, and once more as two of it were merged"
    row = max(cloud.segments(), key=lambda s: s.rows)
    assert row.index is not None and row.index.meta["built_rows"] == FIRST and row.rows > FIRST
    assert row.index.meta["checked"] >= 0.99
    assert found_share(cloud) >= 0.94
    cloud.assert_sound()
    cloud.assert_seen(cloud.worker())


def test_what_was_deleted_stays_out_of_what_is_extended(cloud: Cloud, caplog: pytest.LogCaptureFixture) -> None:
    cloud.delete(list(range(0, FIRST, 20)))
    with caplog.at_level(logging.INFO):
        cloud.upsert_directly(list(range(FIRST, FIRST + 2 * STEP)))
        cloud.merge()
    assert (FIRST + 2 * STEP - FIRST // 20, f"extended by {2 * STEP}") in built(caplog)
    assert found_share(cloud) >= 0.94
    cloud.assert_sound()
    cloud.assert_seen(cloud.worker())


def test_more_than_twice_the_rows_are_built_anew(cloud: Cloud, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        cloud.upsert_directly(list(range(FIRST, 2 * FIRST + 1)))
        cloud.merge()
    assert (2 * FIRST + 1, "built anew") in built(caplog)


def test_an_index_asked_for_again_is_not_extended(cloud: Cloud, caplog: pytest.LogCaptureFixture) -> None:
    spec = catalogue.read_settings(cloud.db).index_spec
    cloud.write(lambda turn: turn.set_index_spec(spec))
    cloud.upsert_directly(list(range(FIRST, FIRST + 2 * STEP)))
    with caplog.at_level(logging.INFO):
        cloud.merge()
    assert (FIRST + 2 * STEP, "built anew") in built(caplog)


def test_a_damaged_index_is_not_extended(cloud: Cloud, caplog: pytest.LogCaptureFixture) -> None:
    index = cloud.segments()[0].index
    assert index is not None
    path = cloud.folder / SEGMENTS_NAME / index.file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    cloud.upsert_directly(list(range(FIRST, FIRST + 2 * STEP)))
    with caplog.at_level(logging.INFO):
        cloud.merge()
    assert (FIRST + 2 * STEP, "built anew") in built(caplog)
    cloud.assert_sound()


def test_an_index_of_an_earlier_version_is_built_again_and_serves_meanwhile(cloud: Cloud) -> None:
    old = cloud.segments()[0].index
    assert old is not None
    meta = old.meta | {"version": META_VERSION - 1}
    cloud.building_publisher.recalibrate(old.seq, old.file, meta)
    under_way = cloud.build_under_way()
    assert under_way.at_the_gap
    serving = cloud.segments()[0].index
    assert serving is not None and serving.file == old.file and (cloud.folder / SEGMENTS_NAME / old.file).exists()
    under_way.publish()
    new = cloud.segments()[0].index
    assert new is not None and new.file != old.file and new.meta["version"] == META_VERSION
    cloud.assert_sound(notes=False)


# -------------------------------------------------------------------- by the policy alone


def settings(kind: str = "ivf", recall: float = 0.95) -> Settings:
    return Settings(128, "l2", "float32", "int", recall, {"kind": kind, "params": {}}, catalogue.now())


class Paper:
    """A collection of segments that are only counted: what the policy makes of it, step by step."""

    def __init__(self, want: Settings) -> None:
        self.settings = want
        self.segments: list[SegmentRow] = []
        self.copied = 0
        """Rows that merges wrote."""
        self.largest_merges = 0
        self._seq = 0

    def write(self, rows: int) -> None:
        self._seq += 1
        size = rows * self.settings.dimension * 4
        self.segments.append(SegmentRow(self._seq, f"{self._seq}.h5", rows, self._seq, rows, size, ""))
        self._work()

    def _work(self) -> None:
        while due := policy.jobs(self.settings, State(), self.segments, GROUNDS, quiet=True):
            job = due[0]
            kept = [s for s in self.segments if s not in job.segments]
            if job.kind == "build":
                self.segments = [*kept, replace(job.segments[0], index=self._index(job.segments[0]))]
                continue
            assert job.kind == "merge"
            rows = sum(s.rows for s in job.segments)
            self.copied += rows
            self.largest_merges += max(self.segments, key=lambda s: s.rows) in job.segments
            self._seq += 1
            output = SegmentRow(self._seq, "", rows, self._seq, rows, sum(s.bytes for s in job.segments), "")
            self.segments = [*kept, replace(output, index=self._index(output) if job.makes_an_index else None)]

    def _index(self, segment: SegmentRow) -> IndexRow | None:
        want = policy.wanted(self.settings, segment.rows, GROUNDS)
        if want is None:
            return None
        return IndexRow(segment.seq, f"{segment.seq}.faiss", want[0], 1, 1, "", {"version": META_VERSION})


def test_five_tenths_copy_the_large_part_twice() -> None:
    paper = Paper(settings())
    paper.write(1_000_000)
    for _ in range(5):
        paper.write(100_000)
    assert paper.largest_merges == 2
    assert paper.copied <= 3_100_000, "about six rows written for each that came in"


@pytest.mark.parametrize("kind", ["ivf", "flat"])
def test_a_trickle_copies_the_large_part_for_every_tenth_only(kind: str) -> None:
    """Whatever the kind: without an index too the large part was copied for every few rows."""
    paper = Paper(settings(kind))
    paper.write(1_000_000)
    for _ in range(3000):
        paper.write(100)
    assert paper.largest_merges <= 3
    assert paper.copied <= 25 * 300_000
    assert len(paper.segments) <= 14
