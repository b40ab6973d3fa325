"""A file that comes as a stream, put where it is wanted: whole, or not at all."""

import os
import shutil
import tarfile
from io import FileIO
from pathlib import Path, PurePosixPath
from typing import Final, Protocol, cast

from seedvec.writeback import LEAST_BYTES, start_writing

CHUNK_BYTES: Final = 256 << 10
"""Larger ones are fresh memory each time, which costs more than the calls."""


class Source(Protocol):
    def read(self, size: int = -1, /) -> bytes:
        """At most so many bytes; none at the end."""


def take_file(to: Path, collection: str, source: Source) -> None:
    """Raises OSError, and what the source raises; then what stood there before still does."""
    tmp = to.with_name(to.name + ".tmp")
    try:
        with tmp.open("wb", buffering=0) as file:
            _copy(source, file)
            os.fsync(file.fileno())
        os.replace(tmp, to)
    except BaseException:
        tmp.unlink(missing_ok=True)
        raise


def take_tar(to: Path, collection: str, source: Source) -> None:
    """What a tar holds, called after the collection there and after the file here: `clip.npy` and `clip.ids.npy` become
    `mine.npy` and `mine.ids.npy`, a folder `clip` becomes `mine`.

    Raises OSError and ValueError; then nothing new stands there. A folder that stands there already is refused."""
    tmp = to.with_name(to.name + ".tmp")
    tmp.mkdir()
    try:
        # Streamed: what it reads of the source it never goes back for.
        with tarfile.open(fileobj=cast("tarfile._Fileobj", source), mode="r|", bufsize=CHUNK_BYTES) as archive:
            for member in archive:
                _take_member(tmp, to, collection, archive, member)
        for path in tmp.iterdir():
            os.rename(path, to.with_name(path.name))
    except tarfile.TarError as e:
        raise OSError(f"what came is cut off, or no tar: {e}") from e
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def _take_member(tmp: Path, to: Path, collection: str, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    top, *rest = PurePosixPath(member.name).parts
    if not top.startswith(collection) or ".." in rest or not (member.isreg() or member.isdir()):
        raise ValueError(f"the tar holds {member.name!r}, which is no part of {collection}")
    in_folder = rest or member.isdir()
    if in_folder and to.exists():
        raise FileExistsError(f"{to} exists already: a folder is not written over")
    path = (tmp / to.name).joinpath(*rest) if in_folder else tmp / _called(to, top[len(collection) :])
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    held = archive.extractfile(member)
    assert held is not None
    with held, path.open("wb", buffering=0) as file:
        _copy(held, file)
        os.fsync(file.fileno())


def _copy(source: Source, file: FileIO) -> None:
    fresh = 0
    while part := source.read(CHUNK_BYTES):
        rest = memoryview(part)
        while rest:
            rest = rest[file.write(rest) :]
        fresh += len(part)
        if fresh >= LEAST_BYTES:
            start_writing(file.fileno(), fresh)
            fresh = 0


def _called(to: Path, ending: str) -> str:
    """`.npy` of the file itself, `.ids.npy` of one beside it."""
    return to.name if ending.count(".") < 2 else to.stem + ending
