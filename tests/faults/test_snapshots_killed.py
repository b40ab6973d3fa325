"""A kill at every failpoint of taking, receiving, deleting and restoring a snapshot, and of switching an alias: after
the next start it has happened, or it has not. And a disk that gives way at each of them."""

import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.engine.recovery import recover
from app.engine.restoring import judged
from storage import errors, snapshot_tar, snapshots
from storage.check import check
from storage.failpoints import armed, watched
from storage.registry import Registry
from tests.faults.table import Extent
from tests.storage.snapshotting import Rows, filled, images, left, names, rows, take

Act = Callable[[Path], object]
Seen = tuple[frozenset[str], dict[str, str], list[str], dict[str, Rows]]
OWN = ("snapshot.", "restore.", "alias.", "folder.")
"""What `quick` tries, each at its first hit; `whole` tries every failpoint that is come by, at every hit."""
AFTER = {"snapshot.unlink", "folder.unlink", "catalogue.remember", "file.unlink", "sweep.unlink", "sweep.fsync_dir"}
"""What fails here is made up for by the next start, and nobody is told."""


def seen(data: Path) -> Seen:
    """Names, and the rows of every collection."""
    collections, aliases, taken = names(data)
    return frozenset(collections), aliases, taken, {name: rows(data, name) for name in collections}


def restore(wanted: dict[str, str], replace: bool = False) -> Act:
    def act(data: Path) -> None:
        with closing(Registry(data)) as registry:
            folder = snapshots.folder_of(registry, snapshots.find(registry, "monday"))
            snapshots.restore(registry, judged(data, folder, wanted, trusted=True), replace)

    return act


def receive(data: Path) -> None:
    with closing(Registry(data)) as registry:
        folder = snapshots.folder_of(registry, snapshots.find(registry, "monday"))
        stage, whole = snapshot_tar.unpack(snapshot_tar.stream(folder), data)
        snapshots.keep(registry, "tuesday", stage, whole, uploaded=True)


def in_registry(act: Callable[[Registry], object]) -> Act:
    def run(data: Path) -> None:
        with closing(Registry(data)) as registry:
            act(registry)

    return run


@dataclass(frozen=True, slots=True)
class Deed:
    act: Act
    points: frozenset[str]
    """Some of the failpoints that it must come to."""


DEEDS = {
    "take": Deed(
        lambda data: take(data, "tuesday"),
        frozenset(
            f"snapshot.{point}"
            for point in (
                *("folder", "link", "backup", "backup_fsync", "fsync_dir", "manifest", "manifest_fsync"),
                *("rename", "renamed_fsync", "register"),
            )
        ),
    ),
    "receive": Deed(receive, frozenset({"snapshot.unpack", "snapshot.unpack_fsync", "snapshot.register"})),
    "delete": Deed(
        in_registry(lambda registry: snapshots.delete(registry, "monday")),
        frozenset({"snapshot.forget", "snapshot.unlink"}),
    ),
    "restore": Deed(
        restore({"again": "words"}),
        frozenset(
            f"restore.{point}" for point in ("copy", "copy_fsync", "own", "loosen", "place", "place_fsync", "switch")
        ),
    ),
    "replace": Deed(restore({"words": "words"}, replace=True), frozenset({"restore.switch", "folder.unlink"})),
    "point": Deed(in_registry(lambda registry: registry.point("alias", "words")), frozenset({"alias.point"})),
    "switch": Deed(in_registry(lambda registry: registry.point("led", "words")), frozenset({"alias.point"})),
    "remove": Deed(in_registry(lambda registry: registry.remove_alias("led")), frozenset({"alias.remove"})),
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two collections, an alias, a snapshot, and what was written since."""
    data = tmp_path_factory.mktemp("prepared") / "data"
    made, other = filled(data), filled(data, "other")
    take(data, "monday", "words")
    made.upsert([5000], metadata=True)
    made.delete([70])
    made.close()
    other.close()
    in_registry(lambda registry: registry.point("led", "other"))(data)
    return data


@pytest.mark.parametrize("name", DEEDS)
def test_killed_anywhere_it_has_happened_or_it_has_not(prepared: Path, base: Path, name: str, extent: Extent) -> None:
    def wanted(point: str, nth: int) -> bool:
        return extent == "whole" or (nth == 1 and point.startswith(OWN))

    deed = DEEDS[name]
    data = base / "data"
    shutil.copytree(prepared, data)
    before = seen(data)
    crashed = images(data, base / "images", lambda: deed.act(data), wanted)
    after = seen(data)
    assert after != before and left(data) == set()
    reached = {image.name.split("-", 1)[1].rsplit("-", 1)[0] for image in crashed}
    assert deed.points <= reached
    outcomes = Counter[bool]()
    for image in crashed:
        recover(image)
        found = seen(image)
        assert found in (before, after), f"neither nor: {image.name}"
        assert left(image) == set(), image.name
        report = check(image)
        assert report.findings == [], f"{image.name}: {report}"
        outcomes[found == after] += 1
        shutil.rmtree(image)
    assert outcomes[False], "no image was taken before it happened"


@pytest.mark.parametrize("name", DEEDS)
def test_a_disk_that_gives_way_anywhere(prepared: Path, base: Path, name: str, extent: Extent) -> None:
    """It is said, nothing is left of it, and it can be done again. Each failpoint once, the first time it is hit."""
    deed = DEEDS[name]
    data = base / "counted"
    shutil.copytree(prepared, data)
    before = seen(data)
    points: list[str] = []
    with watched(lambda point, _: points.append(point)):
        deed.act(data)
    after = seen(data)
    shutil.rmtree(data)
    for point in sorted(set(points) - AFTER):
        if point.startswith("database.") or (extent == "quick" and not point.startswith(OWN)):
            continue  # tests/storage/test_disk_errors.py
        data = base / point
        shutil.copytree(prepared, data)
        with armed(f"{point}:enospc:1"), pytest.raises((OSError, errors.StorageError)):
            deed.act(data)
        assert seen(data) == before, point
        assert left(data) == set(), point
        deed.act(data)
        assert seen(data) == after, point
        assert check(data).findings == [], point
        shutil.rmtree(data)
