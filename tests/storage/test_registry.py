"""Rule 3, names: folder before row when creating; mark, row, folder when dropping; and races of both."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from app.engine.recovery import recover
from storage import catalogue, errors
from storage.catalogue import Settings
from storage.check import check
from storage.failpoints import armed, watched
from storage.layout import COLLECTIONS_NAME, WRITE_LOCK_NAME
from storage.registry import NameTaken, Registry, mark_dropped
from storage.turns import Turns
from storage.writes import Batch, Turn

SETTINGS = Settings(2, "l2", "float32", "int", 0.9, {"kind": "flat", "params": {}}, "2026-01-01T00:00:00Z")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    made = Registry(tmp_path, create=True)
    yield made
    made.close()


def folders(registry: Registry) -> list[str]:
    return sorted(p.name for p in (registry.data / COLLECTIONS_NAME).iterdir())


def names(registry: Registry) -> dict[str, str]:
    return {r.name: r.uuid for r in registry.read()}


class Writer:
    """A writing thread's own connection, opened while the collection was there."""

    def __init__(self, folder: Path) -> None:
        self.db = catalogue.connect(folder)
        self.turns = Turns(folder / WRITE_LOCK_NAME)

    def add(self, id_: int) -> None:
        with self.turns.turn(), self.db.writing():
            turn = Turn(self.db, 1000, 10**9)
            turn.add(Batch(np.ones((1, 2), np.float32), [id_], None))
            turn.finish()

    def count(self) -> int:
        row = self.db.one("SELECT count(*) FROM items")
        assert row is not None
        return int(row[0])

    def close(self) -> None:
        self.db.close()
        self.turns.close()


def test_created_and_found_by_all_who_look(registry: Registry) -> None:
    other = Registry(registry.data)
    version = other.data_version()
    uuid = registry.create("a", SETTINGS)
    assert other.data_version() != version and names(other) == {"a": uuid} and folders(registry) == [uuid]
    other.close()
    assert check(registry.data).findings == []


def test_a_name_is_taken_once_and_the_loser_leaves_no_folder(registry: Registry) -> None:
    threads, won, lost = 4, [], []
    barrier = threading.Barrier(threads)

    def create() -> None:
        mine = Registry(registry.data)
        barrier.wait()
        try:
            won.append(mine.create("a", SETTINGS))
        except NameTaken:
            lost.append(1)
        finally:
            mine.close()

    running = [threading.Thread(target=create) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert len(won) == 1 and len(lost) == threads - 1
    assert names(registry) == {"a": won[0]} and folders(registry) == won


def test_a_writer_that_has_the_catalogue_open_stops_at_the_mark(registry: Registry) -> None:
    uuid = registry.create("a", SETTINGS)
    writer = Writer(registry.folder(uuid))
    writer.add(1)
    mark_dropped(registry.folder(uuid))  # as far as this the folder is still there, and so is the name
    with pytest.raises(errors.Dropped):
        writer.add(2)
    assert writer.count() == 1
    registry.drop("a", uuid)
    with pytest.raises(errors.Dropped):
        writer.add(3)
    writer.close()
    assert names(registry) == {} and folders(registry) == []


@pytest.mark.parametrize("action", ["eio", "enospc"])
def test_a_drop_that_is_refused_has_done_nothing(registry: Registry, action: str) -> None:
    uuid = registry.create("a", SETTINGS)
    writer = Writer(registry.folder(uuid))
    with armed(f"registry.drop.marked:{action}"), pytest.raises(OSError, match="failpoint"):
        registry.drop("a", uuid)
    writer.add(1)
    assert writer.count() == 1 and names(registry) == {"a": uuid}
    mark_dropped(registry.folder(uuid))  # by another, which died: that mark is not ours to take back
    with armed(f"registry.drop.marked:{action}"), pytest.raises(OSError, match="failpoint"):
        registry.drop("a", uuid)
    with pytest.raises(errors.Dropped):
        writer.add(2)
    writer.close()


def test_a_collection_is_shut_where_the_registry_cannot_be_told(registry: Registry) -> None:
    uuid = registry.create("a", SETTINGS)
    registry.shut(uuid)
    assert "too full" in str(registry.read()[0].reason)
    registry.set_reason(uuid, "damaged")
    assert registry.read()[0].reason == "damaged"
    registry.set_reason(uuid, None)
    assert registry.read()[0].reason is None


def test_the_same_name_again_is_another_folder(registry: Registry) -> None:
    old = registry.create("a", SETTINGS)
    writer = Writer(registry.folder(old))
    registry.drop("a", old)
    new = registry.create("a", SETTINGS)
    assert new != old and folders(registry) == [new]
    with pytest.raises(errors.Dropped):
        writer.add(1)
    writer.close()
    there = Writer(registry.folder(new))
    assert there.count() == 0
    there.close()


def test_dropped_twice_is_said_to_the_second(registry: Registry) -> None:
    uuid = registry.create("a", SETTINGS)
    registry.drop("a", uuid)
    with pytest.raises(errors.Dropped):
        registry.drop("a", uuid)
    new = registry.create("a", SETTINGS)
    with pytest.raises(errors.Dropped):
        registry.drop("a", uuid)
    assert names(registry) == {"a": new}, "who meant the old one does not take the new one away"


class Died(BaseException):
    """Nothing of ours comes after it."""


def die_at(point: str, act: Callable[[], object]) -> None:
    def see(name: str, _: object) -> None:
        if name == point:
            raise Died

    with watched(see), pytest.raises(Died):
        act()


@pytest.mark.parametrize("point", ["registry.drop.marked", "registry.drop.unregistered"])
def test_a_drop_that_stopped_half_way_can_be_done_again(registry: Registry, point: str) -> None:
    """The process that dropped it died, the server lives on: the name must not be stuck for ever."""
    uuid = registry.create("a", SETTINGS)
    die_at(point, lambda: registry.drop("a", uuid))
    if names(registry):
        registry.drop("a", uuid)
    registry.create("a", SETTINGS)
    assert len(names(registry)) == 1


@pytest.mark.parametrize("point", ["registry.drop.marked", "registry.drop.unregistered"])
def test_the_next_start_ends_what_a_drop_began(registry: Registry, point: str) -> None:
    uuid, kept = registry.create("a", SETTINGS), registry.create("b", SETTINGS)
    die_at(point, lambda: registry.drop("a", uuid))
    recover(registry.data)
    assert names(registry) == {"b": kept} and folders(registry) == [kept]
    assert check(registry.data).findings == []


def test_a_folder_without_a_row_is_swept(registry: Registry) -> None:
    """A creation that was killed between folder and row."""
    kept = registry.create("a", SETTINGS)
    catalogue.create(registry.folder("0" * 32), SETTINGS, "a")
    (registry.folder("1" * 32)).mkdir()
    recover(registry.data)
    assert folders(registry) == [kept] and registry.read()[0].reason is None


@pytest.mark.parametrize(
    ("point", "action", "kept"),
    [
        ("registry.create.folder", "enospc", 0),
        ("database.commit", "enospc", 0),
        ("database.commit:eio", "2", 0),
        ("database.commit:eio:2,database.settle", "eio", 1),
    ],
)
def test_a_creation_that_fails(registry: Registry, point: str, action: str, kept: int) -> None:
    """No folder is left, but where the registry may come to name it. (Its commit is the second.)"""
    with armed(f"{point}:{action}"), pytest.raises((OSError, errors.StorageError)):
        registry.create("a", SETTINGS)
    assert names(registry) == {} and len(folders(registry)) == kept
    recover(registry.data)
    assert folders(registry) == []
    registry.create("a", SETTINGS)


def test_a_damaged_collection_can_be_dropped(registry: Registry) -> None:
    uuid = registry.create("a", SETTINGS)
    (registry.folder(uuid) / "catalog.db").write_bytes(b"x" * 5000)
    registry.drop("a", uuid)
    assert names(registry) == {} and folders(registry) == []
