"""A filter against a segment's columns: one bitmap, made by passes over whole arrays.

Every leaf becomes a set of codes of its path's dictionary, mostly one range of them: two comparisons over the rows'
codes, whatever the values are.
"""

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from seedvec.filters.ast import (
    Among,
    And,
    Compare,
    Contains,
    Every,
    Exists,
    Filter,
    Node,
    Not,
    Or,
    Prefix,
    Size,
    Values,
)
from storage.columns import Arrays, Column, Columns
from storage.columns_dictionary import ABSENT, FALSE, NULL, TRUE, Dictionary

Mask = NDArray[np.bool_]
Range = tuple[int, int]
"""[first, last) of codes."""
Codes = Range | NDArray[np.intp]
"""What a leaf asks for: a range of codes, or some of them in no order."""

RANGE_COST: Final = 3
"""Looking for a range of codes, in comparisons with one code (0.07 ms for 1,000,000 codes of 4 bytes)."""
TABLE_COST: Final = 15
"""Looking every code up in a table, likewise."""
FEW_CODES: Final = 64
"""More are brought into order by the table."""
FEW_HITS: Final = 50
"""Where fewer than one element in so many hits, the arrays that hold them are looked up; else all are gone through."""
PAIRS_ABOVE: Final = 8
"""`$all` of more values counts pairs of array and value; of fewer, it asks for one after the other."""


def evaluate(filter: Filter, columns: Columns) -> Mask:
    """Which rows match: (rows,), a new array. Raises storage.columns.ColumnsFileError where the file is damaged."""
    return _node(filter.root, columns)


def _node(node: Node, columns: Columns) -> Mask:
    match node:
        case And(parts):
            return _all(parts, columns)
        case Or(parts):
            return _some(parts, columns)
        case Not(part):
            mask = _node(part, columns)
            return np.logical_not(mask, out=mask)
    column = columns.column(node.path)
    if column is None:
        return np.zeros(columns.rows, np.bool_)
    match node:
        case Exists():
            return _on_rows(column, column.codes != ABSENT)
        case Every(_, values):
            return _every(column, values)
        case Size(_, n):
            return _size(column, n)
        case Among(_, values):
            return _any(column, _codes_of(values, column.dictionary))
        case Compare():
            return _any(column, _compared(node, column.dictionary))
        case Prefix(_, text):
            return _any(column, column.dictionary.beginning(text))
        case Contains(_, text):
            return _any(column, column.dictionary.containing(text))


def _all(parts: Iterable[Node], columns: Columns) -> Mask:
    mask = np.ones(columns.rows, np.bool_)
    for i, part in enumerate(sorted(parts, key=_weight)):
        if not i:
            mask = _node(part, columns)
        else:
            mask &= _node(part, columns)
        if not mask.any():
            break
    return mask


def _some(parts: Iterable[Node], columns: Columns) -> Mask:
    mask = np.zeros(columns.rows, np.bool_)
    for i, part in enumerate(sorted(parts, key=_weight)):
        if not i:
            mask = _node(part, columns)
        else:
            mask |= _node(part, columns)
        if mask.all():
            break
    return mask


def _weight(node: Node) -> int:
    """What searches a whole dictionary comes last: what came before may have decided."""
    match node:
        case Contains():
            return 3
        case Among(_, values) | Every(_, values) if len(values.strings) + len(values.numbers) > 1000:
            return 2
        case And() | Or() | Not():
            return 1
    return 0


def _compared(node: Compare, d: Dictionary) -> Range:
    operand, below = node.operand, node.op in ("<", "<=")
    if isinstance(operand, str):
        first, last = d.first_string, d.size
        place = d.text_place(operand)
        at = place + (node.op in ("<=", ">") and d.has_text(operand))
    else:
        first, last = d.below(operand)[0], d.first_string
        at = d.up_to(operand)[1] if node.op in ("<=", ">") else d.place(operand)
    return (first, at) if below else (at, last)


def _codes_of(values: Values, d: Dictionary) -> NDArray[np.intp]:
    special = [code for code, wanted in ((NULL, values.null), (FALSE, values.false), (TRUE, values.true)) if wanted]
    numbers = d.codes_of_numbers(values.numbers) if values.numbers else np.zeros(0, np.intp)
    strings = d.codes_of_strings(values.strings) if values.strings else np.zeros(0, np.intp)
    return np.concatenate((np.array(special, np.intp), numbers, strings))


def _any(column: Column, wanted: Codes) -> Mask:
    """Rows whose value, or an element of it, has one of the codes."""
    ranges, table = _as_test(wanted, column.dictionary.size)
    mask = _on_rows(column, _tested(column.codes, ranges, table))
    if column.arrays is not None:
        _mark(mask, column.arrays, _arrays_with(column.arrays, _tested(column.arrays.codes, ranges, table)))
    return mask


def _on_rows(column: Column, mask: Mask) -> Mask:
    if column.at is None:
        return mask
    rows = np.zeros(column.rows, np.bool_)
    rows[column.at[mask]] = True
    return rows


def _as_test(wanted: Codes, size: int) -> tuple[list[Range], Mask | None]:
    """Ranges to compare with one by one, or a table with an entry for each code, whichever costs less."""
    if isinstance(wanted, tuple):
        return ([wanted] if wanted[0] < wanted[1] else []), None
    if len(wanted) <= FEW_CODES:
        ranges = _ranges(np.sort(wanted))
        return (ranges, None) if _cost(ranges) <= TABLE_COST else ([], _table(wanted, size))
    table = _table(wanted, size)
    edges = np.flatnonzero(table[1:] != table[:-1]) + 1  # code 0 is never wanted
    if len(edges) <= TABLE_COST:
        ends = [*edges.tolist(), size]
        ranges = list(zip(ends[0::2], ends[1::2], strict=False))
        if _cost(ranges) <= TABLE_COST:
            return ranges, None
    return [], table


def _ranges(codes: NDArray[np.intp]) -> list[Range]:
    """codes: ascending, each once."""
    if not len(codes):
        return []
    breaks = np.flatnonzero(np.diff(codes) != 1)
    firsts, lasts = codes[[0, *(breaks + 1)]].tolist(), codes[[*breaks, -1]].tolist()
    return [(first, last + 1) for first, last in zip(firsts, lasts, strict=True)]


def _cost(ranges: list[Range]) -> int:
    return sum(1 if last - first == 1 else RANGE_COST for first, last in ranges)


def _table(codes: NDArray[np.intp], size: int) -> Mask:
    table = np.zeros(size, np.bool_)
    table[codes] = True
    return table


def _tested(codes: NDArray[Any], ranges: list[Range], table: Mask | None) -> Mask:
    if table is not None:
        return np.take(table, codes)
    if not ranges:
        return np.zeros(len(codes), np.bool_)
    mask = _within(codes, *ranges[0])
    for wanted in ranges[1:]:
        mask |= _within(codes, *wanted)
    return mask


def _within(codes: NDArray[Any], first: int, last: int) -> Mask:
    """first < last ≤ the dictionary's size, so both fit the codes' type but for the last."""
    kind = codes.dtype.type
    if last - first == 1:
        return np.asarray(codes == kind(first))
    if first == 0:
        return np.asarray(codes <= kind(last - 1))
    # One comparison of a difference that wraps round: what is smaller than `first` becomes large.
    return np.asarray((codes - kind(first)) < kind(last - first))


def _arrays_with(arrays: Arrays, hits: Mask) -> Mask:
    """Which arrays hold an element that hits."""
    count = int(np.count_nonzero(hits))
    out = np.zeros(len(arrays.rows), np.bool_)
    if count * FEW_HITS < len(hits):
        if count:
            out[_owners(arrays, np.flatnonzero(hits))] = True
        return out
    upto = np.zeros(len(hits) + 1, np.uint32 if len(hits) < 1 << 32 else np.uint64)
    np.cumsum(hits, out=upto[1:], dtype=upto.dtype)
    at_ends = np.take(upto, arrays.offsets)
    return np.not_equal(at_ends[1:], at_ends[:-1], out=out)


def _owners(arrays: Arrays, elements: NDArray[np.intp]) -> NDArray[np.intp]:
    """The arrays that hold these elements."""
    return np.searchsorted(arrays.offsets[1:], elements.astype(arrays.offsets.dtype), "right")


def _mark(mask: Mask, arrays: Arrays, hit: Mask) -> None:
    """Adds the rows of those arrays to `mask`."""
    if len(arrays.rows) == len(mask):
        mask |= hit
    else:
        mask[arrays.rows[hit]] = True


def _every(column: Column, values: Values) -> Mask:
    rows = np.zeros(column.rows, np.bool_)
    arrays = column.arrays
    if arrays is None:
        return rows
    codes = _codes_of(values, column.dictionary)
    wanted = values.null + values.false + values.true + len(values.numbers) + len(values.strings)
    if len(codes) < wanted:
        return rows
    if wanted > PAIRS_ABOVE:
        hit = _holding_all(arrays, codes, column.dictionary.size)
    else:
        hit = np.ones(len(arrays.rows), np.bool_)
        for code in codes.tolist():
            hit &= _arrays_with(arrays, _within(arrays.codes, code, code + 1))
    _mark(rows, arrays, hit)
    return rows


def _holding_all(arrays: Arrays, codes: NDArray[np.intp], size: int) -> Mask:
    elements = np.flatnonzero(np.take(_table(codes, size), arrays.codes))
    pairs = np.unique(_owners(arrays, elements) * size + arrays.codes[elements].astype(np.intp))
    return np.asarray(np.bincount(pairs // size, minlength=len(arrays.rows)) == len(codes))


def _size(column: Column, n: int) -> Mask:
    rows = np.zeros(column.rows, np.bool_)
    if column.arrays is not None:
        offsets = column.arrays.offsets
        # An array never has as many elements as its offsets' type can count.
        n = min(n, int(np.iinfo(offsets.dtype).max))
        _mark(rows, column.arrays, offsets[1:] - offsets[:-1] == offsets.dtype.type(n))
    return rows
