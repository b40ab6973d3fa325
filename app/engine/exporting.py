"""A collection on its way into a file: which file it is to be, and how its bytes get there in constant memory."""

import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from app.engine import errors
from app.engine.errors import Fault
from app.engine.sources import Collected
from app.engine.translate import translated
from seedvec.snapshot import Snapshot
from storage.files.contract import DIMENSION_MAX, BadFile, Batch, Outline, Sparse, WriteOptions, Writer
from storage.files.csr import expanded
from storage.files.formats import FORMATS, Format
from storage.files.sidecars import write_beside
from storage.segment import require_room

BATCH_BYTES = 8 << 20
COPY_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    """name: of the file. prepare: makes what cannot be written from front to back, beforehand; returns the file's size
    where it is known then. give: writes the file to a descriptor. Both raise errors.Refused."""

    name: str
    prepare: Callable[[], int | None]
    give: Callable[[int], None]


def plan(snapshot: Snapshot, name: str, staging: Path, asked: dict[str, Any]) -> Plan:
    """asked: `ExportAsked`'s fields. Raises errors.Invalid."""
    fmt = FORMATS.get(asked["format"])
    if fmt is None:
        raise _invalid("format", f"there is no format {asked['format']!r}: it is one of {', '.join(FORMATS)}")
    if not snapshot.sparse and fmt.sparse == "only":
        raise _invalid("format", f"{fmt.name} holds sparse vectors alone")
    source: _Source = Collected(snapshot)
    if snapshot.sparse and fmt.sparse == "no":
        if snapshot.dimension > DIMENSION_MAX:
            others = _some(lambda f: f.sparse != "no")
            raise _invalid("format", f"{fmt.name} would have {snapshot.dimension} numbers a row: take {others}")
        source = _Expanded(source)
    options = WriteOptions(asked["compression"])
    outline = _outline(source.outline, fmt, asked["sidecars"])
    beside = (outline.ids is not None and not fmt.holds_ids) or (outline.metadata and not fmt.holds_metadata)
    file = name + (fmt.suffixes[0] if fmt.suffixes else "")
    writes = _Writes(source, outline, fmt, options, beside)
    if fmt.folder or beside:
        return Plan(f"{name}.tar", lambda: writes.prepare(staging / "packed" / file), lambda fd: _tar(staging, fd))
    if fmt.streams:
        return Plan(
            file,
            lambda: writes.check(staging / "tried" / file),
            lambda fd: writes.write(_leading_to(fd, staging / file)),
        )
    path = staging / "packed" / file
    return Plan(file, lambda: writes.prepare(path), lambda fd: _copy(path, fd))


def _outline(given: Outline, fmt: Format, sidecars: bool) -> Outline:
    ids = given.ids if fmt.holds_ids or sidecars else None
    metadata = given.metadata and (fmt.holds_metadata or sidecars)
    return Outline(given.dimension, given.dtype, given.rows, given.sparse, ids, metadata)


class _Source(Protocol):
    outline: Outline

    def batches(self, rows: int) -> Iterator[Batch]: ...


class _Expanded:
    """Sparse rows for a format that knows none: with all their zeros."""

    def __init__(self, sparse: _Source) -> None:
        self.outline = replace(sparse.outline, sparse=False)
        self._sparse = sparse

    def batches(self, rows: int) -> Iterator[Batch]:
        for batch in self._sparse.batches(rows):
            assert isinstance(batch.vectors, Sparse)
            yield batch._replace(vectors=expanded(batch.vectors, self.outline.dimension))


@dataclass(frozen=True, slots=True)
class _Writes:
    source: _Source
    outline: Outline
    fmt: Format
    options: WriteOptions
    beside: bool

    def check(self, path: Path) -> None:
        """Opened in vain, so that an option which the format does not offer is refused before the answer has begun."""
        path.parent.mkdir(parents=True)
        self._open(path).abort()

    def prepare(self, path: Path) -> int | None:
        width = self.source.outline.dimension * (2 if self.outline.dtype == "float16" else 4)
        with translated("the export"):
            path.parent.mkdir(parents=True)
            if not self.outline.sparse:
                require_room(path.parent, (self.outline.rows or 0) * width)
            self.write(path)
        return path.stat().st_size if path.is_file() and not self.beside else None

    def write(self, path: Path) -> None:
        writer = self._open(path)
        try:
            for batch in self.source.batches(_batch_rows(self.outline)):
                ids = batch.ids if self.outline.ids is not None else None
                writer.write(batch._replace(ids=ids, metadata=batch.metadata if self.outline.metadata else None))
            writer.finish()
        except BaseException:
            writer.abort()
            raise

    def _open(self, path: Path) -> Writer:
        try:
            if self.beside:
                return write_beside(self.fmt, path, self.outline, self.options)
            return self.fmt.write(path, self.outline, self.options)
        except BadFile as e:
            raise _invalid("format", e.detail) from e
        except ValueError as e:
            raise _invalid("format", str(e)) from e


def _batch_rows(outline: Outline) -> int:
    return max(1, min(50_000, BATCH_BYTES // (4 * outline.dimension if not outline.sparse else 1024)))


def _invalid(where: str, message: str) -> errors.Invalid:
    return errors.Invalid(f"{where}: {message}", [Fault(where, message)])


def _some(which: Callable[[Format], bool]) -> str:
    return ", ".join(f.name for f in FORMATS.values() if which(f)) or "none yet"


def _leading_to(fd: int, path: Path) -> Path:
    """A name for a pipe, in a folder where its writer may put things aside."""
    path.symlink_to(f"/proc/self/fd/{fd}")
    return path


def _copy(path: Path, fd: int) -> None:
    with path.open("rb") as file:
        at = 0
        # From the page cache into the pipe, and never through this process.
        while n := os.sendfile(fd, file.fileno(), at, COPY_BYTES):
            at += n


def _tar(staging: Path, fd: int) -> None:
    """What was written under `packed`, under the names it has there."""
    packed = staging / "packed"
    for path in sorted(packed.rglob("*")):
        member = tarfile.TarInfo(str(path.relative_to(packed)))
        member.mtime = int(path.stat().st_mtime)
        if path.is_dir():
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            _write(fd, member.tobuf(tarfile.PAX_FORMAT))
            continue
        member.size = path.stat().st_size
        _write(fd, member.tobuf(tarfile.PAX_FORMAT))
        _copy(path, fd)
        _write(fd, bytes(-member.size % tarfile.BLOCKSIZE))
    _write(fd, bytes(2 * tarfile.BLOCKSIZE))


def _write(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
