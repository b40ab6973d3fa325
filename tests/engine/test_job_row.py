"""The row of the job: a failure that no longer matters is forgotten, one that does is told."""

from pathlib import Path

from app.engine.recovery import recover
from storage import catalogue
from storage.failpoints import armed
from tests.engine.rig import Rig

ROWS = 300


def test_a_failure_ends_with_what_failed(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "data", index="hnsw", index_min_rows=256)
    try:
        rig.upsert_directly(list(range(ROWS)))
        with armed("index.fsync:eio"):
            rig.merge()
        failed = catalogue.read_job(rig.db)
        assert failed is not None and failed.kind == "build" and failed.reason is not None

        rig.merge()
        assert catalogue.read_job(rig.db) == failed, "it stays, as long as the index is wanted"

        rig.delete_all()
        rig.merge()
        assert catalogue.read_job(rig.db) is None
    finally:
        rig.close()


def test_a_start_tries_again(tmp_path: Path) -> None:
    """Attempts that ended with the server, by a kill say, must not add up to a failure."""
    rig = Rig(tmp_path / "data", index="hnsw", index_min_rows=256)
    try:
        rig.upsert_directly(list(range(ROWS)))
        with armed("index.fsync:eio"):
            rig.merge()
        assert catalogue.read_job(rig.db) is not None
        recover(rig.data)
        assert catalogue.read_job(rig.db) is None
        rig.merge()
        assert [row.index is not None for row in rig.segments()] == [True]
    finally:
        rig.close()


def test_a_failure_keeps_nothing_else_from_being_built(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "data", index="hnsw", index_min_rows=256)
    try:
        rig.upsert_directly(list(range(10 * ROWS)))
        with armed("index.fsync:eio"):
            rig.merge()
        assert catalogue.read_job(rig.db) is not None
        rig.upsert_directly(list(range(10 * ROWS, 11 * ROWS)))
        with armed("segment.reserve:eio"):  # the two are not brought together either
            rig.merge()
        indexed = {row.rows: row.index is not None for row in rig.segments()}
        assert indexed[ROWS]
    finally:
        rig.close()
