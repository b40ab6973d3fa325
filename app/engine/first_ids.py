"""Of many rows at the same distance, those whose ids come first: what `index/sparse.py` asks of rows whose ids it does
not know."""

import heapq
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.sparse import First
from seedvec.segment import Segment, StrIds

FEW = 100
"""Decoded and compared by Python."""


def of_ids(ids: list[Any]) -> First:
    """ids: of all rows."""
    return _by(lambda rows: [ids[row] for row in rows.tolist()])


def of_segment(file: Segment) -> First:
    ids = file.ids
    if isinstance(ids, StrIds):
        return _of_texts(ids)

    def first(rows: NDArray[np.int64], n: int) -> NDArray[np.int64]:
        return rows[np.argpartition(ids[rows], n - 1)[:n]]

    return first


def _of_texts(ids: StrIds) -> First:
    """Eight bytes at a time, of those that are not told apart yet: decoding each of a million ids takes a second."""
    few = _by(ids.ids_at)

    def first(rows: NDArray[np.int64], n: int) -> NDArray[np.int64]:
        chosen, start = [], 0
        while n and len(rows) > max(n, FEW):
            words = ids.words_at(rows, start)
            nth = np.partition(words, n - 1)[n - 1]
            before = words < nth
            chosen.append(rows[before])
            n -= int(np.count_nonzero(before))
            rows, start = rows[words == nth], start + 8
        return np.concatenate([*chosen, few(rows, n)])

    return first


def _by(ids_at: Callable[[NDArray[np.int64]], list[Any]]) -> First:
    def first(rows: NDArray[np.int64], n: int) -> NDArray[np.int64]:
        ids = ids_at(rows)
        return rows[heapq.nsmallest(n, range(len(ids)), key=ids.__getitem__)]

    return first
