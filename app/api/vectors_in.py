"""Vectors from JSON lists to matrices, each one's length checked against the collection first."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from app.api.refusals import many
from app.engine.errors import MAX_FAULTS, DimensionMismatch, Fault


def matrix(vectors: Sequence[Sequence[float]], dimension: int, pattern: str) -> NDArray[np.float64]:
    """(n, dimension) float64. Raises DimensionMismatch naming every wrong vector by pattern, as `vectors[{}]`."""
    wrong = [i for i, vector in enumerate(vectors) if len(vector) != dimension]
    if wrong:
        raise mismatch([(pattern.format(i), len(vectors[i])) for i in wrong[:MAX_FAULTS]], len(wrong), dimension)
    if len(vectors) == 1:
        return np.array(vectors, dtype=np.float64)
    # Half the time and no copy of the outer list: NumPy looks at every element of nested lists twice.
    flat = np.fromiter(chain.from_iterable(vectors), dtype=np.float64, count=len(vectors) * dimension)
    return flat.reshape(len(vectors), dimension)


def check_columns(columns: int, dimension: int) -> None:
    """Raises DimensionMismatch for a `.npy` matrix of another width."""
    if columns != dimension:
        raise mismatch([("shape", columns)], 1, dimension)


def mismatch(found: Sequence[tuple[str, int]], count: int, dimension: int) -> DimensionMismatch:
    """The refusal of vectors of the wrong length: (place, length) of the first ones, and how many there are."""
    faults = [Fault(where, f"has {length} numbers, the collection wants {dimension}") for where, length in found]
    refusal = many(DimensionMismatch, faults, count, f"{count} vectors have the wrong dimension")
    assert isinstance(refusal, DimensionMismatch)
    return refusal
