"""What every file format gives: rows in batches out of a file, and rows in batches into one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from storage.errors import StorageError

DIMENSION_MAX: Final = 65_536
"""Of one vector, as in a collection. Bounds what one row can take; a wider one is refused before it is read."""
ID_BYTES_MAX: Final = 512
"""Of a str id in UTF-8, as in a collection."""
METADATA_BYTES_MAX: Final = 1 << 20
"""Of one item's JSON in a file. More than a collection takes, since it may be spaced out; bounds a line."""

IdKind = Literal["int", "str"]
Ids = NDArray[np.int64] | list[str]
StoredAs = Literal["float16", "float32", "float64", "bfloat16"]


class BadFile(StorageError):
    """A file that is not what it should be, or cannot be taken. Nothing of it may count.

    detail: what is wrong and where, in words for who sent the file. row: the first row concerned, from 0 over all files
    read as one; None where it concerns the whole.
    """

    def __init__(self, detail: str, row: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.row = row


class Sparse(NamedTuple):
    """n sparse vectors, row i in `[indptr[i]:indptr[i + 1]]` of the other two."""

    indptr: NDArray[np.int64]
    """(n+1,), from 0."""
    indices: NDArray[np.int64]
    """(nnz,), ascending within a row, none twice."""
    values: NDArray[np.float32]
    """(nnz,)."""


class Batch(NamedTuple):
    """Some rows that follow one another. Whoever gets one may keep it; the arrays may be read-only."""

    vectors: NDArray[Any] | Sparse
    """(n, d) float16, 32 or 64 in native byte order and C order, or n sparse ones."""
    ids: Ids | None = None
    """n of them; None where the file has none."""
    metadata: list[bytes | None] | None = None
    """n JSON objects in UTF-8, each None where the item has none; None where the file holds no metadata. Of those that
    a reader gives no JSON parser has seen the inside yet: that is whose it is to judge them."""

    @property
    def rows(self) -> int:
        """n."""
        return len(self.vectors.indptr) - 1 if isinstance(self.vectors, Sparse) else len(self.vectors)

    def part(self, start: int, stop: int) -> "Batch":
        """Rows start … stop of it, without a copy where all arrays can do without."""
        vectors = self.vectors
        if isinstance(vectors, Sparse):
            first, last = vectors.indptr[start], vectors.indptr[stop]
            indptr = vectors.indptr[start : stop + 1] - first
            cut: NDArray[Any] | Sparse = Sparse(indptr, vectors.indices[first:last], vectors.values[first:last])
        else:
            cut = vectors[start:stop]
        return Batch(
            cut,
            None if self.ids is None else self.ids[start:stop],
            None if self.metadata is None else self.metadata[start:stop],
        )


@dataclass(frozen=True, slots=True)
class Outline:
    """What is known of a file from its headers, or wanted of one to be written."""

    dimension: int
    dtype: StoredAs
    """As stored in the file. Batches of bfloat16 come as float32, which holds each of its numbers exactly."""
    rows: int | None
    """None where only reading tells; a writer is always told."""
    sparse: bool = False
    ids: IdKind | None = None
    metadata: bool = False
    notes: tuple[str, ...] = ()
    """What whoever imports should be told: precision, order, what was left out. Sentences without a full stop."""


class Reader(Protocol):
    """One file, or several as one, open for reading from the first row to the last."""

    @property
    def outline(self) -> Outline: ...

    def batches(self, rows: int) -> Iterator[Batch]:
        """All rows in order, 1 to `rows` at a time, in memory for one batch. Raises BadFile, and OSError where the
        disk fails. Each call begins anew; one walk at a time."""

    def close(self) -> None: ...


class Writer(Protocol):
    """A file being made. Ended by `finish`, or by `abort`: also after any other call has raised, `finish` included."""

    def write(self, batch: Batch) -> None:
        """Appends. The batch has what the outline has: ids of its type, metadata or none. Raises OSError."""

    def finish(self) -> None:
        """Makes the file whole; not synced. Raises ValueError where more or fewer rows came than the outline says."""

    def abort(self) -> None:
        """Closes, and unlinks what was made of it. Never raises for what is gone already."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How to read; what a format has no use for is refused by it (BadFile)."""

    vectors: str | None = None
    """Key, dataset path or column of the vectors; None: the format's usual name, or the only one that can be meant."""
    ids: str | None = None
    """Likewise of the ids."""
    metadata: str | None = None
    """Likewise of the metadata."""
    dtype: str | None = None
    """Of raw files: float16, float32, float64 or bfloat16, or as NumPy writes it with a byte order (`>f4`)."""
    shape: tuple[int, ...] | None = None
    """Of raw files: (rows, d), where rows may be -1: as many as there are; (d,) is the same as (-1, d)."""
    flatten: bool = False
    """Whether items of several dimensions are taken, as one vector of all their numbers in C order."""


class GroundTruth(NamedTuple):
    """q queries and the k rows of a file nearest to each, nearest first: what a collection can be judged by."""

    queries: NDArray[np.float32]
    """(q, d)."""
    neighbors: NDArray[np.int64]
    """(q, k), rows of the file counted from 0."""
    distances: NDArray[np.float32] | None
    """(q, k) as the file says; whoever made it decided whether squared."""
    metric: Literal["l2", "cosine", "dot"] | None
    """By which they are nearest, where the file says."""


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How to write."""

    compression: str | None = None
    """What the format offers; None: none."""
    ground_truth: GroundTruth | None = None
    """Goes along where the format has room for it (`ann`), and is left out elsewhere."""
