"""A snapshot as one stream, a plain tar: the manifest first, then the files in its order, then the end.

Nothing in it depends on who makes it or when: the same snapshot gives the same bytes. What comes in is taken by the
manifest at its head: plain files of exactly those names, each once, of exactly those lengths and checksums. Links,
folders, paths of their own and whatever else a tar can hold are refused before anything is made of them.
"""

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import xxhash

from storage import manifest, snapshot_files
from storage.atomic import fsync_dir, fsync_file
from storage.errors import Damaged
from storage.failpoints import declare, hit
from storage.hashing import hex16
from storage.layout import COLLECTIONS_NAME, SEGMENTS_NAME
from storage.manifest import MANIFEST_NAME, Entry, Manifest
from storage.segment import require_room

WRITE: Final = declare("snapshot.unpack")
WRITE_FSYNC: Final = declare("snapshot.unpack_fsync")
BLOCK: Final = tarfile.BLOCKSIZE
CHUNK_BYTES: Final = 1 << 20
END: Final = bytes(2 * BLOCK)
NAME_BYTES: Final = 100
OCTAL_MAX: Final = 8**11
"""Bytes of a file, from which on its length no longer fits the octal digits."""


# -------------------------------------------------------------------- out


def length(snapshot: Path) -> int:
    """Bytes of the whole stream. Raises Damaged where there is no manifest that can be read."""
    whole = manifest.read(snapshot)
    sizes = [_manifest_bytes(snapshot), *(entry.bytes for entry in whole.files)]
    return sum(BLOCK + _padded(size) for size in sizes) + len(END)


def stream(snapshot: Path) -> Iterator[bytes]:
    """The tar in pieces, none empty, of at most CHUNK_BYTES. Raises Damaged where a file is not as long as the manifest
    says, OSError.

    What the bytes are is not verified here: who takes them in does.
    """
    whole = manifest.read(snapshot)
    yield from _member(snapshot, MANIFEST_NAME, _manifest_bytes(snapshot))
    for entry in whole.files:
        yield from _member(snapshot, entry.path, entry.bytes)
    yield END


def _manifest_bytes(snapshot: Path) -> int:
    return (snapshot / MANIFEST_NAME).stat().st_size


def _member(snapshot: Path, path: str, size: int) -> Iterator[bytes]:
    with (snapshot / path).open("rb") as file:
        if os.fstat(file.fileno()).st_size != size:
            raise Damaged(f"{path} does not have the {size} bytes that the manifest says")
        yield header(path, size)
        left = size
        while left:
            chunk = file.read(min(CHUNK_BYTES, left))
            if not chunk:
                raise Damaged(f"{path} was cut off while it was read")
            left -= len(chunk)
            yield chunk
    if _padded(size) > size:
        yield bytes(_padded(size) - size)


def header(path: str, size: int) -> bytes:
    """A ustar header without owner and time. Lengths from 8 GiB on are binary, as GNU tar and Python write them."""
    info = tarfile.TarInfo(path)
    info.mode, info.size = 0o644, min(size, OCTAL_MAX - 1)
    raw = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    if size >= OCTAL_MAX:
        raw[124:136] = b"\x80" + size.to_bytes(11, "big")
        raw[148:156] = b" " * 8
        raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


# -------------------------------------------------------------------- in


class Unpacker:
    """Takes a tar in pieces of any length and makes the snapshot's files in a stage. Belongs to one thread at a time.

    stage: an empty folder. Raises Damaged (what was sent is no such tar), OSError (ENOSPC before anything is written
    where it would not fit).
    """

    def __init__(self, stage: Path) -> None:
        self.manifest: Manifest | None = None
        self._stage = stage
        self._buffer = bytearray()
        """What has come and is less than the next header, or than the manifest."""
        self._missing: dict[str, Entry] = {}
        self._entry: Entry | None = None
        self._file: BinaryIO | None = None
        self._left = 0
        """Bytes of the file that are still to come."""
        self._padding = 0
        self._hash = xxhash.xxh3_64()
        self._ended = False

    def feed(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            if self._left:
                view = self._take(view)
            elif self._padding:
                skipped = min(self._padding, len(view))
                self._padding -= skipped
                view = view[skipped:]
            else:
                wanted = BLOCK - len(self._buffer)
                self._buffer += view[:wanted]
                view = view[wanted:]
                if len(self._buffer) == BLOCK:
                    self._block()

    def finish(self) -> Manifest:
        """All has come: the files are on the disk. Raises Damaged where something is missing."""
        if self.manifest is None or self._left or self._padding or self._buffer:
            raise Damaged("the tar is cut off")
        if self._missing:
            raise Damaged(f"the tar lacks {len(self._missing)} files of the manifest, {min(self._missing)} among them")
        if not self._ended:
            raise Damaged("the tar is cut off: it has no end")
        hit(WRITE_FSYNC)
        for folder in sorted({(self._stage / e.path).parent for e in self.manifest.files}, reverse=True):
            fsync_dir(folder)
        for content in self.manifest.collections:
            fsync_dir(self._stage / content.folder)
        if self.manifest.collections:
            fsync_dir(self._stage / COLLECTIONS_NAME)
        fsync_dir(self._stage)
        return self.manifest

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _block(self) -> None:
        raw, self._buffer = bytes(self._buffer), bytearray()
        if raw == bytes(BLOCK):
            self._ended = True
            return
        if self._ended:
            raise Damaged("the tar goes on behind its end")
        try:
            info = tarfile.TarInfo.frombuf(raw, "ascii", "strict")
        except (tarfile.HeaderError, ValueError) as e:
            raise Damaged(f"this is no tar, or a damaged one: {e}") from e
        self._begin(info)

    def _begin(self, info: tarfile.TarInfo) -> None:
        path = info.name.removeprefix("./")
        if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise Damaged(f"{path[:80]!r} is no plain file: a snapshot's tar has nothing else")
        if self.manifest is None:
            if path != MANIFEST_NAME:
                raise Damaged(f"{MANIFEST_NAME} must come first, and here comes {path[:80]!r}")
            if not 0 < info.size <= manifest.MAX_BYTES:
                raise Damaged(f"a manifest of {info.size} bytes is none")
            self._entry = Entry(path, info.size, "")
        else:
            entry = self._missing.pop(path, None)
            if entry is None:
                raise Damaged(f"{path[:80]!r} is not in the manifest, or comes twice")
            if entry.bytes != info.size:
                raise Damaged(f"{path} has {info.size} bytes and should have {entry.bytes}")
            self._entry = entry
        self._open(self._stage / path, info.size)

    def _open(self, path: Path, size: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        hit(WRITE)
        self._file = path.open("xb")
        self._left, self._padding = size, _padded(size) - size
        self._hash.reset()
        if not size:
            self._close()

    def _take(self, view: memoryview) -> memoryview:
        assert self._file is not None
        part = view[: self._left]
        self._file.write(part)
        self._hash.update(part)
        self._left -= len(part)
        if not self._left:
            self._close()
        return view[len(part) :]

    def _close(self) -> None:
        assert self._file is not None and self._entry is not None
        path = self._stage / self._entry.path
        self._file.close()
        self._file = None
        hit(WRITE_FSYNC)
        fsync_file(path)
        if self.manifest is None:
            self._know(manifest.read(self._stage))
        elif hex16(self._hash.intdigest()) != self._entry.xxh3:
            raise Damaged(f"{self._entry.path} is damaged: its checksum differs from the manifest's")

    def _know(self, whole: Manifest) -> None:
        require_room(self._stage, whole.total_bytes)
        self.manifest = whole
        self._missing = {entry.path: entry for entry in whole.files}
        hit(snapshot_files.FOLDER)
        for content in whole.collections:
            # One without a segment has the folder all the same.
            (self._stage / content.folder / SEGMENTS_NAME).mkdir(parents=True)


def unpack(chunks: Iterator[bytes], data: Path) -> tuple[Path, Manifest]:
    """Makes a stage of a tar. Raises Damaged, OSError; then nothing is left."""
    stage = snapshot_files.make_stage(data)
    unpacker = Unpacker(stage)
    try:
        for chunk in chunks:
            unpacker.feed(chunk)
        return stage, unpacker.finish()
    except BaseException:
        unpacker.close()
        snapshot_files.take_away(stage)
        raise
