"""Columns from rows of metadata: JSON in row order, a batch at a time, each value touched by C loops but for two.

1,000,000 rows of five fields, two of them all distinct, take about 2 s. Between batches a value takes its place (4
bytes) and itself (8 bytes, a string its bytes and 12), while building and until `finish` has gone by its path.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from storage.columns_dictionary import Dictionary, Huge
from storage.columns_file import POOLS, SEPARATOR, TABLE_DTYPE, Columns, Entry
from storage.columns_gather import Gathered, Kind, Piece, Places, Scalars
from storage.columns_texts import Texts, narrow_offsets, texts_of
from storage.errors import Damaged

BATCH_ROWS: Final = 1 << 11
"""Rows decoded at once: few enough that their objects stay in the processor's cache (32,768: 2.8 µs a row, not 1.7)."""
BATCH_BYTES: Final = 4 << 20
"""JSON that is decoded at once; as Python objects it takes about ten times as much."""
SPARSE_BELOW: Final = 16
"""A path that fewer than one row in so many has is kept as row numbers and codes: less to hold and to look at."""
ROWS_MAX: Final = (1 << 32) - 1

Parts = dict[str, tuple[list[Places], list[Sequence[Any]]]]


def columns_of(documents: Sequence[bytes | None]) -> Columns:
    """documents: a row's JSON object in UTF-8, or None. Raises Damaged where it is not."""
    builder = ColumnsBuilder(len(documents))
    builder.add(documents)
    return builder.finish()


class ColumnsBuilder:
    """`add` any number of times, then `finish` once. rows: how many must have come by then, where that is known."""

    def __init__(self, rows: int | None = None) -> None:
        self._expected = rows
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder().decode  # integers stay exact, unlike in orjson
        self._waiting: list[bytes | None] = []
        self._waiting_bytes = 0
        self._rows = 0
        self._paths: dict[str, Gathered] = {}

    def add(self, docs: Sequence[bytes | None]) -> None:
        """The metadata of the next rows: each a JSON object in UTF-8, or None. Raises Damaged where it is not."""
        ends = np.cumsum([0, *(0 if doc is None else len(doc) for doc in docs)])
        first = 0
        while first < len(docs):
            room = BATCH_BYTES - self._waiting_bytes
            last = int(np.searchsorted(ends, int(ends[first]) + room, "right")) - 1
            last = min(max(last, first + 1), first + BATCH_ROWS - len(self._waiting))
            self._waiting += docs[first:last]
            self._waiting_bytes += int(ends[last] - ends[first])
            if len(self._waiting) >= BATCH_ROWS or self._waiting_bytes >= BATCH_BYTES:
                self._take()
            first = last

    def finish(self) -> Columns:
        """Raises Damaged; ValueError where not as many rows came as were announced."""
        self._take()
        if self._expected not in (None, self._rows):
            raise ValueError(f"{self._rows} rows came, not {self._expected}")
        pools = _Pools()
        names = sorted(self._paths, key=str.encode)
        table = np.zeros(len(names), TABLE_DTYPE)
        for i, name in enumerate(names):
            table[i] = tuple(_column(self._paths.pop(name), self._rows, pools))
        return Columns(self._rows, texts_of([name.encode() for name in names]), table, pools.joined())

    def _take(self) -> None:
        first, docs = self._rows, self._waiting
        self._rows += len(docs)
        if self._rows > ROWS_MAX:
            raise ValueError(f"a segment has at most {ROWS_MAX} rows")
        self._waiting, self._waiting_bytes = [], 0
        rows = np.fromiter((i for i, doc in enumerate(docs, first) if doc is not None), np.uint32)
        try:
            objects = [self._decode(doc) for doc in docs if doc is not None]
        except msgspec.DecodeError as e:
            raise Damaged(f"metadata of rows {first} to {self._rows} is no JSON: {e}") from e
        if not set(map(type, objects)) <= {dict}:
            raise Damaged(f"metadata of rows {first} to {self._rows} is no JSON object")
        level = [("", rows, objects)]
        while level:
            parts: Parts = {}
            for prefix, at, some in level:
                _spread(prefix, at, some, parts)
            level = []
            for path, (places, values) in parts.items():
                gathered = self._paths.setdefault(path, Gathered()) if path not in self._paths else self._paths[path]
                nested = gathered.take(*_in_row_order(places, values))
                if nested is not None:
                    level.append((path + SEPARATOR, *nested))


def _spread(prefix: str, rows: Places, objects: list[dict[str, Any]], parts: Parts) -> None:
    """Turns objects into columns. Objects of the same keys go together: a field then costs 30 ns a row."""
    shapes = list(map(tuple, objects))
    if shapes and shapes.count(shapes[0]) == len(shapes):
        groups = {shapes[0]: (rows, objects)}
    else:
        numbers: dict[tuple[str, ...], list[int]] = {}
        for i, shape in enumerate(shapes):
            numbers.setdefault(shape, []).append(i)
        groups = {shape: (rows[at], [objects[i] for i in at]) for shape, at in numbers.items()}
    for shape, (at, some) in groups.items():
        for key in shape:
            if SEPARATOR in key:
                continue  # no filter can name it: what it reads as is another path
            places, values = parts.setdefault(prefix + key, ([], []))
            places.append(at)
            values.append(list(map(itemgetter(key), some)))


def _in_row_order(places: list[Places], values: list[Sequence[Any]]) -> tuple[Places, list[Any]]:
    if len(places) == 1:
        return places[0], list(values[0])
    rows, flat = np.concatenate(places), list(chain.from_iterable(values))
    order = np.argsort(rows)
    return rows[order], [flat[i] for i in order.tolist()]


class _Pools:
    """Arrays of each type, one behind the other."""

    def __init__(self) -> None:
        self._parts: dict[str, list[NDArray[Any]]] = {name: [] for name in POOLS}
        self._lengths = dict.fromkeys(POOLS, 0)

    def put(self, array: NDArray[Any]) -> int:
        """Returns where it begins in the pool of its type."""
        name = f"{'u' if array.dtype.kind == 'u' else array.dtype.kind}{array.dtype.itemsize}"
        at = self._lengths[name]
        if len(array):
            self._parts[name].append(array)
            self._lengths[name] += len(array)
        return at

    def joined(self) -> dict[str, NDArray[Any]]:
        return {name: np.concatenate([np.zeros(0, POOLS[name]), *self._parts.pop(name)]) for name in POOLS}


def _column(gathered: Gathered, rows: int, pools: _Pools) -> Entry:
    numbers = _Numbers(gathered)
    dictionary, dtype = numbers.dictionary, numbers.dtype
    e = {"codes_width": dtype.itemsize, "huge_low": dictionary.huge.low}
    pieces = numbers.codes(gathered.values)
    if sum(len(places) for places, _ in pieces) * SPARSE_BELOW < rows:
        at, codes = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
        order = np.argsort(at)
        e["rows_at"] = pools.put(at[order])
        row_codes = codes[order]
    else:
        row_codes = _laid_out(rows, pieces, dtype)
    e["codes_at"], e["codes_n"] = pools.put(row_codes), len(row_codes)
    e["ints_at"], e["ints_n"] = pools.put(dictionary.ints), len(dictionary.ints)
    e["fractions_at"], e["fractions_n"] = pools.put(dictionary.fractions), len(dictionary.fractions)
    _put_texts("huge", dictionary.huge.texts, pools, e)
    _put_texts("strings", dictionary.strings, pools, e)
    if arrays := list(gathered.array_lengths):
        _put_arrays(arrays, pools, e)
        elements = _laid_out(gathered.element_count, numbers.codes(gathered.elements), dtype)
        e["elements_at"], e["elements_n"] = pools.put(elements), len(elements)
    return Entry(**e)


def _put_texts(name: str, texts: Texts, pools: _Pools, e: dict[str, int]) -> None:
    if len(texts):
        e[f"{name}_n"], e[f"{name}_width"] = len(texts), texts.offsets.dtype.itemsize
        e[f"{name}_offsets_at"], e[f"{name}_text_at"] = pools.put(texts.offsets), pools.put(texts.data)


def _put_arrays(arrays: list[Piece], pools: _Pools, e: dict[str, int]) -> None:
    rows, lengths = (np.concatenate(parts) for parts in zip(*arrays, strict=True))
    ends = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    offsets = narrow_offsets(ends)
    e["array_rows_at"], e["arrays_n"] = pools.put(rows), len(rows)
    e["array_offsets_at"], e["arrays_width"] = pools.put(offsets), offsets.dtype.itemsize


def _laid_out(n: int, pieces: list[Piece], dtype: np.dtype[Any]) -> NDArray[Any]:
    out = np.zeros(n, dtype)
    for places, codes in pieces:
        out[places] = codes
    return out


class _Numbers:
    """A path's dictionary, and the codes of what was gathered: of its values first, then of its elements."""

    def __init__(self, gathered: Gathered) -> None:
        self._both = (gathered.values, gathered.elements)
        ints, self._int_ranks = self._distinct("ints", np.int64)
        fractions, self._fraction_ranks = self._distinct("fractions", np.float64)
        huge = sorted({number for s in self._both for _, numbers in s.of("huge") for number in numbers.tolist()})
        strings, self._string_ranks = gathered.strings.finish()
        huge_texts = texts_of([b"%d" % number for number in huge])
        self.dictionary = d = Dictionary(ints, fractions, Huge(huge_texts, sum(n < 0 for n in huge)), strings)
        self.dtype = np.dtype(np.uint8 if d.size <= 1 << 8 else np.uint16 if d.size <= 1 << 16 else np.uint32)
        self._int_codes = d.int_codes(np.arange(len(ints))).astype(self.dtype)
        self._fraction_codes = d.fraction_codes(np.arange(len(fractions))).astype(self.dtype)
        self._huge_codes = dict(zip(huge, d.huge_codes().tolist(), strict=True)) if huge else {}

    def codes(self, scalars: Scalars) -> list[Piece]:
        """Called once for the values, then once for the elements: the ranks are taken in that order."""
        pieces: list[Piece] = [(at, codes.astype(self.dtype)) for at, codes in scalars.of("special")]
        pieces += [(at, self._int_codes[next(self._int_ranks)]) for at, _ in scalars.of("ints")]
        pieces += [(at, self._fraction_codes[next(self._fraction_ranks)]) for at, _ in scalars.of("fractions")]
        for at, huge in scalars.of("huge"):
            pieces.append((at, np.array([self._huge_codes[number] for number in huge.tolist()], self.dtype)))
        for at, numbers in scalars.of("strings"):
            codes = self._string_ranks[numbers] + np.uint32(self.dictionary.first_string)
            pieces.append((at, codes.astype(self.dtype)))
        return pieces

    def _distinct(self, kind: Kind, dtype: Any) -> tuple[NDArray[Any], Iterator[NDArray[np.intp]]]:
        """The distinct values, ascending, and piece by piece the ranks of all."""
        payloads = [payload for scalars in self._both for _, payload in scalars.of(kind)]
        if not payloads:
            return np.zeros(0, dtype), iter(())
        values, ranks = np.unique(np.concatenate(payloads), return_inverse=True)
        return values, iter(np.split(ranks, np.cumsum([len(payload) for payload in payloads])[:-1]))
