"""What the builder keeps of one path while it reads rows: values by kind, in arrays, not yet numbered.

A batch of values that are all of one kind, the usual case, becomes one array at C speed.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from storage.columns_dictionary import ARRAY, FALSE, INT64_MAX, INT64_MIN, NULL, OBJECT, TRUE, split_ints
from storage.columns_order import sorted_texts
from storage.columns_texts import Texts

FEW_TEXTS: Final = 1 << 16
"""Distinct strings that are numbered by a dict in any case; beyond, as long as every other string is a repeat.
A dict takes 150 bytes an entry, and would not make a column of distinct strings smaller."""

Places = NDArray[np.uint32]
_SPECIAL: Final = {None: NULL, False: FALSE, True: TRUE}


class _Numbering(dict[str, int]):
    """Numbers strings as they come."""

    def __missing__(self, text: str) -> int:
        number = self[text] = len(self)
        return number


class Strings:
    """All strings of one path, each occurrence or each distinct one, in the order of coming."""

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


class Scalars:
    """Scalars and where they stand (row numbers, or numbers of elements), by kind: pairs of places and payloads."""

    def __init__(self, strings: Strings) -> None:
        self._strings = strings
        self.special: list[tuple[Places, NDArray[np.uint8]]] = []
        self.ints: list[tuple[Places, NDArray[np.int64]]] = []
        self.fractions: list[tuple[Places, NDArray[np.float64]]] = []
        self.huge: list[tuple[Places, list[int]]] = []
        self.strings: list[tuple[Places, NDArray[np.uint32]]] = []

    def take(self, kind: type, places: Places, values: Sequence[Any]) -> None:
        """values: all of this kind."""
        if kind is str:
            self.strings.append((places, self._strings.take(list(values))))
        elif kind is int:
            self._take_ints(places, values)
        elif kind is float:
            self._take_floats(places, np.fromiter(values, np.float64, len(values)))
        elif kind is dict or kind is list:
            self.mark(places, OBJECT if kind is dict else ARRAY)
        else:
            codes = np.fromiter(map(_SPECIAL.__getitem__, values), np.uint8, len(values))
            self.special.append((places, codes))

    def mark(self, places: Places, code: int) -> None:
        self.special.append((places, np.full(len(places), code, np.uint8)))

    def _take_ints(self, places: Places, values: Sequence[int]) -> None:
        ints, huge = split_ints(values)
        if not huge:
            self.ints.append((places, ints))
            return
        small = np.fromiter((INT64_MIN <= value <= INT64_MAX for value in values), np.bool_, len(values))
        self.ints.append((places[small], ints))
        self.huge.append((places[~small], huge))

    def _take_floats(self, places: Places, values: NDArray[np.float64]) -> None:
        """A float of integral value is that int."""
        integral = values == np.floor(values)
        if not integral.any():
            self.fractions.append((places, values))
            return
        self.fractions.append((places[~integral], values[~integral]))
        places, values = places[integral], values[integral]
        small = (values >= -(2.0**63)) & (values < 2.0**63)
        self.ints.append((places[small], values[small].astype(np.int64)))
        if not small.all():
            self.huge.append((places[~small], [int(v) for v in values[~small].tolist()]))


class Gathered:
    """One path's values so far. Array elements are scalars of the same dictionary, numbered through in row order."""

    def __init__(self) -> None:
        self.strings = Strings()
        self.values = Scalars(self.strings)
        self.elements = Scalars(self.strings)
        self.array_rows: list[Places] = []
        self.array_lengths: list[NDArray[np.int64]] = []
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
        self.array_rows.append(rows)
        self.array_lengths.append(lengths)
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
