"""Rows written by a format and read again: the same to the bit."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse as scipy_sparse

from storage.files.contract import Batch, Outline, Reader, ReadOptions, Sparse, WriteOptions
from storage.files.formats import FORMATS

WRITTEN = 130
READ = 71
"""Rows at a time: the batches of one never end where those of the other do."""


@dataclass
class Made:
    """Rows to be written, and what they are told to be."""

    outline: Outline
    batch: Batch
    options: WriteOptions = field(default_factory=WriteOptions)

    def write(self, name: str, path: Path) -> Path:
        writer = FORMATS[name].write(path, self.outline, self.options)
        for start in range(0, self.batch.rows, WRITTEN):
            writer.write(part(self.batch, start, start + WRITTEN))
        writer.finish()
        return path


def dense(rows: int, dtype: str, ids: str | None, metadata: bool, compression: str | None = None) -> Made:
    """Vectors of 33 random numbers; every seventh row without metadata."""
    vectors = np.random.default_rng(rows).standard_normal((rows, 33)).astype(dtype)
    outline = Outline(33, dtype, rows, ids=ids, metadata=metadata)  # type: ignore[arg-type]
    return Made(
        outline, Batch(vectors, ids_of(rows, ids), metadata_of(rows) if metadata else None), WriteOptions(compression)
    )


def sparse(rows: int, ids: str | None, metadata: bool, compression: str | None = None) -> Made:
    """500 columns, a fiftieth of them filled; some rows have none."""
    matrix = scipy_sparse.random(rows, 500, 0.02, "csr", np.float32, np.random.default_rng(rows))
    matrix.sort_indices()
    vectors = Sparse(matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64), matrix.data)
    outline = Outline(500, "float32", rows, sparse=True, ids=ids, metadata=metadata)  # type: ignore[arg-type]
    return Made(
        outline, Batch(vectors, ids_of(rows, ids), metadata_of(rows) if metadata else None), WriteOptions(compression)
    )


def ids_of(rows: int, kind: str | None) -> Any:
    if kind is None:
        return None
    return np.arange(rows, dtype=np.int64) * 3 if kind == "int" else [f"ü/{i}" for i in range(rows)]


def metadata_of(rows: int) -> list[bytes | None]:
    return [None if i % 7 == 0 else f'{{"n":{i},"text":"größer ☃"}}'.encode() for i in range(rows)]


def part(batch: Batch, start: int, stop: int) -> Batch:
    vectors = batch.vectors
    if isinstance(vectors, Sparse):
        ends = vectors.indptr[start : stop + 1]
        numbers = slice(int(ends[0]), int(ends[-1]))
        vectors = Sparse(ends - ends[0], vectors.indices[numbers], vectors.values[numbers])
    else:
        vectors = vectors[start:stop]
    return Batch(
        vectors,
        None if batch.ids is None else batch.ids[start:stop],
        None if batch.metadata is None else batch.metadata[start:stop],
    )


def read(name: str, path: Path, options: ReadOptions | None = None) -> Batch:
    """All rows of a file as one batch."""
    reader = FORMATS[name].read([path], options or ReadOptions())
    try:
        return joined(reader)
    finally:
        reader.close()


def joined(reader: Reader) -> Batch:
    batches = list(bounded(reader))
    assert reader.outline.rows in (None, sum(batch.rows for batch in batches))
    vectors: Any
    if reader.outline.sparse:
        vectors = scipy_sparse.vstack([matrix(batch.vectors, reader.outline.dimension) for batch in batches], "csr")
    else:
        vectors = np.concatenate([batch.vectors for batch in batches])
    ids = None if reader.outline.ids is None else [i for batch in batches for i in batch.ids]  # type: ignore[union-attr]
    metadata = [m for batch in batches for m in batch.metadata] if reader.outline.metadata else None  # type: ignore[union-attr]
    return Batch(vectors, ids, metadata)


def bounded(reader: Reader) -> Iterator[Batch]:
    for batch in reader.batches(READ):
        assert 1 <= batch.rows <= READ
        yield batch


def matrix(vectors: Any, dimension: int) -> Any:
    """SciPy's own."""
    return scipy_sparse.csr_matrix(
        (vectors.values, vectors.indices, vectors.indptr), shape=(len(vectors.indptr) - 1, dimension)
    )


def assert_same(made: Made, name: str, path: Path) -> None:
    """Writes, reads, and compares outline, vectors by their bytes, ids and metadata."""
    made.write(name, path)
    reader = FORMATS[name].read([path], ReadOptions())
    try:
        outline = reader.outline
        assert (outline.dimension, outline.dtype, outline.rows) == (
            made.outline.dimension,
            made.outline.dtype,
            made.batch.rows,
        )
        assert (outline.sparse, outline.ids, outline.metadata) == (
            made.outline.sparse,
            made.outline.ids,
            made.outline.metadata,
        )
        for _ in range(2):
            at = 0
            for batch in bounded(reader):
                compare(part(made.batch, at, at + batch.rows), batch)
                at += batch.rows
            assert at == made.batch.rows
    finally:
        reader.close()


def compare(wanted: Batch, found: Batch) -> None:
    if isinstance(wanted.vectors, Sparse):
        assert isinstance(found.vectors, Sparse)
        for a, b in zip(wanted.vectors, found.vectors, strict=True):
            assert a.dtype == b.dtype and a.tobytes() == b.tobytes()
    else:
        assert found.vectors.dtype == wanted.vectors.dtype
        assert found.vectors.tobytes() == wanted.vectors.tobytes()
    assert (wanted.ids is None) == (found.ids is None)
    assert wanted.ids is None or list(wanted.ids) == list(found.ids)  # type: ignore[arg-type]
    assert wanted.metadata == found.metadata
