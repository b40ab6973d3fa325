"""Every decoder of bytes from outside: sound input for it, how it is run, and what it may raise.

Whatever it gets, it gives rows or one of these, in bounded time and memory: `tests/fuzz/child.py` holds it to that.
"""

import asyncio
import json
import re
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import orjson
from msgspec import Struct

from app.api import npy, recall_in, search
from app.api.bodies import JSON
from app.api.ids import path_id
from app.api.multipart import boundary_of, parts
from app.api.query_in import decode_query
from app.api.recall_in import RecallQuery
from app.api.rows_in import from_json, from_npy
from app.api.schemas import ListQuery, SearchQuery
from app.api.transfer_in import ImportQuery
from app.engine.errors import Refused
from app.engine.filters.parse import parse as parse_filter
from app.engine.sources import open_files, unpacked
from app.engine.types import CollectionSettings
from storage import errors, manifest, snapshot_tar
from storage.files.contract import BadFile, Reader, ReadOptions
from storage.files.formats import FORMATS
from tests.files.tripping import Made, dense, sparse
from tests.fuzz import bodies
from tests.fuzz.mutants import Sound
from tests.storage.snapshotting import filled, take

ROWS, READ_ROWS = 24, 10
DENSE, SPARSE = CollectionSettings(3, id_type="int"), CollectionSettings(3, id_type="str", sparse=True)


@dataclass(frozen=True)
class Decoder:
    """run: with a mutant and an empty folder. raises: what it may raise, all of them said in its docstring."""

    name: str
    sound: Sequence[Sound]
    run: Callable[[bytes, Path], object]
    raises: tuple[type[Exception], ...]


def decoders(folder: Path) -> Iterator[Decoder]:
    """All of them. folder: an empty one, where sound files are made."""
    yield from _requests()
    yield from _snapshots(folder)
    yield from _files(folder)


# -------------------------------------------------------------------- what a request holds


def _requests() -> Iterator[Decoder]:
    def told(name: str, run: Callable[[bytes], object], *sound: bytes | Sound) -> Decoder:
        whole = [one if isinstance(one, Sound) else _tokens(one) for one in sound]
        return Decoder(name, whole, lambda body, _: run(body), (Refused,))

    arrays = [bodies.npy((2, 3), descr) for descr in ("<f4", ">f8", "<f2")]
    yield told("npy body", lambda body: from_npy(body, 1, DENSE), *arrays)
    yield told("npy queries", npy.matrix, *arrays)
    yield told("rows, dense", lambda body: from_json(body, DENSE), *_rows([[1, 0, 0.5], [0, 1, -2e-3]], 7))
    some = [{"indices": [0, 2], "values": [1, 0.5]}, {"indices": [1]}]
    yield told("rows, sparse", lambda body: from_json(body, SPARSE), *_rows(some, "a"))
    yield told("search", lambda body: search.parse(JSON, body, None, DENSE), orjson.dumps(_SEARCH))
    asked = {"k": [1, 10], "recall": [0.9], "queries": [[1, 0, 0]], "truth": [[1, 2]], "calibrate": True}
    yield told("recall", lambda body: recall_in.parse(JSON, body, None, DENSE), orjson.dumps(asked))
    yield told("filter", parse_filter, orjson.dumps(_FILTER))
    for kind, query in _QUERIES.items():
        yield told(f"query: {kind.__name__}", partial(_query, kind), _tokens(query))
    yield told("path: int", lambda raw: path_id(raw, "int"), b"12")
    yield told("path: str", lambda raw: path_id(raw, "str"), b"12%2F%C3%BC/..;")
    whole = bodies.multipart({"vectors": arrays[0].whole, "ids": b"\x93NUMPY", "metadata": b"{}\nnull\n"})
    yield told("multipart", lambda body: asyncio.run(_multipart(body)), whole)
    yield told("content type", lambda raw: boundary_of(raw.decode("latin-1")), b'multipart/form-data; boundary="a b"')


_FILTER = {"$and": [{"a.b": {"$gte": 1.5, "$lt": 10}}, {"$not": {"name": {"$in": ["x", None]}}}, {"t": {"$size": 2}}]}
_SEARCH = {"vectors": [[1, 0, 0], [0, 1, 0]], "k": 3, "recall": 0.9, "filter": _FILTER, "include": ["vector"],
           "max_distance": 2, "timeout_ms": 100}  # fmt: skip


def _rows(vectors: Sequence[object], first: int | str) -> tuple[bytes, bytes]:
    ids = [first, first * 2]
    metadata = [{"a": {"b": [1, None, "ü"]}, "n": 2**53}, None]
    items = [{"id": i, "vector": v, "metadata": m} for i, v, m in zip(ids, vectors, metadata, strict=True)]
    return orjson.dumps({"items": items}), orjson.dumps({"ids": ids, "vectors": vectors, "metadata": metadata})


_QUERIES: dict[type[Struct], bytes] = {
    SearchQuery: b"k=3&recall=0.9&include=vector,metadata&filter=%7B%22a%22%3A1%7D&max_distance=1e3&timeout_ms=5",
    ListQuery: b"limit=3&cursor=AAAAAAAAAAM&include=vector",
    RecallQuery: b"k=1,10&recall=0.9&calibrate=false",
    ImportQuery: b"format=raw&mode=upsert&bad=skip&dtype=%3Ef4&shape=-1,3&flatten=1",
}


def _query(kind: type[Struct], raw: bytes) -> None:
    """Of a URL: bytes that no parser lets through are not there."""
    decode_query(bytes(byte for byte in raw if 32 < byte < 127), kind)


_TOKEN = re.compile(rb'"[^"]*"|[\w.+%-]+|.', re.DOTALL)


def _tokens(text: bytes) -> Sound:
    """Changed in one of its words at a time, so that what is around it stays in order."""
    return Sound(tuple(_TOKEN.findall(text)))


async def _multipart(body: bytes) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        step = 1 + len(body) % 97
        for start in range(0, len(body), step):
            yield body[start : start + step]

    got = 0
    async for part in parts(chunks(), bodies.BOUNDARY):
        async for chunk in part.chunks:
            got += len(chunk)
    assert got <= len(body)


# -------------------------------------------------------------------- snapshots


def _snapshots(folder: Path) -> Iterator[Decoder]:
    """As uploaded: cut, changed in its heads, its manifest (under a checksum that is right) or any byte."""
    data = folder / "data"
    data.mkdir()
    filled(data).close()
    tar = b"".join(snapshot_tar.stream(take(data, "monday")[0]))
    yield Decoder("snapshot's tar", [Sound((tar,))], _unpack, (errors.Damaged, OSError))
    first = tarfile.TarInfo.frombuf(tar[:512], "ascii", "strict").size
    body = json.loads(tar[512 : 512 + first])
    del body["xxh3"]
    yield Decoder("manifest", [Sound((json.dumps(body).encode(),), _signed)], _manifest, (errors.Damaged,))


def _unpack(body: bytes, folder: Path) -> None:
    snapshot_tar.unpack((body[i : i + 4097] for i in range(0, len(body), 4097)), folder)


def _signed(parts: Sequence[bytes]) -> bytes:
    """With its checksum, where it is still JSON."""
    (raw,) = parts
    try:
        body = json.loads(raw)
        return json.dumps({**body, "xxh3": manifest._checksum(body)}).encode()
    except (ValueError, TypeError, RecursionError):
        return raw


def _manifest(body: bytes, folder: Path) -> None:
    manifest.parse(body)


# -------------------------------------------------------------------- files of other programs

MADE: dict[str, tuple[str, Made]] = {
    "npy": ("npy", dense(ROWS, "float32", None, False)),
    "npz": ("npz", dense(ROWS, "float16", "str", True)),
    "npz, deflate": ("npz", dense(ROWS, "float32", "int", True, "deflate")),
    "safetensors": ("safetensors", dense(ROWS, "float32", "int", True)),
    "hdf5": ("hdf5", dense(ROWS, "float32", "str", True)),
    "hdf5, gzip": ("hdf5", dense(ROWS, "float64", "int", True, "gzip")),
    "hdf5, sparse": ("hdf5", sparse(ROWS, "int", True)),
    "parquet": ("parquet", dense(ROWS, "float32", "str", True)),
    "parquet, sparse": ("parquet", sparse(ROWS, "int", True, "zstd")),
    "arrow": ("arrow", dense(ROWS, "float32", "str", True)),
    "arrow, lz4": ("arrow", sparse(ROWS, "int", True, "lz4")),
    "pt": ("pt", dense(ROWS, "float32", "str", True)),
    "csr": ("csr", sparse(ROWS, "str", True, "deflate")),
}


def _files(folder: Path) -> Iterator[Decoder]:
    refused = (BadFile,)
    for name, (fmt, made) in MADE.items():
        sound = Sound((made.write(fmt, folder / f"good-{name}").read_bytes(),))
        yield Decoder(f"file: {name}", [sound], partial(_file, fmt), refused)
    yield Decoder("file: tar of files", [bodies.import_tar()], _tar, refused)
    yield Decoder("file: tensorblob", [_packed_folder(folder)], _tar, refused)
    raw = Sound((np.ones((4, 3), "f4").tobytes(),))
    yield Decoder(
        "file: raw", [raw], partial(_file, "raw", options=ReadOptions(dtype="float32", shape=(-1, 3))), refused
    )
    yield Decoder("file: ids and metadata", [_sidecars()], _beside, refused)


def _file(fmt: str, body: bytes, folder: Path, options: ReadOptions | None = None) -> None:
    path = folder / "x"
    path.write_bytes(body)
    _drain(FORMATS[fmt].read([path], options or ReadOptions()))


def _drain(reader: Reader) -> None:
    with closing(reader):
        rows = 0
        for batch in reader.batches(READ_ROWS):
            assert 0 < batch.rows <= READ_ROWS
            assert all(len(column) == batch.rows for column in (batch.ids, batch.metadata) if column is not None)
            rows += batch.rows
        assert reader.outline.rows in (None, rows)


def _packed_folder(folder: Path) -> Sound:
    """A tensorblob: its members are changed, not the tar around them."""
    path = dense(ROWS, "float32", None, False).write("tensorblob", folder / "good.blob")
    return bodies.tar({f"good.blob/{file.name}": file.read_bytes() for file in sorted(path.iterdir())})


def _tar(body: bytes, folder: Path) -> None:
    path = folder / "x.tar"
    path.write_bytes(body)
    _drain(open_files(unpacked(path, folder / "unpacked"), None, None, None, ReadOptions()))


def _sidecars() -> Sound:
    one = bodies.import_tar()
    parts = list(one.parts)

    def pack(changed: Sequence[bytes]) -> bytes:
        parts[3::2] = changed
        return one.pack(parts)

    return Sound(tuple(parts[3::2]), pack)


def _beside(body: bytes, folder: Path) -> None:
    _tar(body, folder)
