"""What a disk may hold after the power went: a record of what was done to a folder, and images of it.

A record is a list of events on numbered files and folders (their numbers outlive their names, as inodes do). At any
point of it everything synced before is on the disk; of the rest *any* part may be, which is stricter than what ext4 or
XFS do to us:

- a written sector has any of the contents that the page cache held for it since the last sync of its file, each
  sector for itself: so writes are lost, torn and reordered freely;
- a file has grown or not, and where it has without its data there are zeros, or what lay on the disk before;
- a name made, renamed or removed since the last sync of its *folder* is there or not, each change for itself. A sync
  of a file says nothing about its name.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

ROOT = 0
SECTOR_BYTES = 512
PAGE_BYTES = 4096


class Wrote(NamedTuple):
    inode: int
    at: int
    data: bytes


class Resized(NamedTuple):
    """Cut off, or lengthened by zeros."""

    inode: int
    size: int


class Synced(NamedTuple):
    """fsync or fdatasync of a file or a folder: all that was done to it before is on the disk."""

    inode: int


class Named(NamedTuple):
    """A name appears in a folder, for a new file (or folder) or over an old one."""

    folder: int
    name: str
    inode: int
    is_folder: bool


class Unnamed(NamedTuple):
    folder: int
    name: str
    inode: int


class Renamed(NamedTuple):
    """Within one folder: one step, wholly on the disk or not at all."""

    folder: int
    old: str
    new: str
    inode: int


NameChange = Named | Unnamed | Renamed
Event = Wrote | Resized | Synced | NameChange


@dataclass(slots=True)
class Record:
    """events[i] was done when the ledger was ledger_bytes[i] long: a crash before it has to keep that much."""

    events: list[Event] = field(default_factory=list)
    ledger_bytes: list[int] = field(default_factory=list)

    def add(self, event: Event, ledger_bytes: int) -> None:
        self.events.append(event)
        self.ledger_bytes.append(ledger_bytes)


@dataclass(slots=True)
class File:
    """synced: what is surely on the disk; since: what was done to it after that, in order."""

    synced: bytearray = field(default_factory=bytearray)
    since: list[Wrote | Resized] = field(default_factory=list)

    def settle(self) -> None:
        for change in self.since:
            apply(self.synced, change)
        self.since.clear()


@dataclass(slots=True)
class Folder:
    synced: dict[str, int] = field(default_factory=dict)
    since: list[NameChange] = field(default_factory=list)

    def settle(self) -> None:
        for change in self.since:
            rename(self.synced, change)
        self.since.clear()


def apply(content: bytearray, change: Wrote | Resized) -> None:
    if isinstance(change, Resized):
        resize(content, change.size)
        return
    end = change.at + len(change.data)
    if len(content) < end:
        resize(content, end)
    content[change.at : end] = change.data


def resize(content: bytearray, size: int) -> None:
    if size < len(content):
        del content[size:]
    else:
        content.extend(bytes(size - len(content)))


def rename(entries: dict[str, int], change: NameChange) -> None:
    """Takes a change as it finds the folder: the change before it may have been lost."""
    if isinstance(change, Named):
        entries[change.name] = change.inode
        return
    gone = change.old if isinstance(change, Renamed) else change.name
    if entries.get(gone) == change.inode:
        del entries[gone]
    if isinstance(change, Renamed):
        entries[change.new] = change.inode


class Disk:
    """A folder at some point of its record: what is synced, and what is not yet. Moves forward only."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self.point = 0
        self.files: dict[int, File] = {}
        self.folders: dict[int, Folder] = {ROOT: Folder()}

    def advance(self, point: int) -> None:
        """To where the first `point` events have been done."""
        for event in self._record.events[self.point : point]:
            self._do(event)
        self.point = max(self.point, point)

    def _do(self, event: Event) -> None:
        if isinstance(event, Wrote | Resized):
            self.files[event.inode].since.append(event)
        elif isinstance(event, Synced):
            (self.files.get(event.inode) or self.folders[event.inode]).settle()
        else:
            self.folders[event.folder].since.append(event)
            if isinstance(event, Named) and event.is_folder:
                self.folders.setdefault(event.inode, Folder())
            elif isinstance(event, Named):
                self.files.setdefault(event.inode, File())

    def unsynced(self) -> list[int]:
        """Files and folders that would lose something now, were all of it lost."""
        things: Iterator[tuple[int, File | Folder]] = iter([*self.files.items(), *self.folders.items()])
        return sorted(inode for inode, thing in things if thing.since)


Loses = Callable[[int], float]
"""Of a file or folder: the share of its unsynced changes that is lost, 0 … 1."""


@dataclass(frozen=True, slots=True)
class Fate:
    """How the power goes, once: what of the unsynced is lost, and how it looks where it was.

    unit: bytes that reach the disk together; torn: share of the writes that do so only in part; grows: the size of a
    file that grew does so too; stale: blocks that were never written show what lay there before, not zeros;
    in_order: of a folder's changes the later are lost, as from a journal, not any.
    """

    loses: Loses
    unit: int = SECTOR_BYTES
    torn: float = 0.0
    grows: bool = True
    stale: bool = False
    in_order: bool = False


def everything(_: int) -> float:
    return 1.0


def nothing(_: int) -> float:
    return 0.0


class Image:
    """One state in which the disk may be found. Writes itself below a folder."""

    def __init__(self, disk: Disk, fate: Fate, rng: random.Random) -> None:
        self._disk = disk
        self._fate = fate
        self._rng = rng

    def write(self, target: Path) -> None:
        """target: an empty folder."""
        self._folder(ROOT, target)

    def _folder(self, inode: int, target: Path) -> None:
        for name, there in sorted(self._names(inode).items()):
            if there in self._disk.folders:
                (target / name).mkdir()
                self._folder(there, target / name)
            else:
                (target / name).write_bytes(self._content(there))

    def _names(self, inode: int) -> dict[str, int]:
        folder, loses = self._disk.folders[inode], self._fate.loses(inode)
        entries = dict(folder.synced)
        kept = [change for change in folder.since if self._rng.random() >= loses]
        if self._fate.in_order:
            kept = folder.since[: len(kept)]
        for change in kept:
            rename(entries, change)
        return entries

    def _content(self, inode: int) -> bytes:
        file = self._disk.files[inode]
        if not file.since:
            return bytes(file.synced)
        loses = self._fate.loses(inode)
        cache, disk = bytearray(file.synced), bytearray(file.synced)
        size = len(disk)
        for change in file.since:
            before = len(cache)
            apply(cache, change)
            kept = self._rng.random() >= loses
            if isinstance(change, Wrote):
                _fill(disk, len(cache), self._stale(len(cache) - len(disk), inode))
                self._copy(cache, disk, change, kept)
            elif kept:
                size = min(size, change.size)
                del disk[change.size :]
            if len(cache) > before and (kept or self._fate.grows):
                size = max(size, len(cache))
        _fill(disk, size, self._stale(size - len(disk), inode))
        return bytes(disk[:size])

    def _copy(self, cache: bytearray, disk: bytearray, change: Wrote, kept: bool) -> None:
        """The sectors of this write that reach the disk do so as the page cache has them after it."""
        unit = self._fate.unit
        first, last = change.at // unit, -(-(change.at + len(change.data)) // unit)
        sectors: Sequence[int]
        torn = last - first > 1 and self._rng.random() < self._fate.torn
        if torn and self._rng.random() < 0.5:
            sectors = range(first, self._rng.randrange(first, last + 1))
        elif torn:
            sectors = [sector for sector in range(first, last) if self._rng.random() < 0.5]
        else:
            sectors = range(first, last if kept else first)
        for sector in sectors:
            # Where cutting the file off was lost, the disk still holds more than the cache does.
            begin, end = sector * unit, min((sector + 1) * unit, len(cache))
            disk[begin:end] = cache[begin:end]

    def _stale(self, n: int, inode: int) -> bytes:
        """What lies in blocks that were given to a file but not written."""
        if n <= 0 or not self._fate.stale:
            return b""
        # An older self is the worst that can lie there: an old log's frames look like the new one's.
        old = bytes(self._disk.files[inode].synced) or self._rng.randbytes(PAGE_BYTES)
        return (old * (n // len(old) + 1))[:n]


def _fill(disk: bytearray, size: int, filler: bytes) -> None:
    """Lengthens to `size`, never cuts."""
    missing = size - len(disk)
    if missing > 0:
        disk.extend(filler[:missing].ljust(missing, b"\0"))
