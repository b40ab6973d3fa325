"""A filled data folder, its snapshots, and what can be read from either."""

import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from seedvec.folder import open as open_folder
from storage import snapshots
from storage.failpoints import watched
from storage.manifest import Manifest
from storage.registry import Registry
from tests.storage.filling import Collection

Rows = dict[Any, tuple[bytes, bytes | None]]


def filled(data: Path, name: str = "words") -> Collection:
    """Two segments, an index, pending rows, deaths in each of them, metadata. To be closed before others read it."""
    made = Collection(data, name)
    made.upsert(list(range(100)), metadata=True)
    made.delete(list(range(10)))
    made.add_index(made.seal(), b"not Faiss, but what the catalogue says")
    made.upsert(list(range(50, 150)))
    made.seal()
    made.upsert(list(range(150, 190)), metadata=True)
    made.delete([120, 160])
    return made


def rows(data: Path, name: str = "words") -> Rows:
    """id → vector's bytes and metadata. Nobody else in this process may have the folder open."""
    found: Rows = {}
    for vectors, ids, metadata in open_folder(data)[name].batches(1000):
        for i, id_ in enumerate(ids):
            found[id_] = (vectors[i].tobytes(), metadata[i])
    return found


def take(data: Path, name: str, *collections: str) -> tuple[Path, Manifest]:
    """Of those collections, or of all."""
    with closing(Registry(data)) as registry:
        entries = [entry for entry in registry.read() if not collections or entry.name in collections]
        whole = snapshots.take(registry, name, entries)
        return snapshots.folder_of(registry, snapshots.find(registry, name)), whole


def names(data: Path) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Collections and their folders, aliases, snapshots."""
    with closing(Registry(data)) as registry:
        return (
            {entry.name: entry.uuid for entry in registry.read()},
            registry.aliases(),
            [row.name for row in registry.snapshots()],
        )


def left(data: Path) -> set[str]:
    """Folders below `c` and `snapshots` that no name leads to."""
    with closing(Registry(data)) as registry:
        named = {f"c/{entry.uuid}" for entry in registry.read()}
        named |= {f"snapshots/{row.folder}" for row in registry.snapshots()}
    there = {f"{path.parent.name}/{path.name}" for top in ("c", "snapshots") for path in (data / top).glob("*")}
    return there - named


def images(data: Path, into: Path, act: Callable[[], object], wanted: Callable[[str, int], bool]) -> list[Path]:
    """Runs `act`; what lay on the disk at the failpoints wanted (name, which hit): what a kill there leaves."""
    counts: Counter[str] = Counter()
    taken: list[Path] = []

    def see(point: str, halfwrite: Callable[[], object] | None) -> None:
        counts[point] += 1
        if not wanted(point, counts[point]):
            return
        for half in [False, True] if halfwrite is not None else [False]:
            if half:
                assert halfwrite is not None
                halfwrite()
            taken.append(into / f"{len(taken):03d}-{point}-{counts[point]}{'-half' if half else ''}")
            shutil.copytree(data, taken[-1])

    with watched(see):
        act()
    return taken
