"""A vector as the table `pending` holds it: its numbers; of a sparse one their places first."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seedvec.sparse import INDEX_DTYPE, SparseRows, offsets


def encode(vectors: NDArray[Any] | SparseRows) -> Iterator[bytes | memoryview]:
    """One value a row."""
    if isinstance(vectors, SparseRows):
        for start, end in pairwise(vectors.indptr.tolist()):
            yield vectors.indices[start:end].tobytes() + vectors.values[start:end].tobytes()
    else:
        for row in vectors:
            yield memoryview(row).cast("B")


def stored_bytes(vectors: NDArray[Any] | SparseRows) -> int:
    """Of all those values together."""
    if isinstance(vectors, SparseRows):
        return int(vectors.indices.nbytes + vectors.values.nbytes)
    return int(vectors.nbytes)


def decode(values: Sequence[bytes], dimension: int, dtype: np.dtype[Any], sparse: bool) -> NDArray[Any] | SparseRows:
    """Values of the right length: see `wrong`."""
    if not sparse:
        return np.frombuffer(b"".join(values), dtype).reshape(len(values), dimension)
    width = INDEX_DTYPE.itemsize + dtype.itemsize
    lengths = [len(value) // width for value in values]
    places = [value[: INDEX_DTYPE.itemsize * n] for value, n in zip(values, lengths, strict=True)]
    numbers = [value[INDEX_DTYPE.itemsize * n :] for value, n in zip(values, lengths, strict=True)]
    return SparseRows(
        offsets(np.array(lengths, np.int64)),
        np.frombuffer(b"".join(places), INDEX_DTYPE),
        np.frombuffer(b"".join(numbers), dtype),
        dimension,
    )


def is_whole(value: bytes, dimension: int, dtype: np.dtype[Any], sparse: bool) -> bool:
    """Whether a value of a damaged catalogue can be a row's at all."""
    if not sparse:
        return len(value) == dimension * dtype.itemsize
    if len(value) % (INDEX_DTYPE.itemsize + dtype.itemsize):
        return False
    places = decode([value], dimension, dtype, sparse).indices  # type: ignore[union-attr]
    return bool((np.diff(places, prepend=-1, append=dimension) > 0).all())


def wrong(dimension: int, dtype: np.dtype[Any], sparse: bool) -> str:
    """In SQL: whether a row's value has a length that none of this collection has."""
    if sparse:
        return f"length(vector) % {INDEX_DTYPE.itemsize + dtype.itemsize} <> 0"
    return f"length(vector) <> {dimension * dtype.itemsize}"
