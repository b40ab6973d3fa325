"""What can happen to a file, and to which: one line a kind, so that a new kind of file is one line more."""

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

VICTIMS = {"numbers": "twin", "words": "numbers"}
"""The collections whose files are damaged, and whose files are put in their place."""

Promise = Literal["whole", "closed", "refused"]
"""What may come of it at worst. whole: nothing is to be noticed but work; closed: the victim alone is closed; refused:
the server says why it does not start."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A data folder, and where in it the collections are."""

    root: Path
    uuids: dict[str, str]

    def of(self, name: str) -> Path:
        return self.root / "c" / self.uuids[name]

    def at(self, root: Path) -> "Folder":
        return Folder(root, self.uuids)


@dataclass(frozen=True, slots=True)
class Kind:
    """pattern: of files in the collection's folder; root: in the data folder instead; derived: made anew by itself."""

    name: str
    pattern: str
    worst: Promise
    root: bool = False
    derived: bool = False

    def files(self, folder: Folder, name: str) -> list[Path]:
        base = folder.root if self.root else folder.of(name)
        return sorted(base.glob(self.pattern))


CATALOGUE = Kind("catalogue", "catalog.db", "closed")
KINDS = (
    Kind("segment", "segments/*.h5", "closed"),
    Kind("index", "segments/*.faiss", "whole", derived=True),
    Kind("columns", "segments/*.npz", "whole", derived=True),
    CATALOGUE,
    Kind("catalogue's log", "catalog.db-wal", "closed"),
    Kind("catalogue's shared memory", "catalog.db-shm", "whole"),
    Kind("write.lock", "write.lock", "whole"),
    Kind("registry", "registry.db", "refused", root=True),
    Kind("registry's log", "registry.db-wal", "refused", root=True),
    Kind("registry's shared memory", "registry.db-shm", "whole", root=True),
    Kind("LOCK", "LOCK", "refused", root=True),
    Kind("ballast", "ballast", "whole", root=True),
)


def flip(path: Path, other: Path, rng: random.Random) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        if not size:
            file.write(b"\1")
            return
        at = rng.randrange(size)
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1 << rng.randrange(8)]))


def zero(path: Path, other: Path, rng: random.Random) -> None:
    """Half of the time whole pages, whose checksums zeros pass."""
    size = path.stat().st_size
    begin = rng.randrange(size + 1)
    length = rng.choice([16, 512, 4096, 8192, size])
    if rng.random() < 0.5:
        begin, length = begin // 4096 * 4096, max(4096, length // 4096 * 4096)
    with path.open("r+b") as file:
        file.seek(begin)
        file.write(bytes(max(0, min(length, size - begin))))


def truncate(path: Path, other: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(path.stat().st_size + 1))


def empty(path: Path, other: Path, rng: random.Random) -> None:
    os.truncate(path, 0)


def remove(path: Path, other: Path, rng: random.Random) -> None:
    path.unlink()


def folder(path: Path, other: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()
    (path / "somebody's").write_text("file")


def foreign(path: Path, other: Path, rng: random.Random) -> None:
    content = other.read_bytes() if other.is_file() else rng.randbytes(5000)
    path.write_bytes(content)


def unreadable(path: Path, other: Path, rng: random.Random) -> None:
    """A link to itself: permissions do not stop root, whom tests often run as."""
    path.unlink()
    path.symlink_to(path.name)


Act = Callable[[Path, Path, random.Random], None]
ACTS: dict[str, Act] = {
    "flip": flip,
    "zero": zero,
    "truncate": truncate,
    "empty": empty,
    "remove": remove,
    "folder": folder,
    "foreign": foreign,
    "unreadable": unreadable,
}


@dataclass(frozen=True, slots=True)
class Case:
    """One damage, the same whenever it is done again."""

    kind: Kind
    act: str
    seed: int

    def __str__(self) -> str:
        return f"{self.kind.name}: {self.act}, seed {self.seed}"

    @property
    def victim(self) -> str:
        return list(VICTIMS)[self.seed % len(VICTIMS)]

    def strike(self, folder: Folder) -> Path:
        """Returns the file that was struck."""
        rng = random.Random(self.seed)
        path = rng.choice(self.kind.files(folder, self.victim))
        # In place of a file that there is once only: another kind's.
        strange = CATALOGUE if self.kind.root else self.kind
        ACTS[self.act](path, rng.choice(strange.files(folder, VICTIMS[self.victim])), rng)
        return path


def cases(kind: Kind, count: int, seed: int = 5) -> list[Case]:
    """Every act in turn, two in three of those that leave most of the file to be believed."""
    rng = random.Random(f"{seed}/{kind.name}")
    subtle, blunt = ("flip", "zero", "truncate"), ("empty", "remove", "folder", "foreign", "unreadable")
    acts = [blunt[i // 3 % len(blunt)] if i % 3 == 2 else subtle[i % 3 if i % 2 else 0] for i in range(count)]
    if count >= len(ACTS):
        acts[: len(ACTS)] = list(ACTS)
    else:
        acts = rng.sample(list(ACTS), count)
    return [Case(kind, act, rng.randrange(2**32)) for act in acts]


def copy(folder: Folder, to: Path) -> Folder:
    shutil.copytree(folder.root, to)
    return folder.at(to)
