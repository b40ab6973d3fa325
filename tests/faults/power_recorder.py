"""Keeps the record of what a process does to a folder; `power_hooks` calls it.

What it does not see would make the record a lie: so `verify` holds the record against the folder, byte for byte.
"""

import os
import stat
import threading
from pathlib import Path
from typing import Any

from tests.faults.disk import (
    ROOT,
    Event,
    NameChange,
    Named,
    Record,
    Renamed,
    Resized,
    Synced,
    Unnamed,
    Wrote,
    apply,
    rename,
)

SHM_SUFFIX = "-shm"
REAL: dict[str, Any] = {name: getattr(os, name) for name in ("open", "close", "pread")}
"""What the recorder itself uses must not be recorded."""


class Unrecordable(AssertionError):
    """The folder was changed in a way that the record does not hold."""


class Recorder:
    """Of one folder at a time, from `begin` to `end`; nothing else is seen.

    One lock is held over each call and its record, so that the order of the record is the order of the calls.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.record = Record()
        self.root: str | None = None
        self._ledger: Path | None = None
        self._next = ROOT + 1
        self._folders: dict[int, dict[str, int]] = {ROOT: {}}
        self._contents: dict[int, bytearray] = {}
        self._by_stat: dict[tuple[int, int], int] = {}
        """(device, inode) of the system → ours. An entry leaves with the name: the system gives numbers again."""

    def begin(self, root: Path, ledger: Path | None = None) -> int:
        """What is below `root` counts as synced. Nothing there may be open. Returns the number of events that says so.

        ledger: the outside ledger, whose length is noted with every event.
        """
        self.record, self._ledger, self.root = Record(), ledger, os.path.realpath(root)
        self._folders, self._contents, self._by_stat = {ROOT: {}}, {}, {}
        self._next = ROOT + 1
        self._learn(ROOT, self.root)
        for folder, folders, files in os.walk(self.root):
            for name in sorted([*folders, *files]):
                if not name.endswith(SHM_SUFFIX):
                    self.appeared(os.path.normpath(os.path.join(os.path.relpath(folder, self.root), name)))
        for inode in [*self._folders, *self._contents]:
            self.synced(inode)
        return len(self.record.events)

    def end(self) -> Record:
        """Once nothing below the folder is open."""
        self.root = None
        self._by_stat = {}
        return self.record

    # ---------------------------------------------------------------- where things are

    def below(self, path: Any, dir_fd: int | None = None) -> str | None:
        """The path relative to the root ("." for itself), or None for what lies elsewhere."""
        if isinstance(path, int) or self.root is None:
            return None
        text = os.fsdecode(path)
        if dir_fd is not None:
            text = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), text)
        text = os.path.abspath(text)
        if text != self.root and not text.startswith(self.root + os.sep):
            return None
        return os.path.relpath(text, self.root)

    def find(self, relative: str) -> int | None:
        inode: int | None = ROOT
        for part in () if relative == "." else relative.split(os.sep):
            inode = self._folders.get(inode, {}).get(part) if inode is not None else None
        return inode

    def of_fd(self, fd: int) -> int | None:
        if not self._by_stat:
            return None
        status = os.fstat(fd)
        return self._by_stat.get((status.st_dev, status.st_ino))

    def size(self, inode: int) -> int:
        return len(self._contents[inode])

    def absolute(self, relative: str) -> str:
        assert self.root is not None
        return os.path.join(self.root, relative)

    def _learn(self, inode: int, path: str) -> None:
        status = os.stat(path)
        self._by_stat[status.st_dev, status.st_ino] = inode

    def _parent(self, relative: str) -> tuple[int, str]:
        head, name = os.path.split(relative)
        folder = self.find(head or ".")
        if folder is None:
            raise Unrecordable(f"{relative}: its folder was made unseen")
        return folder, name

    # ---------------------------------------------------------------- what happened

    def add(self, event: Event) -> None:
        """Also lays it over what the folder should hold now, which `verify` compares."""
        if isinstance(event, Wrote | Resized):
            apply(self._contents[event.inode], event)
        elif isinstance(event, NameChange):
            rename(self._folders[event.folder], event)
        self.record.add(event, os.stat(self._ledger).st_size if self._ledger is not None else 0)

    def appeared(self, relative: str) -> int:
        """A name is there that was not: a file or a folder, whatever made it. Its content is taken as one write."""
        folder, name = self._parent(relative)
        path = self.absolute(relative)
        inode, self._next = self._next, self._next + 1
        is_folder = stat.S_ISDIR(os.lstat(path).st_mode)
        if is_folder:
            self._folders[inode] = {}
        else:
            self._contents[inode] = bytearray()
        self._learn(inode, path)
        self.add(Named(folder, name, inode, is_folder))
        if not is_folder and os.stat(path).st_size:
            self.add(Wrote(inode, 0, _bytes(path)))
        return inode

    def known(self, relative: str) -> int | None:
        """As find; takes what a library made. None: there is no such thing."""
        found = self.find(relative)
        if found is None and not relative.endswith(SHM_SUFFIX) and os.path.exists(self.absolute(relative)):
            return self.appeared(relative)
        return found

    def wrote(self, inode: int, at: int, data: Any) -> None:
        self.add(Wrote(inode, at, bytes(data)))

    def resized(self, inode: int, size: int) -> None:
        if size != self.size(inode):
            self.add(Resized(inode, size))

    def synced(self, inode: int) -> None:
        self.add(Synced(inode))

    def removed(self, relative: str) -> None:
        inode = self.find(relative)
        if inode is not None:
            folder, name = self._parent(relative)
            self._forget(inode)
            self.add(Unnamed(folder, name, inode))

    def renamed(self, old: str, new: str) -> None:
        inode = self.find(old)
        (folder, old_name), (target, new_name) = self._parent(old), self._parent(new)
        if inode is None or folder != target:
            raise Unrecordable(f"{old} → {new}: between two folders, or unseen before")
        self._forget(self.find(new))
        self.add(Renamed(folder, old_name, new_name, inode))

    def _forget(self, inode: int | None) -> None:
        self._by_stat = {key: there for key, there in self._by_stat.items() if there != inode}

    # ---------------------------------------------------------------- the proof

    def compare(self, relative: str) -> None:
        """Raises Unrecordable unless that file holds what the record says. Folders are left to `verify`."""
        inode = self.find(relative)
        if inode in self._folders:
            return
        if inode is None or _bytes(self.absolute(relative)) != self._contents[inode]:
            raise Unrecordable(f"{relative} is not what was recorded of it")

    def verify(self) -> int:
        """Holds the whole folder against the record, once no database is open. Returns the number of files."""
        compared = 0
        assert self.root is not None
        for folder, _, names in os.walk(self.root):
            here = os.path.relpath(folder, self.root)
            inode = self.find(here)
            seen = {*os.listdir(folder)} - {name for name in names if name.endswith(SHM_SUFFIX)}
            if inode is None or seen != self._folders[inode].keys():
                raise Unrecordable(f"{here} holds {sorted(seen)}, recorded {sorted(self._folders.get(inode or 0, {}))}")
            for name in seen & set(names):
                self.compare(os.path.normpath(os.path.join(here, name)))
                compared += 1
        return compared


def _bytes(path: str) -> bytes:
    fd = REAL["open"](path, os.O_RDONLY)
    try:
        data: bytes = REAL["pread"](fd, os.fstat(fd).st_size, 0)
        return data
    finally:
        REAL["close"](fd)
