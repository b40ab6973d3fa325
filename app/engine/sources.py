"""What an import reads: files as they came in, the folder in a tar, or another collection."""

import errno
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from seedvec.folder import open as open_folder
from seedvec.snapshot import Snapshot
from seedvec.sparse import SparseRows
from storage.files.contract import BadFile, Batch, Outline, Reader, ReadOptions, Sparse
from storage.files.formats import FORMATS, Format, guess
from storage.files.sidecars import IDS_ENDING, METADATA_ENDING, beside, read_beside

UNPACKED = "unpacked"
COPY_BYTES = 1 << 20
MAGIC = {
    b"\x93NUMPY": "npy",
    b"\x89HDF\r\n\x1a\n": "hdf5",
    b"PAR1": "parquet",
    b"ARROW1": "arrow",
}
"""How a file begins whose name tells nothing."""
NAMED_BADLY = frozenset({errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ})
"""What the system says of a name that is empty, too long, or that of a folder and of a file."""


def open_source(data: Path, staging: Path, source: dict[str, Any]) -> Reader:
    """source: `{"collection": name}`, or `{"vectors": [path, …], "ids": path, "metadata": path, "format": name or null,
    "options": {…}}` with paths of files, a folder or a tar; ids and metadata of files of their own may be null.

    Raises BadFile, OSError."""
    if "collection" in source:
        return Collected(open_folder(data)[source["collection"]])
    paths = [Path(path) for path in source["vectors"]]
    given = {kind: Path(source[kind]) if source[kind] else None for kind in ("ids", "metadata")}
    if len(paths) == 1 and (paths[0].suffix == ".tar" or _is_tar(paths[0])):
        paths = unpacked(paths[0], staging / UNPACKED)
    options = source["options"]
    if options["shape"] is not None:
        options = {**options, "shape": tuple(options["shape"])}
    return open_files(paths, given["ids"], given["metadata"], source["format"], ReadOptions(**options))


def open_files(
    paths: Sequence[Path], ids: Path | None, metadata: Path | None, format: str | None, options: ReadOptions
) -> Reader:
    """Files of one format joined in that order, or one folder. What stands beside a single file or folder belongs to
    it, unless others are given. Raises BadFile, OSError."""
    chosen = _format(paths[0], format)
    if len(paths) == 1:
        found = [path if path.is_file() else None for path in beside(paths[0], chosen)]
        ids, metadata = ids or found[0], metadata or found[1]
    reader = chosen.read(paths, options)
    return read_beside(reader, ids, metadata) if ids or metadata else reader


def _format(path: Path, name: str | None) -> Format:
    if name is not None:
        if name not in FORMATS:
            raise BadFile(f"there is no format {name}: format= is one of {', '.join(FORMATS)}")
        return FORMATS[name]
    try:
        return guess(path)
    except BadFile:
        if not path.is_file():
            raise
        with path.open("rb") as file:
            begin = file.read(8)
        for magic, known in MAGIC.items():
            if begin.startswith(magic) and known in FORMATS:
                return FORMATS[known]
        raise


def _is_tar(path: Path) -> bool:
    return path.is_file() and path.suffix == "" and tarfile.is_tarfile(path)


def unpacked(tar: Path, folder: Path) -> list[Path]:
    """The tar's one folder, or its files but for those that stand beside others. The tar is gone then.

    Only plain files and folders are taken, under their own names; none is larger than what the tar holds of it."""
    folder.mkdir()
    try:
        with tarfile.TarFile(tar, "r", copybufsize=COPY_BYTES) as archive:
            for member in archive:
                if not (member.isreg() or member.isdir()) or member.sparse is not None:
                    raise BadFile(f"the tar holds {member.name!r}, which is neither a plain file nor a folder")
                archive.extract(member, folder, filter="data")
    except tarfile.FilterError as e:
        # Its own words name the folder here.
        raise BadFile(f"the tar holds {e.tarinfo.name!r}, which leads out of it") from e
    except (tarfile.TarError, EOFError, ValueError) as e:
        raise BadFile(f"the tar cannot be unpacked: {e}") from e
    except OSError as e:
        if e.errno not in NAMED_BADLY:
            raise
        raise BadFile(f"the tar cannot be unpacked: a member's name is none: {e.strerror}") from e
    os.unlink(tar)
    found = sorted(path for path in folder.iterdir() if not path.name.endswith((IDS_ENDING, METADATA_ENDING)))
    if not found:
        raise BadFile("the tar is empty")
    if len(found) == 1:
        return found
    # A folder that was packed without its own name.
    return [folder]


class Collected:
    """A collection as a file is read."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        ids: Any = None if snapshot.id_type == "auto" else snapshot.id_type
        self.outline = Outline(
            snapshot.dimension,
            snapshot.dtype.name,  # type: ignore[arg-type]
            len(snapshot),
            snapshot.sparse,
            ids,
            snapshot.has_metadata,
        )

    def batches(self, rows: int) -> Iterator[Batch]:
        for vectors, ids, metadata in self._snapshot.batches(rows):
            given = (
                Sparse(vectors.indptr, vectors.indices.astype("i8"), vectors.values.astype("f4"))
                if isinstance(vectors, SparseRows)
                else vectors
            )
            yield Batch(given, ids, metadata if self._snapshot.has_metadata else None)

    def close(self) -> None:
        """The snapshot lets its files go with it."""
