"""Texts in any order, some of them twice, brought into ascending order by whole arrays.

A column of 1,000,000 distinct strings sorted as Python objects takes 200 MB and longer than reading them from JSON.
Here the first eight bytes decide, then, among those that tie, four bytes a round.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from storage.columns_texts import WORD, Texts, Words, narrow_offsets, texts_of

STEP: Final = 4
"""Bytes that a round looks at: with the number of the tie in front, one 64-bit number to sort."""
FEW: Final = 256
"""Texts that Python sorts faster."""
GATHER: Final = 1 << 16
"""Texts copied at once into their final place."""


def sorted_texts(data: bytes, lengths: NDArray[np.int64]) -> tuple[Texts, NDArray[np.uint32]]:
    """data: n texts joined. Returns the distinct ones, ascending, and for each of the n its number among them."""
    n = len(lengths)
    starts = np.cumsum(lengths) - lengths
    if n <= FEW:
        parts = [data[a : a + length] for a, length in zip(starts.tolist(), lengths.tolist(), strict=True)]
        distinct = sorted(set(parts))
        number = {part: i for i, part in enumerate(distinct)}
        return texts_of(distinct), np.array([number[part] for part in parts], np.uint32)
    order, new = _Sorting(data, lengths).run()
    ranks = np.empty(n, np.uint32)
    ranks[order] = np.cumsum(new) - 1
    return _gathered(data, starts, lengths, order[new]), ranks


class _Sorting:
    """order: text numbers as sorted so far; new: whether the text there is known to differ from the one before."""

    def __init__(self, data: bytes, lengths: NDArray[np.int64]) -> None:
        self._words = Words(data, lengths)
        self._lengths = lengths
        self.order = np.arange(len(lengths))
        self.new = np.zeros(len(lengths), np.bool_)
        self.new[0] = True

    def run(self) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        everything = np.arange(len(self.order))
        self._sort(everything, self._words.at(self.order, 0))
        depth = WORD
        while len(ties := self._ties(depth)):
            word = self._words.at(self.order[ties], depth) >> np.uint64(8 * (WORD - STEP))
            self._sort(ties, self._tie_numbers(ties) | word)
            depth += STEP
        # What still ties is equal but for zero bytes at the end, which a text that has ended seems to have too.
        ties = self._ties(-1)
        if len(ties):
            self._sort(ties, self._tie_numbers(ties) | self._lengths[self.order[ties]].astype(np.uint64))
        return self.order, self.new

    def _ties(self, depth: int) -> NDArray[np.intp]:
        """Places whose text ties with a neighbour's, in ties where some text is longer than `depth`."""
        last = np.append(self.new[1:], True)
        places = np.flatnonzero(~(self.new & last))
        if not len(places) or depth < 0:
            return places
        heads = np.flatnonzero(self.new[places])
        longest = np.maximum.reduceat(self._lengths[self.order[places]], heads)
        return places[np.repeat(longest > depth, np.diff(np.append(heads, len(places))))]

    def _tie_numbers(self, places: NDArray[np.intp]) -> NDArray[np.uint64]:
        """Which tie each place is of, in the upper half of 64 bits."""
        return np.cumsum(self.new[places]).astype(np.uint64) << np.uint64(32)

    def _sort(self, places: NDArray[np.intp], by: NDArray[np.uint64]) -> None:
        """by: for each place; the tie that the place is of decides first."""
        if bool((by[1:] < by[:-1]).any()):
            sorting = np.argsort(by)
            by = by[sorting]
            self.order[places] = self.order[places[sorting]]
        self.new[places[1:]] |= by[1:] != by[:-1]


def _gathered(data: bytes, starts: NDArray[np.int64], lengths: NDArray[np.int64], numbers: NDArray[np.intp]) -> Texts:
    ends = np.zeros(len(numbers) + 1, np.int64)
    np.cumsum(lengths[numbers], out=ends[1:])
    out = np.empty(int(ends[-1]), np.uint8)
    for first in range(0, len(numbers), GATHER):
        block = numbers[first : first + GATHER]
        low, high = starts[block], starts[block] + lengths[block]
        joined = b"".join([data[a:b] for a, b in zip(low.tolist(), high.tolist(), strict=True)])
        out[int(ends[first]) : int(ends[first]) + len(joined)] = np.frombuffer(joined, np.uint8)
    return Texts(out, narrow_offsets(ends))
