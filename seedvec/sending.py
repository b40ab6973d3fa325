"""The body of an import as it is sent: one file as it lies, several as parts, a folder as a tar."""

import os
import tarfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CHUNK_BYTES: Final = 1 << 20
IDS_ENDING: Final = ".ids.npy"
METADATA_ENDING: Final = ".metadata.jsonl"
FOLDER_ENDINGS: Final = (".blob", ".tensorblob")
Count = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Given:
    """Files of one import: their part, and where they lie."""

    parts: Sequence[tuple[str, Path]]


@dataclass(frozen=True, slots=True)
class Body:
    """size: None where only sending tells; chunks: told how many bytes have gone."""

    headers: dict[str, str]
    size: int | None
    chunks: Callable[[Count], Iterator[bytes]]


def given_files(files: Sequence[Path], ids: Path | None, metadata: Path | None) -> Given:
    """ids and metadata of a single file or folder are looked for beside it where none are given. Raises OSError,
    ValueError."""
    for path in files:
        os.stat(path)
    if any(path.is_dir() for path in files) and len(files) > 1:
        raise ValueError("a folder is imported by itself")
    if len(files) == 1:
        ids = ids or _beside(files[0], IDS_ENDING)
        metadata = metadata or _beside(files[0], METADATA_ENDING)
    parts = [("vectors", path) for path in files]
    parts += [(part, path) for part, path in (("ids", ids), ("metadata", metadata)) if path is not None]
    return Given(parts)


def _beside(path: Path, ending: str) -> Path | None:
    found = path.with_name(_own_name(path) + ending)
    return found if found != path and found.is_file() else None


def _own_name(path: Path) -> str:
    """Without its ending. That of a folder is one only where it says what the folder is: `v1.2` is a name."""
    return path.stem if not path.is_dir() or path.suffix.lower() in FOLDER_ENDINGS else path.name


def body_of(given: Given) -> Body:
    """Raises OSError."""
    path = given.parts[0][1]
    if path.is_dir():
        members = _members(given.parts)
        return Body({"Content-Type": "application/x-tar"}, None, lambda count: _tar(members, count))
    if len(given.parts) > 1:
        return _multipart(given.parts)
    size = path.stat().st_size
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(size),
        "Content-Disposition": f'attachment; filename="{_quotable(path.name)}"',
    }
    return Body(headers, size, lambda count: _file(path, size, count))


def _file(path: Path, size: int, count: Count) -> Iterator[bytes]:
    """So many bytes and no more: the length has been said."""
    with path.open("rb") as file:
        while size and (part := file.read(min(CHUNK_BYTES, size))):
            yield part
            size -= len(part)
            count(len(part))
    if size:
        raise OSError(f"{path} became shorter while it was sent")


def _multipart(parts: Sequence[tuple[str, Path]]) -> Body:
    boundary = uuid.uuid4().hex
    heads = []
    for part, path in parts:
        disposition = f'form-data; name="{part}"; filename="{_quotable(path.name)}"'
        heads.append(f"--{boundary}\r\nContent-Disposition: {disposition}\r\n\r\n".encode())
    end = f"--{boundary}--\r\n".encode("ascii")
    sizes = [path.stat().st_size for _, path in parts]

    def chunks(count: Count) -> Iterator[bytes]:
        for head, (_, path), size in zip(heads, parts, sizes, strict=True):
            yield head
            yield from _file(path, size, count)
            yield b"\r\n"
        yield end

    length = sum(map(len, heads)) + sum(sizes) + 2 * len(parts) + len(end)
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}", "Content-Length": str(length)}
    return Body(headers, sum(sizes), chunks)


def _quotable(name: str) -> str:
    return name.encode("ascii", "replace").decode("ascii").replace('"', "_").replace("\\", "_")


def _members(parts: Sequence[tuple[str, Path]]) -> list[tuple[str, Path]]:
    """Of a tar: the folder under its own name, and beside it what belongs to it, as the other side looks for it."""
    folder = parts[0][1].resolve()
    inside = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    endings = {"ids": IDS_ENDING, "metadata": METADATA_ENDING}
    beside = [(_own_name(folder) + endings[part], path) for part, path in parts[1:]]
    return [*((f"{folder.name}/{path.relative_to(folder).as_posix()}", path) for path in inside), *beside]


def _tar(members: Sequence[tuple[str, Path]], count: Count) -> Iterator[bytes]:
    """File by file, each in chunks. A link's file goes as a file of its own."""
    for name, path in members:
        member = tarfile.TarInfo(name)
        member.size = path.stat().st_size
        yield member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        yield from _file(path, member.size, count)
        yield bytes(-member.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)
