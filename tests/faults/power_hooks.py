"""Makes a process tell the recorder what it does to the folder: every write, resize, sync, name made and removed.

Three ways in, each at the boundary to the system, so that the product runs as it is:

- SQLite: an apsw.VFS with the real one below it. Its log, its checkpoints and its own folder syncs are seen as they
  happen (a folder sync by the system call that only it makes, `openDirectory`). The -shm file is shared memory and no
  part of the record: a restart makes it anew.
- our own files: what `os` and `open` offer is wrapped.
- libraries that write by themselves (HDF5 lays out an empty file): a file of which there is no record is taken when
  it is first touched, as one write that nothing has synced.

What could write past all this (a shared writable mapping, sendfile) is refused loudly. In the process's own words and
not as a preloaded library or a tracer: whoever runs the tests has Python, but maybe no compiler.
"""

import builtins
import ctypes
import io
import mmap
import os
from collections.abc import Callable
from typing import Any

import apsw

from tests.faults.power_recorder import Recorder, Unrecordable

VFS_NAME = "seedvec-recorder"
BASE_VFS = "unix"
REFUSED = ("writev", "pwritev", "sendfile", "copy_file_range", "splice", "link", "symlink")
_OpenDirectory = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
SQLITE_OK = 0


class Hooks:
    """Install once a process, before it opens its first database. They stay; between two records they see nothing."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._open_file = builtins.open

    def install(self) -> None:
        for name in ("open", "write", "pwrite", "truncate", "posix_fallocate", "fsync", "rename", "mkdir"):
            setattr(os, name, getattr(self, f"_{name}")(getattr(os, name)))
        os.fdatasync, os.ftruncate = os.fsync, os.truncate
        os.unlink, os.rmdir = self._remove(os.unlink), self._remove(os.rmdir)
        os.remove, os.replace = os.unlink, os.rename
        for name in REFUSED:
            setattr(os, name, self._refused(name, getattr(os, name)))
        builtins.open = io.open = self._opened
        mmap.mmap = _mappings(self._recorder)  # type: ignore[misc]
        self.vfs = RecordingVFS(self._recorder)

    # ---------------------------------------------------------------- descriptors

    def _open(self, real: Callable[..., int]) -> Callable[..., int]:
        r = self._recorder

        def open_(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            relative = r.below(path, dir_fd)
            if relative is None:
                return real(path, flags, mode, dir_fd=dir_fd)
            with r.lock:
                fd = real(path, flags, mode, dir_fd=dir_fd)
                inode = r.known(relative)
                if inode is not None and flags & os.O_TRUNC and flags & (os.O_WRONLY | os.O_RDWR):
                    r.resized(inode, 0)
                return fd

        return open_

    def _write(self, real: Callable[..., int]) -> Callable[..., int]:
        r = self._recorder

        def write(fd: int, data: Any) -> int:
            with r.lock:
                n = real(fd, data)
                inode = r.of_fd(fd)
                if inode is not None:
                    r.wrote(inode, os.lseek(fd, 0, os.SEEK_CUR) - n, memoryview(data).cast("B")[:n])
                return n

        return write

    def _pwrite(self, real: Callable[..., int]) -> Callable[..., int]:
        r = self._recorder

        def pwrite(fd: int, data: Any, offset: int) -> int:
            with r.lock:
                n = real(fd, data, offset)
                inode = r.of_fd(fd)
                if inode is not None:
                    r.wrote(inode, offset, memoryview(data).cast("B")[:n])
                return n

        return pwrite

    def _truncate(self, real: Callable[[Any, int], None]) -> Callable[[Any, int], None]:
        r = self._recorder

        def truncate(path: Any, length: int) -> None:
            with r.lock:
                real(path, length)
                if isinstance(path, int):
                    inode = r.of_fd(path)
                else:
                    relative = r.below(path)
                    inode = None if relative is None else r.known(relative)
                if inode is not None:
                    r.resized(inode, length)

        return truncate

    def _posix_fallocate(self, real: Callable[..., None]) -> Callable[..., None]:
        r = self._recorder

        def posix_fallocate(fd: int, offset: int, length: int) -> None:
            with r.lock:
                real(fd, offset, length)
                inode = r.of_fd(fd)
                if inode is not None:
                    r.resized(inode, max(r.size(inode), offset + length))

        return posix_fallocate

    def _fsync(self, real: Callable[[Any], None]) -> Callable[[Any], None]:
        r = self._recorder

        def fsync(fd: Any) -> None:
            with r.lock:
                real(fd)
                inode = r.of_fd(fd if isinstance(fd, int) else fd.fileno())
                if inode is not None:
                    r.synced(inode)

        return fsync

    def _refused(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        r = self._recorder

        def refuse(first: Any, *rest: Any, **named: Any) -> Any:
            to = rest[0] if rest and name in ("copy_file_range", "splice", "link", "symlink") else first
            if (r.of_fd(to) if isinstance(to, int) else r.below(to)) is not None:
                raise Unrecordable(f"os.{name} on {to}")
            return real(first, *rest, **named)

        return refuse

    # ---------------------------------------------------------------- names

    def _rename(self, real: Callable[..., None]) -> Callable[..., None]:
        r = self._recorder

        def rename(old: Any, new: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
            source, target = r.below(old, src_dir_fd), r.below(new, dst_dir_fd)
            with r.lock:
                if source is not None:
                    r.known(source)
                real(old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
                if source is not None and target is not None:
                    r.renamed(source, target)
                elif source is not target:
                    raise Unrecordable(f"{old} → {new}: in or out of the folder")

        return rename

    def _remove(self, real: Callable[..., None]) -> Callable[..., None]:
        r = self._recorder

        def remove(path: Any, *, dir_fd: int | None = None) -> None:
            relative = r.below(path, dir_fd)
            with r.lock:
                if relative is not None and r.known(relative) is not None and not _is_databases(relative):
                    r.compare(relative)  # the last time that it can be
                real(path, dir_fd=dir_fd)
                if relative is not None:
                    r.removed(relative)

        return remove

    def _mkdir(self, real: Callable[..., None]) -> Callable[..., None]:
        r = self._recorder

        def mkdir(path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
            relative = r.below(path, dir_fd)
            with r.lock:
                real(path, mode, dir_fd=dir_fd)
                if relative is not None:
                    r.appeared(relative)

        return mkdir

    # ---------------------------------------------------------------- file objects

    def _opened(self, file: Any, mode: str = "r", buffering: int = -1, *text: Any, **named: Any) -> Any:
        writes = any(letter in mode for letter in "wax+")
        if not writes or self._recorder.below(file) is None:
            return self._open_file(file, mode, buffering, *text, **named)
        if "b" not in mode or "+" in mode or buffering == 0:
            raise Unrecordable(f"open({file!r}, {mode!r})")
        return io.BufferedWriter(RecordedFile(self._recorder, os.fsdecode(file), mode))


def _is_databases(relative: str) -> bool:
    """Closing a descriptor of a database that this process has open would take SQLite's own locks away."""
    return ".db" in os.path.basename(relative)


class RecordedFile(io.FileIO):
    """Below the buffer of a file object: its writes go past `os`."""

    def __init__(self, recorder: Recorder, path: str, mode: str) -> None:
        self._recorder = recorder
        relative = recorder.below(path)
        assert relative is not None
        with recorder.lock:
            super().__init__(path, mode)
            inode = recorder.known(relative)
            assert inode is not None
            self._inode = inode
            if "w" in mode:
                recorder.resized(inode, 0)

    def write(self, data: Any, /) -> int:
        with self._recorder.lock:
            n = super().write(data)
            self._recorder.wrote(self._inode, self.tell() - n, memoryview(data).cast("B")[:n])
            return n

    def truncate(self, size: int | None = None, /) -> int:
        with self._recorder.lock:
            n = super().truncate(size)
            self._recorder.resized(self._inode, n)
            return n


def _mappings(recorder: Recorder) -> type[mmap.mmap]:
    class Mapping(mmap.mmap):
        """Private and read-only mappings are no writes; a shared writable one would be unseen."""

        def __new__(cls, fileno: int, length: int, *rest: Any, **named: Any) -> "Mapping":
            harmless = named.get("flags") == mmap.MAP_PRIVATE or named.get("prot") == mmap.PROT_READ
            if not harmless and named.get("access") != mmap.ACCESS_READ and fileno != -1 and recorder.of_fd(fileno):
                raise Unrecordable("a shared, writable mapping")
            return super().__new__(cls, fileno, length, *rest, **named)

    return Mapping


# ---------------------------------------------------------------- SQLite


class RecordingVFS(apsw.VFS):
    """SQLite's own, watched. The default from now on."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        super().__init__(VFS_NAME, BASE_VFS, makedefault=True)
        real = self.xGetSystemCall("openDirectory")
        assert real
        self._real_open_directory = _OpenDirectory(real)
        self._callback = _OpenDirectory(self._open_directory)
        address = ctypes.cast(self._callback, ctypes.c_void_p).value
        assert address and self.xSetSystemCall("openDirectory", address)

    def xOpen(self, name: Any, flags: list[int]) -> "apsw.VFSFile":  # noqa: N802
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if path is None or self._recorder.below(path) is None:
            return apsw.VFSFile(BASE_VFS, name, flags)
        return WatchedFile(self._recorder, path, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        relative = self._recorder.below(filename)
        with self._recorder.lock:
            # Its folder's sync, where there is one, comes within this call, after the name went.
            if relative is not None:
                self._recorder.removed(relative)
            super().xDelete(filename, syncdir)

    def _open_directory(self, file: bytes, fd: Any) -> int:
        """SQLite opens a folder only to sync it, at once. file: one in that folder."""
        code = int(self._real_open_directory(file, fd))
        folder = self._recorder.below(os.path.dirname(file))
        if folder is not None and code == SQLITE_OK:
            inode = self._recorder.find(folder)
            if inode is not None:
                self._recorder.synced(inode)
        return code


class WatchedFile(apsw.VFSFile):
    def __init__(self, recorder: Recorder, path: str, name: Any, flags: list[int]) -> None:
        self._recorder = recorder
        relative = recorder.below(path)
        assert relative is not None
        with recorder.lock:
            super().__init__(BASE_VFS, name, flags)
            inode = recorder.known(relative)
        assert inode is not None
        self._inode = inode

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802
        with self._recorder.lock:
            super().xWrite(data, offset)
            self._recorder.wrote(self._inode, offset, data)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        with self._recorder.lock:
            super().xTruncate(newsize)
            self._recorder.resized(self._inode, newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        with self._recorder.lock:
            # Recorded first: its folder's sync, where there is one, comes within this call, after its own.
            self._recorder.synced(self._inode)
            super().xSync(flags)

    def xFileControl(self, op: int, ptr: int) -> bool:  # noqa: N802
        with self._recorder.lock:
            known = super().xFileControl(op, ptr)
            if op == apsw.SQLITE_FCNTL_SIZE_HINT:
                # Where the database is mapped, a checkpoint makes it as long as it will be before it writes.
                self._recorder.resized(self._inode, self.xFileSize())
            return known
