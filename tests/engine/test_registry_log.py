"""registry.db's write-ahead log: only the sealer brings it home, and so it is used again instead of growing."""

from pathlib import Path

from app.engine.background import Watched
from storage.catalogue import Settings, now
from storage.layout import REGISTRY_NAME
from storage.registry import Registry

CHANGES = 300
TWO_PAGES = 8 << 10


def test_the_log_of_the_registry_stays_small(tmp_path: Path) -> None:
    registry = Registry(tmp_path, create=True)
    uuid = registry.create("c", Settings(4, "l2", "float32", "auto", 0.9, {"kind": "flat", "params": {}}, now()))
    watched = Watched(tmp_path)
    wal = tmp_path / (REGISTRY_NAME + "-wal")
    made = largest = wal.stat().st_size
    for change in range(CHANGES):
        registry.set_reason(uuid, str(change))
        assert list(watched.collections()) == []
        watched.checkpoint_registry()
        largest = max(largest, wal.stat().st_size)
    registry.close()
    assert largest < made + TWO_PAGES, "a change takes a page or more: unbounded, it would be a megabyte"
