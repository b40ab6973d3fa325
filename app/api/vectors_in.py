"""Vectors from JSON lists to matrices, each one's length checked against the collection first.

A number's text is read as float64 and then rounded to float32. Where the float64 lies exactly half way between two
float32, that second rounding can miss the one whose shortest text it was ("7.038531e-26"): what the server printed
would not read back to what it stored. `settled` decides those.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from msgspec import Raw
from msgspec.json import Decoder
from numpy.typing import NDArray

from app.api.json_in import decode
from app.api.refusals import many
from app.api.schemas import Vector
from app.engine.errors import MAX_FAULTS, DimensionMismatch, Fault

_VECTOR: Decoder[Vector] = Decoder(Vector)


class Decoded:
    """Vectors of a large body, each decoded when its turn comes, every time anew: decoding holds the interpreter, and
    the event loop with it, until it returns. 5,000 × 128 numbers took it 37 ms at once; so it is 9, where the vectors'
    ends are found, then 7 µs each; and a fifth less in all, since nearly nothing of it has to be kept.

    pattern: how an error names vector i, as `vectors[{}]`.
    """

    def __init__(self, texts: Sequence[Raw], pattern: str) -> None:
        self._texts = texts
        self._pattern = pattern

    def __iter__(self) -> Iterator[Vector]:
        """Raises Invalid's family."""
        for i, text in enumerate(self._texts):
            yield decode(_VECTOR, text, self._pattern.format(i))


def matrix(vectors: Iterable[list[float]], dimension: int, pattern: str) -> NDArray[np.float64]:
    """(n, dimension) float64. Raises DimensionMismatch naming every wrong vector by pattern, as `vectors[{}]`."""
    numbers, wrong = array("d"), []
    for i, vector in enumerate(vectors):
        if len(vector) == dimension:
            numbers.fromlist(vector)
        else:
            wrong.append((i, len(vector)))
    if wrong:
        raise mismatch([(pattern.format(i), length) for i, length in wrong[:MAX_FAULTS]], len(wrong), dimension)
    return settled(np.frombuffer(numbers)).reshape(-1, dimension)


_BELOW_FLOAT32 = np.uint64((1 << 29) - 1)
"""The bits of a float64 that a float32 has no room for."""
_HALF = np.uint64(1 << 28)


def settled(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same numbers, (n,), in order; what lies half way between two float32 becomes the one that is printed like
    it, if one is."""
    half_way = (numbers.view(np.uint64) & _BELOW_FLOAT32) == _HALF
    if not np.count_nonzero(half_way):
        return numbers
    flat = numbers.copy()
    for i in np.flatnonzero(half_way).tolist():
        number = flat[i]
        # Half way: a step either side of it rounds to the two neighbours.
        for neighbour in (np.float32(np.nextafter(number, -np.inf)), np.float32(np.nextafter(number, np.inf))):
            if float(str(neighbour)) == number:
                flat[i] = neighbour
    return flat


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
