"""The typed columns of a segment's metadata: one file a segment, derived, opened by a mapping and parsed never.

docs/formats.md ("Columns") specifies the file. In memory and mapped they are the same: a table of paths, and six
pools of numbers that the table points into.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from storage.columns_dictionary import Dictionary, Huge
from storage.columns_npz import NotAligned, map_arrays, write_arrays
from storage.columns_texts import Texts
from storage.errors import Damaged
from storage.hashing import file_xxh3

MAGIC: Final = 0x6C6F635F64656573
"""The ASCII bytes "seed_col"."""
VERSION: Final = 1
SEPARATOR: Final = "."
"""Joins the keys of a path: no key holds it."""


class ColumnsFileError(Damaged):
    """The file is no sound columns file: make it anew from the catalogue's metadata."""


class Entry(NamedTuple):
    """Where the parts of one path's column lie. `_at`: the first number, in the pool of its type; `_n`: how many.

    Offsets (n + 1 of them) are u4 or u8, as their `_width` says; codes are u1, u2 or u4.
    """

    rows_at: int = -1
    """u4: the rows that have the path, ascending; -1: the codes are those of all rows."""
    codes_width: int = 1
    codes_at: int = 0
    codes_n: int = 0
    ints_at: int = 0
    ints_n: int = 0
    fractions_at: int = 0
    fractions_n: int = 0
    huge_low: int = 0
    """How many of the huge integers are negative."""
    huge_n: int = 0
    huge_width: int = 4
    huge_offsets_at: int = 0
    huge_text_at: int = 0
    strings_n: int = 0
    strings_width: int = 4
    strings_offsets_at: int = 0
    strings_text_at: int = 0
    array_rows_at: int = 0
    """u4: the rows that hold an array, ascending."""
    arrays_n: int = 0
    arrays_width: int = 4
    array_offsets_at: int = 0
    """Into the elements: array i has those from offset i up to offset i + 1."""
    elements_at: int = 0
    """Codes, as wide as the rows' own."""
    elements_n: int = 0


TABLE_DTYPE: Final = np.dtype([(name, "<i8") for name in Entry._fields])
POOLS: Final = {"u1": "|u1", "u2": "<u2", "u4": "<u4", "u8": "<u8", "i8": "<i8", "f8": "<f8"}
_UNSIGNED: Final = {1: "u1", 2: "u2", 4: "u4", 8: "u8"}
_MEMBERS: Final[dict[str, np.dtype[Any]]] = {
    "head": np.dtype("<u8"),
    "path_text": np.dtype("|u1"),
    "path_offsets": np.dtype("<u8"),
    "table": TABLE_DTYPE,
    **{f"pool_{name}": np.dtype(dtype) for name, dtype in POOLS.items()},
}


@dataclass(frozen=True, slots=True)
class Arrays:
    """rows: (a,) u4 ascending; offsets: (a + 1,) into codes; codes: one for each element, of the path's dictionary."""

    rows: NDArray[np.uint32]
    offsets: NDArray[Any]
    codes: NDArray[Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One path. codes: (rows,), or, where `at` says which rows they are of (u4, ascending; others have it not), fewer.

    Codes are those of `columns_dictionary`.
    """

    rows: int
    at: NDArray[np.uint32] | None
    codes: NDArray[Any]
    dictionary: Dictionary
    arrays: Arrays | None


class Columns:
    """Immutable. rows: of the segment; nbytes: of all arrays, in memory or mapped."""

    def __init__(self, rows: int, paths: Texts, table: NDArray[Any], pools: dict[str, NDArray[Any]]) -> None:
        self.rows = rows
        self._paths = paths
        self._table = table
        self._pools = pools
        self._opened: dict[tuple[str, ...], Column] = {}

    @property
    def nbytes(self) -> int:
        pools = sum(pool.nbytes for pool in self._pools.values())
        return pools + self._table.nbytes + self._paths.data.nbytes + self._paths.offsets.nbytes

    @property
    def path_count(self) -> int:
        return len(self._paths)

    def paths(self) -> Iterator[tuple[str, ...]]:
        """All paths that any row has, by code point of their joined keys."""
        return (tuple(path.decode(errors="replace").split(SEPARATOR)) for path in self._paths)

    def column(self, path: tuple[str, ...]) -> Column | None:
        """None where no row has the path. Raises ColumnsFileError where what the file says of it cannot be."""
        known = self._opened.get(path)
        if known is None:
            i = self._paths.find(SEPARATOR.join(path).encode()) if path else -1
            if i < 0:
                return None
            known = self._column(Entry(*self._table[i].item()))
            _check_column(known)
            self._opened[path] = known
        return known

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The members of the file, by name."""
        head = np.array([MAGIC, VERSION, self.rows], "<u8")
        pools = {f"pool_{name}": pool for name, pool in self._pools.items()}
        offsets = self._paths.offsets.astype("<u8", copy=False)
        return {"head": head, "path_text": self._paths.data, "path_offsets": offsets, "table": self._table, **pools}

    def _column(self, e: Entry) -> Column:
        codes = self._pools[_UNSIGNED[e.codes_width]]
        at = None if e.rows_at < 0 else self._pools["u4"][e.rows_at : e.rows_at + e.codes_n]
        arrays = None
        if e.arrays_n:
            arrays = Arrays(
                self._pools["u4"][e.array_rows_at : e.array_rows_at + e.arrays_n],
                self._offsets(e.arrays_width, e.array_offsets_at, e.arrays_n),
                codes[e.elements_at : e.elements_at + e.elements_n],
            )
        dictionary = Dictionary(
            self._pools["i8"][e.ints_at : e.ints_at + e.ints_n],
            self._pools["f8"][e.fractions_at : e.fractions_at + e.fractions_n],
            Huge(self._texts(e.huge_n, e.huge_width, e.huge_offsets_at, e.huge_text_at), e.huge_low),
            self._texts(e.strings_n, e.strings_width, e.strings_offsets_at, e.strings_text_at),
        )
        return Column(self.rows, at, codes[e.codes_at : e.codes_at + e.codes_n], dictionary, arrays)

    def _offsets(self, width: int, at: int, n: int) -> NDArray[Any]:
        return self._pools[_UNSIGNED[width]][at : at + n + 1]

    def _texts(self, n: int, width: int, offsets_at: int, text_at: int) -> Texts:
        offsets = self._offsets(width, offsets_at, n) if n else np.zeros(1, np.uint32)
        return Texts(self._pools["u1"][text_at : text_at + int(offsets[-1])], offsets)


def write(path: Path, columns: Columns) -> tuple[int, int]:
    """Length and xxh3 of the file written. Raises OSError; the caller syncs and renames."""
    write_arrays(path, columns.arrays())
    return file_xxh3(path)


def open_columns(path: Path) -> Columns:
    """Maps the file. Raises OSError, and ColumnsFileError for what is no sound columns file.

    The table is checked here, the inside of a column when it is first asked for; a flipped bit that leaves all of it
    plausible is for the checksum in the catalogue to find.
    """
    try:
        arrays = map_arrays(path, _MEMBERS)
    except (NotAligned, ValueError) as e:
        raise ColumnsFileError(f"{path.name}: {e}") from e
    head = arrays["head"].tolist()
    if len(head) != 3 or head[0] != MAGIC or head[1] != VERSION:
        raise ColumnsFileError(f"{path.name}: not a columns file of version {VERSION}")
    paths = Texts(arrays["path_text"], arrays["path_offsets"])
    pools = {name: arrays[f"pool_{name}"] for name in POOLS}
    if not _sound_texts(paths) or len(paths) != len(arrays["table"]):
        raise ColumnsFileError(f"{path.name}: the list of paths is damaged")
    if not _sound_table(arrays["table"], head[2], {name: len(pool) for name, pool in pools.items()}):
        raise ColumnsFileError(f"{path.name}: the table of paths is damaged")
    return Columns(head[2], paths, arrays["table"], pools)


def check(columns: Columns) -> None:
    """Looks into every column, as `column` does when it is first asked for one. Raises ColumnsFileError."""
    previous = b""
    for i, path in enumerate(columns._paths):
        if i and path <= previous:
            raise ColumnsFileError("the paths are not in order")
        previous = path
        _check_column(columns._column(Entry(*columns._table[i].item())))


def _sound_table(table: NDArray[Any], rows: int, pools: dict[str, int]) -> bool:
    """Every part of every column lies within its pool."""
    if not len(table):
        return True

    def within(at: str, n: NDArray[np.int64], pool: str | None = None, width: str = "") -> bool:
        limit = np.full(len(table), pools[pool]) if pool else np.zeros(len(table), np.int64)
        for w, name in _UNSIGNED.items() if not pool else ():
            limit[table[width] == w] = pools[name]
        # An empty part lies anywhere. No sum here overflows: both are checked to lie within the pool.
        return bool(((n == 0) | ((table[at] >= 0) & (n <= limit) & (table[at] <= limit - n))).all())

    counts = [name for name in Entry._fields if name.endswith("_n")]
    dense = table["rows_at"] == -1
    return (
        all(bool((table[name] >= 0).all()) for name in counts)
        and bool(np.isin(table["codes_width"], (1, 2, 4)).all())
        and all(bool(np.isin(table[f"{part}_width"], (4, 8)).all()) for part in ("huge", "strings", "arrays"))
        and bool(np.where(dense, table["codes_n"] == rows, table["codes_n"] <= rows).all())
        and bool(((table["huge_low"] >= 0) & (table["huge_low"] <= table["huge_n"])).all())
        and within("rows_at", np.where(dense, 0, table["codes_n"]), "u4")
        and within("codes_at", table["codes_n"], width="codes_width")
        and within("ints_at", table["ints_n"], "i8")
        and within("fractions_at", table["fractions_n"], "f8")
        and within("huge_offsets_at", _with_end(table["huge_n"]), width="huge_width")
        and within("strings_offsets_at", _with_end(table["strings_n"]), width="strings_width")
        and within("array_rows_at", table["arrays_n"], "u4")
        and within("array_offsets_at", _with_end(table["arrays_n"]), width="arrays_width")
        and within("elements_at", table["elements_n"], width="codes_width")
        and bool(((table["huge_text_at"] >= 0) & (table["strings_text_at"] >= 0)).all())
    )


def _with_end(n: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many offsets n parts have: an end more than parts, but none where there are none."""
    return n + (n > 0)


def _check_column(column: Column) -> None:
    d = column.dictionary
    sound = (
        _below(column.codes, d.size)
        and (column.at is None or (_ascending(column.at) and _below(column.at, column.rows)))
        and _ascending(d.ints)
        and _ascending(d.fractions)
        and _sound_huge(d.huge)
        and _sound_texts(d.strings)
    )
    if sound and column.arrays is not None:
        a = column.arrays
        sound = _ascending(a.rows) and _below(a.rows, column.rows) and _below(a.codes, d.size)
        sound = sound and _sound_offsets(a.offsets, len(a.codes))
    if not sound:
        raise ColumnsFileError("a column's parts do not fit together")


def _sound_huge(huge: Huge) -> bool:
    """They can be read as numbers: digits, and before the negative ones, which come first, a sign."""
    if not _sound_texts(huge.texts):
        return False
    data, starts = huge.texts.data, huge.texts.offsets[:-1].astype(np.int64)
    digits = (data >= ord("0")) & (data <= ord("9"))
    return (
        np.array_equal(np.flatnonzero(~digits), starts[: huge.low])
        and bool((data[starts[: huge.low]] == ord("-")).all())
        and bool((np.diff(huge.texts.offsets.astype(np.int64)) > len("-1")).all())
    )


def _sound_texts(texts: Texts) -> bool:
    return _sound_offsets(texts.offsets, len(texts.data))


def _sound_offsets(offsets: NDArray[Any], end: int) -> bool:
    if not len(offsets) or int(offsets[0]) != 0 or int(offsets[-1]) != end:
        return False
    return bool((offsets[1:] >= offsets[:-1]).all())


def _ascending(values: NDArray[Any]) -> bool:
    return bool((values[1:] > values[:-1]).all())


def _below(values: NDArray[Any], bound: int) -> bool:
    return not len(values) or int(values.max()) < bound
