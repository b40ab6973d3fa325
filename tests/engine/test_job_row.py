"""The row of the job: a failure that no longer matters is forgotten, one that does is told."""

from pathlib import Path

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
