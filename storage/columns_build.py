"""Columns from rows of metadata: JSON in row order, a batch at a time, each value touched by C loops but for two.

1,000,000 rows of five fields, two of them all distinct, take about 2 s. Between batches a value takes its place (4
bytes) and itself (8 bytes, a string its bytes and 12), while building and until `finish` has gone by its path.
"""

from collections.abc import Callable, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from storage.columns_dictionary import Dictionary, Huge
from storage.columns_file import POOLS, SEPARATOR, TABLE_DTYPE, Columns, Entry
from storage.columns_gather import Gathered, Places, Scalars
from storage.columns_texts import Texts, narrow_offsets, texts_of
from storage.errors import Damaged

BATCH_ROWS: Final = 1 << 15
BATCH_BYTES: Final = 4 << 20
"""JSON that is decoded at once; as Python objects it takes about ten times as much."""
SPARSE_BELOW: Final = 16
"""A path that fewer than one row in so many has is kept as row numbers and codes: less to hold and to look at."""
ROWS_MAX: Final = (1 << 32) - 1

Parts = dict[str, tuple[list[Places], list[Sequence[Any]]]]


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
    dictionary, numbered = _dictionary(gathered)
    dtype = np.uint8 if dictionary.size <= 1 << 8 else np.uint16 if dictionary.size <= 1 << 16 else np.uint32
    e: dict[str, int] = {"codes_width": np.dtype(dtype).itemsize}
    places, codes = numbered(gathered.values, dtype)
    if sum(map(len, places)) * SPARSE_BELOW < rows:
        at = np.concatenate(places)
        order = np.argsort(at)
        e["rows_at"] = pools.put(at[order])
        row_codes = np.concatenate(codes)[order]
    else:
        row_codes = _laid_out(rows, places, codes, dtype)
    e["codes_at"], e["codes_n"] = pools.put(row_codes), len(row_codes)
    e["ints_at"], e["ints_n"] = pools.put(dictionary.ints), len(dictionary.ints)
    e["fractions_at"], e["fractions_n"] = pools.put(dictionary.fractions), len(dictionary.fractions)
    e["huge_low"] = dictionary.huge.low
    _put_texts("huge", dictionary.huge.texts, pools, e)
    _put_texts("strings", dictionary.strings, pools, e)
    if gathered.array_rows:
        _put_arrays(gathered, pools, e)
        elements = _laid_out(gathered.element_count, *numbered(gathered.elements, dtype), dtype)
        e["elements_at"], e["elements_n"] = pools.put(elements), len(elements)
    return Entry(**e)


def _put_texts(name: str, texts: Texts, pools: _Pools, e: dict[str, int]) -> None:
    if len(texts):
        e[f"{name}_n"], e[f"{name}_width"] = len(texts), texts.offsets.dtype.itemsize
        e[f"{name}_offsets_at"], e[f"{name}_text_at"] = pools.put(texts.offsets), pools.put(texts.data)


def _put_arrays(gathered: Gathered, pools: _Pools, e: dict[str, int]) -> None:
    rows, lengths = np.concatenate(gathered.array_rows), np.concatenate(gathered.array_lengths)
    ends = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    offsets = narrow_offsets(ends)
    e["array_rows_at"], e["arrays_n"] = pools.put(rows), len(rows)
    e["array_offsets_at"], e["arrays_width"] = pools.put(offsets), offsets.dtype.itemsize


def _laid_out(n: int, places: list[Places], codes: list[NDArray[Any]], dtype: type[np.unsignedinteger[Any]]) -> Any:
    out = np.zeros(n, dtype)
    for at, some in zip(places, codes, strict=True):
        out[at] = some
    return out


Numbered = Callable[[Scalars, Any], tuple[list[Places], list[NDArray[Any]]]]


def _dictionary(gathered: Gathered) -> tuple[Dictionary, Numbered]:
    """The path's dictionary, and what gives the codes of its values or of its elements."""
    both = (gathered.values, gathered.elements)
    ints, int_ranks = _distinct([payload for s in both for _, payload in s.ints], np.int64)
    fractions, fraction_ranks = _distinct([payload for s in both for _, payload in s.fractions], np.float64)
    huge = sorted({n for s in both for _, payload in s.huge for n in payload})
    strings, string_ranks = gathered.strings.finish()
    low = sum(n < 0 for n in huge)
    dictionary = Dictionary(ints, fractions, Huge(texts_of([b"%d" % n for n in huge]), low), strings)
    int_codes = dictionary.int_codes(np.arange(len(ints))).astype(np.uint32)
    fraction_codes = dictionary.fraction_codes(np.arange(len(fractions))).astype(np.uint32)
    huge_codes = dict(zip(huge, dictionary.huge_codes().tolist(), strict=True))
    next_int, next_fraction = iter(int_ranks), iter(fraction_ranks)

    def numbered(scalars: Scalars, dtype: Any) -> tuple[list[Places], list[NDArray[Any]]]:
        pairs: list[tuple[Places, NDArray[Any]]] = [(at, codes.astype(dtype)) for at, codes in scalars.special]
        pairs += [(at, int_codes[next(next_int)].astype(dtype)) for at, _ in scalars.ints]
        pairs += [(at, fraction_codes[next(next_fraction)].astype(dtype)) for at, _ in scalars.fractions]
        pairs += [(at, np.array([huge_codes[n] for n in some], dtype)) for at, some in scalars.huge]
        first = dictionary.first_string
        pairs += [(at, (string_ranks[numbers] + np.uint32(first)).astype(dtype)) for at, numbers in scalars.strings]
        return [at for at, _ in pairs], [codes for _, codes in pairs]

    return dictionary, numbered


def _distinct(parts: list[NDArray[Any]], dtype: Any) -> tuple[NDArray[Any], list[NDArray[np.intp]]]:
    """The distinct values, ascending, and of each part their ranks."""
    if not parts:
        return np.zeros(0, dtype), []
    values, ranks = np.unique(np.concatenate(parts), return_inverse=True)
    ends = np.cumsum([len(part) for part in parts])
    return values, np.split(ranks, ends[:-1])
