"""Vectors from JSON lists to matrices, each one's length checked against the collection first.

A number's text is read as float64 and then rounded to float32. Where the float64 lies exactly half way between two
float32, that second rounding can miss the one whose shortest text it was ("7.038531e-26"): what the server printed
would not read back to what it stored. `settled` decides those.
"""

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
        return settled(np.array(vectors, dtype=np.float64))
    # Half the time and no copy of the outer list: NumPy looks at every element of nested lists twice.
    flat = np.fromiter(chain.from_iterable(vectors), dtype=np.float64, count=len(vectors) * dimension)
    return settled(flat).reshape(len(vectors), dimension)


_BELOW_FLOAT32 = np.uint64((1 << 29) - 1)
"""The bits of a float64 that a float32 has no room for."""
_HALF = np.uint64(1 << 28)


def settled(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same array; what lies half way between two float32 becomes the one that is printed like it, if one is."""
    flat = numbers.reshape(-1)
    for i in np.flatnonzero((flat.view(np.uint64) & _BELOW_FLOAT32) == _HALF).tolist():
        number = flat[i]
        # Half way: a step either side of it rounds to the two neighbours.
        for neighbour in (np.float32(np.nextafter(number, -np.inf)), np.float32(np.nextafter(number, np.inf))):
            if float(str(neighbour)) == number:
                flat[i] = neighbour
    return numbers


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
