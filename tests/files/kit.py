"""Rows to write to files, and how a file is read back whole."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.files import sidecars
from storage.files.contract import Batch, IdKind, Ids, Outline, Reader, ReadOptions, WriteOptions
from storage.files.formats import FORMATS, Format

DENSE = ("npy", "npz", "raw", "shards", "safetensors", "tensorblob")
"""The formats whose files are the numbers as they lie in memory."""
CHUNK = 64
"""Rows in a batch of the tests."""


def rows_of(
    n: int, dimension: int = 5, dtype: str = "float32", ids: IdKind | None = None, metadata: bool = False
) -> Batch:
    """n rows, the same each time; every kind of number among them, ids and metadata beyond ASCII."""
    vectors = np.random.default_rng(n).standard_normal((n, dimension)).astype(dtype)
    if n > 2:
        vectors[1] = np.finfo(dtype).max
        vectors[2] = -np.finfo(dtype).smallest_subnormal
    some: Ids | None = None
    if ids is not None:
        some = np.arange(n) * 7 + 2**40 if ids == "int" else [f"α{'x' * (row % 40)}\n{row}" for row in range(n)]
    objects = [None if row % 3 == 0 else f'{{"näme": "a\\n{row}"}}'.encode() for row in range(n)]
    return Batch(vectors, some, objects if metadata else None)


def outline_of(rows: Batch, ids: IdKind | None = None) -> Outline:
    """What a writer is told of them."""
    assert isinstance(rows.vectors, np.ndarray)
    kind: Any = rows.vectors.dtype.name
    return Outline(rows.vectors.shape[1], kind, rows.rows, ids=ids, metadata=rows.metadata is not None)


def path_of(folder: Path, fmt: Format) -> Path:
    """Where the tests write a file of that format."""
    return folder / ("rows" + (fmt.suffixes or ("",))[0])


def write(fmt: Format, path: Path, rows: Batch, ids: IdKind | None = None, options: WriteOptions | None = None) -> None:
    """In batches, with sidecars where the format needs them."""
    writer = sidecars.write_beside(fmt, path, outline_of(rows, ids), options or WriteOptions())
    for batch in batches_of(rows):
        writer.write(batch)
    writer.finish()


def batches_of(rows: Batch) -> list[Batch]:
    """In CHUNKs."""
    parts = [slice(start, start + CHUNK) for start in range(0, rows.rows, CHUNK)]
    return [
        Batch(
            rows.vectors[part],
            None if rows.ids is None else rows.ids[part],
            None if rows.metadata is None else rows.metadata[part],
        )
        for part in parts
        if isinstance(rows.vectors, np.ndarray)
    ]


def options_for(name: str, dtype: str, dimension: int) -> ReadOptions:
    """What must be told of a file that does not say it."""
    return ReadOptions(dtype=dtype, shape=(-1, dimension)) if name in ("raw", "shards") else ReadOptions()


def read(name: str, path: Path, options: ReadOptions | None = None, rows: int = 37) -> Batch:
    """All of it, with the sidecars that are there."""
    fmt = FORMATS[name]
    ids, metadata = (found if found.exists() else None for found in sidecars.beside(path, fmt))
    reader = fmt.read([path], options or ReadOptions())
    return whole(sidecars.read_beside(reader, ids, metadata), rows)


def whole(reader: Reader, rows: int = 37) -> Batch:
    """All rows of a reader, which is closed; held to what it says of them."""
    try:
        outline, batches = reader.outline, list(reader.batches(rows))
    finally:
        reader.close()
    assert all(0 < batch.rows <= rows for batch in batches)
    assert all((batch.ids is None) == (outline.ids is None) for batch in batches)
    assert all((batch.metadata is None) == (not outline.metadata) for batch in batches)
    dtype = "float32" if outline.dtype == "bfloat16" else outline.dtype
    empty = np.empty((0, outline.dimension), dtype)
    vectors = np.concatenate([empty, *(batch.vectors for batch in batches)])
    assert vectors.dtype == dtype and vectors.dtype.isnative and outline.rows in (None, len(vectors))
    metadata = [item for batch in batches for item in batch.metadata or ()]
    return Batch(vectors, _ids(outline, batches), metadata if outline.metadata else None)


def same_bits(one: Any, other: Any) -> bool:
    """Whether two arrays are of one shape and dtype, and equal bit for bit."""
    return one.shape == other.shape and one.dtype == other.dtype and one.tobytes() == other.tobytes()


def _ids(outline: Outline, batches: Sequence[Batch]) -> Ids | None:
    if outline.ids == "str":
        return [text for batch in batches for text in batch.ids or ()]
    parts: list[NDArray[np.int64]] = [batch.ids for batch in batches if isinstance(batch.ids, np.ndarray)]
    return np.concatenate([np.empty(0, np.int64), *parts]) if outline.ids else None
