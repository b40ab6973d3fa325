"""Many UTF-8 texts as one run of bytes with offsets: ascending, each once, and searched without making them objects.

The order is that of the bytes, which in UTF-8 is the order of the code points.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final, overload

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES: Final = 1 << 20
"""What is copied at once to be searched: `bytes.find` is an order of magnitude faster than `mmap.find`."""
BLOCK_TEXTS: Final = 1 << 16
WALK_STEPS: Final = 128
"""A block with more hits than this is searched by whole arrays instead: a step takes 2 to 3 µs."""
DENSE_BYTES: Final = 64
"""Whole arrays are looked at once for each byte that is searched for; of longer ones there are fewer hits."""
WORD: Final = 8
PRINT_BYTES: Final = 128
"""Of a longer text the middle is compared only once all else agrees."""
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
        """100,000 texts among 1,000,000: whole arrays of prints are compared, and the words of what seems the same."""
        asked = Words(b"".join(texts), lengths_of(texts))
        prints = asked.prints()
        order = np.argsort(prints)
        prints = prints[order]
        bits = np.uint64(64 - max(16, (16 * len(texts)).bit_length()))
        seen = np.zeros(1 << (64 - int(bits)), np.bool_)
        seen[prints >> bits] = True
        # Of different texts with one print the first is sought below, the others here.
        found = [np.array([self.find(texts[i]) for i in order[1:][prints[1:] == prints[:-1]].tolist()], np.intp)]
        for first, ends, data in self._blocks():
            here = Words(data.tobytes(), np.diff(ends))
            mine = here.prints()
            likely = np.flatnonzero(seen[mine >> bits])
            at = np.minimum(np.searchsorted(prints, mine[likely]), len(prints) - 1)
            same = prints[at] == mine[likely]
            likely, at = likely[same], order[at[same]]
            found.append(likely[here.equal(likely, asked, at)] + first)
        numbers = np.concatenate(found)
        return numbers[numbers >= 0]

    def containing(self, part: bytes) -> NDArray[np.intp]:
        """Numbers of the texts that have `part` in them, ascending."""
        if not part:
            return np.arange(len(self))
        found = [_hits(data, ends, part) + first for first, ends, data in self._blocks()]
        return np.concatenate(found) if found else np.zeros(0, np.intp)

    def _blocks(self) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.uint8]]]:
        """All texts in pieces of BLOCK_BYTES at most, or one text: its number, offsets and bytes."""
        first = 0
        while first < len(self):
            base = int(self.offsets[first])
            end = min(base + BLOCK_BYTES, int(self.offsets[-1]))
            last = int(np.searchsorted(self.offsets, self.offsets.dtype.type(end), "right")) - 1
            last = min(max(last, first + 1), first + BLOCK_TEXTS)
            ends = self.offsets[first : last + 1].astype(np.int64) - base
            yield first, ends, self.data[base : base + int(ends[-1])]
            first = last


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


class Words:
    """Joined texts, looked at eight bytes at a time. lengths: (n,) int64."""

    def __init__(self, data: bytes, lengths: NDArray[np.int64]) -> None:
        self._data = data
        padded = np.zeros(len(data) + WORD, np.uint8)
        padded[: len(data)] = np.frombuffer(data, np.uint8)
        # The eight bytes from every byte on, as one number each: no copy.
        self._words: NDArray[np.uint64] = np.ndarray((len(data) + 1,), ">u8", padded.data, strides=(1,))
        self._lengths = lengths
        self._starts = np.cumsum(lengths) - lengths

    def at(self, numbers: NDArray[np.intp], depth: int | NDArray[np.int64]) -> NDArray[np.uint64]:
        """Of each of these texts the bytes from `depth` on, the first the most significant; zeros behind its end."""
        at = np.minimum(self._starts[numbers] + depth, len(self._data))
        lack = (8 * (WORD - np.clip(self._lengths[numbers] - depth, 0, WORD))).astype(np.uint64)
        return np.asarray(self._words[at].astype(np.uint64) >> lack << lack)  # by 64 bits NumPy shifts to 0

    def prints(self) -> NDArray[np.uint64]:
        """A number for each text, made of its length, its first PRINT_BYTES and its last eight."""
        out = self._lengths.astype(np.uint64) * _ODD[0]
        longest = int(self._lengths.max(initial=0))
        numbers = np.arange(len(out))
        for depth in range(0, min(longest, PRINT_BYTES), WORD):
            numbers = numbers[self._lengths[numbers] > depth]
            out[numbers] = _mixed(out[numbers] ^ self.at(numbers, depth))
        if longest > PRINT_BYTES:
            numbers = numbers[self._lengths[numbers] > PRINT_BYTES]
            out[numbers] = _mixed(out[numbers] ^ self.at(numbers, self._lengths[numbers] - WORD))
        return out

    def equal(self, mine: NDArray[np.intp], other: "Words", theirs: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Whether the texts of each pair are the same."""
        out: NDArray[np.bool_] = self._lengths[mine] == other._lengths[theirs]
        for depth in range(0, PRINT_BYTES, WORD):
            pairs = np.flatnonzero(out & (self._lengths[mine] > depth))
            if not len(pairs):
                return out
            out[pairs] = self.at(mine[pairs], depth) == other.at(theirs[pairs], depth)
        for pair in np.flatnonzero(out & (self._lengths[mine] > PRINT_BYTES)).tolist():
            out[pair] = self._text(mine[pair]) == other._text(theirs[pair])
        return out

    def _text(self, number: int) -> bytes:
        start = int(self._starts[number])
        return self._data[start : start + int(self._lengths[number])]


_ODD: Final = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93))


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values *= _ODD[0]
    values ^= values >> np.uint64(32)
    values *= _ODD[1]
    return values


def lengths_of(texts: Collection[bytes]) -> NDArray[np.int64]:
    return np.fromiter(map(len, texts), np.int64, len(texts))


def texts_of(parts: Sequence[bytes]) -> Texts:
    """parts: ascending, each once."""
    if not parts:
        return NONE
    ends = np.zeros(len(parts) + 1, np.int64)
    np.cumsum(lengths_of(parts), out=ends[1:])
    return Texts(np.frombuffer(b"".join(parts), np.uint8), narrow_offsets(ends))


NONE: Final = Texts(np.zeros(0, np.uint8), np.zeros(1, np.uint32))


def narrow_offsets(ends: NDArray[np.int64]) -> NDArray[Any]:
    return ends.astype(np.uint32 if int(ends[-1]) < 1 << 32 else np.uint64)
