"""What the builder keeps of one path while it reads rows: values by kind, in arrays, not yet numbered.

A batch of values that are all of one kind, the usual case, becomes one array at C speed.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from storage.columns_dictionary import ARRAY, FALSE, INT64_MAX, INT64_MIN, NULL, OBJECT, TRUE, split_ints
from storage.columns_order import sorted_texts
from storage.columns_texts import Texts

FEW_TEXTS: Final = 1 << 16
"""Distinct strings that are numbered by a dict in any case; beyond, as long as every other string is a repeat.
A dict takes 150 bytes an entry, and would not make a column of distinct strings smaller."""

TOGETHER: Final = 64
"""Pieces are put together when there are so many."""

Places = NDArray[np.uint32]
Piece = tuple[Places, NDArray[Any]]
Kind = Literal["special", "ints", "fractions", "huge", "strings"]
_SPECIAL: Final = {None: NULL, False: FALSE, True: TRUE}


class _Numbering(dict[str, int]):
    """Numbers strings as they come."""

    def __missing__(self, text: str) -> int:
        number = self[text] = len(self)
        return number


class Strings:
    """All strings of one path, each occurrence or each distinct one, in the order of coming."""

    __slots__ = ("_data", "_lengths", "_next", "_numbering", "_raw", "_seen")

    def __init__(self) -> None:
        self._numbering = _Numbering()
        self._data: list[bytes] = []
        self._lengths: list[NDArray[np.int64]] = []
        self._seen = 0
        self._raw = False
        self._next = 0

    def take(self, texts: list[str]) -> NDArray[np.uint32]:
        """Provisional numbers, to be put through `finish`'s ranks."""
        if not self._raw:
            numbers = np.fromiter(map(self._numbering.__getitem__, texts), np.uint32, len(texts))
            self._seen += len(texts)
            if len(self._numbering) > max(FEW_TEXTS, self._seen // 2):
                self._raw = True
                self._spill()
            return numbers
        first = self._next
        self._keep(texts)
        return np.arange(first, self._next, dtype=np.uint32)

    def finish(self) -> tuple[Texts, NDArray[np.uint32]]:
        """The distinct strings, ascending, and for each provisional number its rank among them."""
        if not self._raw:
            self._spill()
        data, self._data = b"".join(self._data), []
        lengths = np.concatenate(self._lengths)
        return sorted_texts(data, lengths)

    def _spill(self) -> None:
        self._keep(list(self._numbering))
        self._numbering = _Numbering()

    def _keep(self, texts: list[str]) -> None:
        joined = "".join(texts)
        data = joined.encode()
        lengths = map(len, texts) if len(data) == len(joined) else (len(text.encode()) for text in texts)
        self._data.append(data)
        self._lengths.append(np.fromiter(lengths, np.int64, len(texts)))
        self._next += len(texts)


class Pieces:
    """Pairs of places and payloads; small ones are put together, for an array of one number takes 120 bytes."""

    __slots__ = ("_few", "_many")

    def __init__(self) -> None:
        self._many: list[Piece] = []
        self._few: list[Piece] = []

    def add(self, places: Places, payload: NDArray[Any]) -> None:
        self._few.append((places, payload))
        if len(self._few) == TOGETHER:
            places, payload = (np.concatenate(parts) for parts in zip(*self._few, strict=True))
            self._many.append((places, payload))
            self._few.clear()

    def __iter__(self) -> Iterator[Piece]:
        return chain(self._many, self._few)


class Scalars:
    """Scalars and where they stand (row numbers, or numbers of elements), by kind."""

    __slots__ = ("_pieces", "_strings")

    def __init__(self, strings: Strings) -> None:
        self._strings = strings
        self._pieces: dict[Kind, Pieces] = {}

    def of(self, kind: Kind) -> Iterable[Piece]:
        """The payloads: codes (u1) of special, int64 of ints, float64 of fractions, Python's ints of huge, and of
        strings provisional numbers (u4)."""
        return self._pieces.get(kind, ())

    def take(self, kind: type, places: Places, values: list[Any]) -> None:
        """values: all of this Python type."""
        if kind is str:
            self._add("strings", places, self._strings.take(values))
        elif kind is int:
            self._take_ints(places, values)
        elif kind is float:
            self._take_floats(places, np.array(values, np.float64))
        elif kind is dict or kind is list:
            self._add("special", places, np.full(len(places), OBJECT if kind is dict else ARRAY, np.uint8))
        else:
            codes = np.fromiter(map(_SPECIAL.__getitem__, values), np.uint8, len(values))
            self._add("special", places, codes)

    def _take_ints(self, places: Places, values: list[int]) -> None:
        ints, huge = split_ints(values)
        if huge:
            small = np.fromiter((INT64_MIN <= value <= INT64_MAX for value in values), np.bool_, len(values))
            self._add("huge", places[~small], np.array(huge, object))
            places = places[small]
        self._add("ints", places, ints)

    def _take_floats(self, places: Places, values: NDArray[np.float64]) -> None:
        """A float of integral value is that int."""
        integral = values == np.floor(values)
        if integral.any():
            small = integral & (values >= -(2.0**63)) & (values < 2.0**63)
            beyond = integral & ~small
            self._add("ints", places[small], values[small].astype(np.int64))
            self._add("huge", places[beyond], np.array([int(v) for v in values[beyond].tolist()], object))
            places, values = places[~integral], values[~integral]
        self._add("fractions", places, values)

    def _add(self, kind: Kind, places: Places, payload: NDArray[Any]) -> None:
        if len(places):
            if kind not in self._pieces:
                self._pieces[kind] = Pieces()
            self._pieces[kind].add(places, payload)


class Gathered:
    """One path's values so far. Array elements are scalars of the same dictionary, numbered through in row order."""

    __slots__ = ("array_lengths", "element_count", "elements", "strings", "values")

    def __init__(self) -> None:
        self.strings = Strings()
        self.values = Scalars(self.strings)
        self.elements = Scalars(self.strings)
        self.array_lengths = Pieces()
        """With the arrays' rows."""
        self.element_count = 0

    def take(self, rows: Places, values: list[Any]) -> tuple[Places, list[dict[str, Any]]] | None:
        """rows: ascending, and above all that were taken before. Returns the objects among the values, if any."""
        objects = None
        for kind, at, some in _by_kind(rows, values):
            self.values.take(kind, at, some)
            if kind is list:
                self._take_arrays(at, some)
            elif kind is dict:
                objects = at, some
        return objects

    def _take_arrays(self, rows: Places, arrays: list[list[Any]]) -> None:
        lengths = np.fromiter(map(len, arrays), np.int64, len(arrays))
        elements = list(chain.from_iterable(arrays))
        first, self.element_count = self.element_count, self.element_count + len(elements)
        self.array_lengths.add(rows, lengths)
        for kind, at, some in _by_kind(np.arange(first, self.element_count, dtype=np.uint32), elements):
            self.elements.take(kind, at, some)


def _by_kind(places: Places, values: list[Any]) -> list[tuple[type, Places, list[Any]]]:
    kinds = set(map(type, values))
    if len(kinds) == 1:
        return [(kinds.pop(), places, values)]
    out = []
    for kind in kinds:
        at = [i for i, value in enumerate(values) if type(value) is kind]
        out.append((kind, places[at], [values[i] for i in at]))
    return out
