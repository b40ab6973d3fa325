"""Many UTF-8 texts as one run of bytes with offsets: ascending, each once, and searched without making them objects.

The order is that of the bytes, which in UTF-8 is the order of the code points.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Final, overload

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES: Final = 1 << 20
"""What is copied at once to be searched: `bytes.find` is an order of magnitude faster than `mmap.find`."""
WALK_STEPS: Final = 128
"""A block with more hits than this is searched by whole arrays instead: a step takes 2 to 3 µs."""
DENSE_BYTES: Final = 64
"""Whole arrays are looked at once for each byte that is searched for; of longer ones there are fewer hits."""
WORD: Final = 8
BISECT_US: Final = 0.65
"""One step of a binary search in Python, and below: one text of all of them looked at by whole arrays."""
SCAN_US: Final = 0.03


class Texts(Sequence[bytes]):
    """data: u1; offsets: (n + 1,) u4 or u8, from 0, ascending, up to the length of data."""

    __slots__ = ("_bytes", "_ends", "data", "offsets")

    def __init__(self, data: NDArray[np.uint8], offsets: NDArray[Any]) -> None:
        self.data = data
        self.offsets = offsets
        # One item of a memoryview is had three times as fast as one of an array.
        self._bytes, self._ends = data.data, offsets.data

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, i: int) -> bytes: ...
    @overload
    def __getitem__(self, i: slice) -> list[bytes]: ...
    def __getitem__(self, i: int | slice) -> bytes | list[bytes]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        if not 0 <= i < len(self):  # bisect and iteration need no negative ones
            raise IndexError(i)
        return self._bytes[self._ends[i] : self._ends[i + 1]].tobytes()

    def place(self, text: bytes) -> int:
        """How many texts are smaller."""
        return bisect_left(self, text)

    def find(self, text: bytes) -> int:
        """Its number, or -1."""
        i = self.place(text)
        return i if i < len(self) and self[i] == text else -1

    def beginning(self, prefix: bytes) -> tuple[int, int]:
        """[first, last) of the texts that begin so."""
        if not prefix:
            return 0, len(self)
        # No byte of UTF-8 is 0xff, so one more than the last byte is a byte, and above all that begin with `prefix`.
        return self.place(prefix), self.place(prefix[:-1] + bytes([prefix[-1] + 1]))

    def find_all(self, texts: Sequence[bytes]) -> NDArray[np.intp]:
        """Numbers of those of the texts (each once) that are here, in no order."""
        if len(texts) * len(self).bit_length() * BISECT_US <= len(self) * SCAN_US:
            found = [i for text in texts if (i := self.find(text)) >= 0]
            return np.array(found, np.intp)
        return self._scan(texts)

    def _scan(self, texts: Sequence[bytes]) -> NDArray[np.intp]:
        """100,000 texts among 1,000,000: a print of every text by whole arrays leaves few to compare one by one."""
        ends = np.zeros(len(texts) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)), out=ends[1:])
        bits = max(16, (16 * len(texts)).bit_length())
        seen = np.zeros(1 << bits, np.bool_)
        seen[_prints(np.frombuffer(b"".join(texts), np.uint8), ends, bits)] = True
        wanted = frozenset(texts)
        found: list[int] = []
        step = 1 << 16
        for first in range(0, len(self), step):
            offsets = self.offsets[first : first + step + 1]
            likely = np.flatnonzero(seen[_prints(self.data, offsets, bits)])
            base = int(offsets[0])
            block = self.data[base : int(offsets[-1])].tobytes()
            starts, stops = (offsets[likely] - base).tolist(), (offsets[likely + 1] - base).tolist()
            numbers = (likely + first).tolist()
            found += [i for i, a, b in zip(numbers, starts, stops, strict=True) if block[a:b] in wanted]
        return np.array(found, np.intp)

    def containing(self, part: bytes) -> NDArray[np.intp]:
        """Numbers of the texts that have `part` in them, ascending."""
        if not part:
            return np.arange(len(self))
        found: list[NDArray[np.intp]] = []
        first, n = 0, len(self)
        while first < n:
            base = int(self.offsets[first])
            # A block ends with a text, and holds one text at least.
            end = min(base + BLOCK_BYTES, int(self.offsets[-1]))
            last = int(np.searchsorted(self.offsets, self.offsets.dtype.type(end), "right")) - 1
            last = min(max(last, first + 1), n)
            offsets = self.offsets[first : last + 1].astype(np.int64) - base
            found.append(_hits(self.data[base : base + int(offsets[-1])], offsets, part) + first)
            first = last
        return np.concatenate(found) if found else np.zeros(0, np.intp)


def _hits(data: NDArray[np.uint8], offsets: NDArray[np.int64], part: bytes) -> NDArray[np.intp]:
    """Numbers of the texts of one block that have `part` in them. Texts touch, so a hit may lie across two: none."""
    text, ends = data.tobytes(), offsets[1:]
    limit = WALK_STEPS if len(part) <= DENSE_BYTES else len(ends)
    found: list[int] = []
    at, steps = text.find(part), 0
    while at >= 0 and steps < limit:
        i = int(np.searchsorted(ends, at, "right"))
        if at + len(part) <= ends[i]:
            found.append(i)
        # Found or across: no later place in this text can say more. So there are at most as many steps as texts.
        at, steps = text.find(part, int(ends[i])), steps + 1
    return np.array(found, np.intp) if at < 0 else _dense_hits(data, offsets, part)


def _dense_hits(data: NDArray[np.uint8], offsets: NDArray[np.int64], part: bytes) -> NDArray[np.intp]:
    """The same at a cost that does not grow with the number of hits: about 1 ms a block."""
    places = len(data) - len(part) + 1
    here = data[:places] == part[0]
    for k in range(1, len(part)):
        here &= data[k : places + k] == part[k]
    # upto[j]: hits that begin before byte j. Those of a text begin from its start to a part's length before its end.
    upto = np.zeros(len(data) + 1, np.int32)
    np.cumsum(here, out=upto[1 : places + 1], dtype=np.int32)
    upto[places + 1 :] = upto[places]
    last = np.maximum(offsets[1:] - (len(part) - 1), offsets[:-1])
    return np.flatnonzero(upto[last] > upto[offsets[:-1]])


def _prints(data: NDArray[np.uint8], offsets: NDArray[Any], bits: int) -> NDArray[np.uint64]:
    """A number of so many bits for each text, made of its length, its first and its last eight bytes."""
    lengths = offsets[1:].astype(np.int64) - offsets[:-1].astype(np.int64)
    if not len(lengths):
        return np.zeros(0, np.uint64)
    base = int(offsets[0])
    padded = np.zeros(int(offsets[-1]) - base + 2 * WORD, np.uint8)
    padded[WORD:-WORD] = data[base : int(offsets[-1])]
    words = unaligned_words(padded, "<u8")
    starts = offsets[:-1].astype(np.int64) - base
    lack = (8 * np.maximum(WORD - lengths, 0)).astype(np.uint64)
    # Of a text shorter than a word, what belongs to its neighbours is shifted out (NumPy shifts by 64 to 0).
    head = words[starts + WORD] << lack
    tail = words[starts + lengths] >> lack
    mixed = (head * np.uint64(0x9E3779B97F4A7C15)) ^ (tail * np.uint64(0xC2B2AE3D27D4EB4F)) ^ lengths.astype(np.uint64)
    mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(0xD6E8FEB86659FD93)
    return np.asarray(mixed >> np.uint64(64 - bits))


def unaligned_words(data: NDArray[np.uint8], dtype: str) -> NDArray[np.uint64]:
    """The eight bytes from every byte of `data` on, as one number each: no copy."""
    return np.ndarray((len(data) - WORD + 1,), dtype, data.data, strides=(1,))


def texts_of(parts: Sequence[bytes]) -> Texts:
    """parts: ascending, each once."""
    if not parts:
        return NONE
    ends = np.zeros(len(parts) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)), out=ends[1:])
    return Texts(np.frombuffer(b"".join(parts), np.uint8), narrow_offsets(ends))


NONE: Final = Texts(np.zeros(0, np.uint8), np.zeros(1, np.uint32))


def narrow_offsets(ends: NDArray[np.int64]) -> NDArray[Any]:
    return ends.astype(np.uint32 if int(ends[-1]) < 1 << 32 else np.uint64)
