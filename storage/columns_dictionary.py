"""The distinct values of one path, in one order, and the code that each has.

    0 absent  1 null  2 false  3 true  4 an object  5 an array
    then numbers by value, exactly: huge negative ones; ints and fractions merged; huge positive ones
    then strings by code point

So whatever compares is a range of codes. The numbers are kept by kind (int64; float64 for what is not integral;
decimal text for what is integral and beyond int64), and a number's code follows from its rank in each kind.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, overload

import numpy as np
from numpy.typing import NDArray

from storage.columns_texts import Texts

ABSENT: Final = 0
NULL: Final = 1
FALSE: Final = 2
TRUE: Final = 3
OBJECT: Final = 4
ARRAY: Final = 5
FIRST_NUMBER: Final = 6
"""The codes from here on are the dictionary's values."""

INT64_MIN: Final = -(1 << 63)
INT64_MAX: Final = (1 << 63) - 1

Number = int | float


class Huge(Sequence[int]):
    """Integers beyond int64, ascending, kept as decimal texts. low: how many of them are negative."""

    __slots__ = ("low", "texts")

    def __init__(self, texts: Texts, low: int) -> None:
        self.texts = texts
        self.low = low

    def __len__(self) -> int:
        return len(self.texts)

    @overload
    def __getitem__(self, i: int) -> int: ...
    @overload
    def __getitem__(self, i: slice) -> list[int]: ...
    def __getitem__(self, i: int | slice) -> int | list[int]:
        return [int(text) for text in self.texts[i]] if isinstance(i, slice) else int(self.texts[i])


class Dictionary:
    """Numbers are asked for in the filters' normal form: an integral float as that int.

    ints: ascending int64; fractions: ascending float64, none integral; huge and strings: ascending. Each once.
    """

    __slots__ = ("first_string", "fractions", "huge", "ints", "size", "strings")

    def __init__(self, ints: NDArray[np.int64], fractions: NDArray[np.float64], huge: Huge, strings: Texts) -> None:
        self.ints = ints
        self.fractions = fractions
        self.huge = huge
        self.strings = strings
        self.first_string = FIRST_NUMBER + len(ints) + len(fractions) + len(huge)
        self.size = self.first_string + len(strings)
        """Codes lie below it."""

    def place(self, number: Number) -> int:
        """The first code of a number that is not smaller: `first_string` where there is none."""
        return (
            FIRST_NUMBER
            + int(np.searchsorted(self.ints, _least_int64(number)) if number <= INT64_MAX else len(self.ints))
            + int(np.searchsorted(self.fractions, _least_float64(number)))
            + (bisect_left(self.huge, number) if len(self.huge) else 0)
        )

    def has(self, number: Number) -> bool:
        if isinstance(number, float):
            return _holds(self.fractions, number)
        if INT64_MIN <= number <= INT64_MAX:
            return _holds(self.ints, number)
        i = bisect_left(self.huge, number)
        return i < len(self.huge) and self.huge[i] == number

    def below(self, number: Number) -> tuple[int, int]:
        """[first, last) code of the numbers smaller than this one."""
        return FIRST_NUMBER, self.place(number)

    def up_to(self, number: Number) -> tuple[int, int]:
        return FIRST_NUMBER, self.place(number) + self.has(number)

    def text_place(self, text: str) -> int:
        """The first code of a string that is not smaller: `size` where there is none."""
        return self.first_string + self.strings.place(text.encode())

    def has_text(self, text: str) -> bool:
        return self.strings.find(text.encode()) >= 0

    def beginning(self, prefix: str) -> tuple[int, int]:
        """[first, last) code of the strings that begin so."""
        first, last = self.strings.beginning(prefix.encode())
        return self.first_string + first, self.first_string + last

    def containing(self, part: str) -> NDArray[np.intp]:
        """Codes of the strings that have `part` in them, ascending."""
        return self.strings.containing(part.encode()) + self.first_string

    def codes_of_strings(self, texts: Sequence[str]) -> NDArray[np.intp]:
        """Codes of those of the texts (each once) that are here, in no order."""
        if not len(self.strings) or not texts:
            return np.zeros(0, np.intp)
        return self.strings.find_all([text.encode() for text in texts]) + self.first_string

    def codes_of_numbers(self, numbers: Sequence[Number]) -> NDArray[np.intp]:
        """Codes of those of the numbers (each once, integral ones as int) that are here, in no order."""
        ints, huge = split_ints([n for n in numbers if isinstance(n, int)])
        parts = [self.int_codes(_common(self.ints, ints))]
        if len(ints) + len(huge) < len(numbers):
            fractions = np.array([n for n in numbers if isinstance(n, float)], np.float64)
            parts.append(self.fraction_codes(_common(self.fractions, fractions)))
        if len(self.huge):
            parts.append(np.array([self.place(n) for n in huge if self.has(n)], np.intp))
        return np.concatenate(parts)

    def int_codes(self, ranks: NDArray[np.intp]) -> NDArray[np.intp]:
        """Codes of the ints of these ranks."""
        codes = ranks + (FIRST_NUMBER + self.huge.low)
        if len(self.fractions):
            # Fractions lie below 2^53, where ints beyond it are rounded to, at least: so their rounding is harmless.
            codes += np.searchsorted(self.fractions, self.ints[ranks].astype(np.float64))
        return codes

    def fraction_codes(self, ranks: NDArray[np.intp]) -> NDArray[np.intp]:
        codes = ranks + (FIRST_NUMBER + self.huge.low)
        if len(self.ints):
            codes += np.searchsorted(self.ints, np.ceil(self.fractions[ranks]).astype(np.int64))
        return codes

    def huge_codes(self) -> NDArray[np.intp]:
        """Codes of all huge numbers."""
        between = len(self.ints) + len(self.fractions)
        ranks = np.arange(len(self.huge))
        return ranks + np.where(ranks < self.huge.low, FIRST_NUMBER, FIRST_NUMBER + between)


def split_ints(values: Sequence[int]) -> tuple[NDArray[np.int64], list[int]]:
    """Those within int64 and those beyond, each in their order."""
    try:
        return np.array(values, np.int64), []
    except OverflowError:
        huge = [value for value in values if not INT64_MIN <= value <= INT64_MAX]
        return np.array([value for value in values if INT64_MIN <= value <= INT64_MAX], np.int64), huge


def _least_int64(number: Number) -> int:
    """The least int64 that is not smaller; number ≤ INT64_MAX."""
    return max(math.ceil(number), INT64_MIN)


def _least_float64(number: Number) -> float:
    """Stands among the fractions where the number does: all of them lie within ±2^53."""
    return float(max(min(number, 1 << 60), -(1 << 60)))


def _holds(values: NDArray[np.int64] | NDArray[np.float64], number: Number) -> bool:
    i = int(np.searchsorted(values, number))
    return i < len(values) and bool(values[i] == number)


def _common(
    values: NDArray[np.int64] | NDArray[np.float64], wanted: NDArray[np.int64] | NDArray[np.float64]
) -> NDArray[np.intp]:
    """Ranks in `values` of those wanted that are there; both of one dtype."""
    if not len(values) or not len(wanted):
        return np.zeros(0, np.intp)
    ranks = np.minimum(np.searchsorted(values, wanted), len(values) - 1)
    return np.asarray(ranks[values[ranks] == wanted])
