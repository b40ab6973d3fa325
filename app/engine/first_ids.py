"""Of many rows at the same distance, those whose ids come first: what `index/sparse.py` asks of rows whose ids it does
not know."""

import heapq
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.sparse import First
from seedvec.segment import Segment, StrIds


def of_ids(ids: list[Any]) -> First:
    """ids: of all rows."""
    return _by(lambda rows: [ids[row] for row in rows.tolist()])


def of_segment(file: Segment) -> First:
    ids = file.ids
    if isinstance(ids, StrIds):
        return _by(ids.ids_at)

    def first(rows: NDArray[np.int64], n: int) -> NDArray[np.int64]:
        return rows[np.argpartition(ids[rows], n - 1)[:n]]

    return first


def _by(ids_at: Callable[[NDArray[np.int64]], list[Any]]) -> First:
    def first(rows: NDArray[np.int64], n: int) -> NDArray[np.int64]:
        ids = ids_at(rows)
        return rows[heapq.nsmallest(n, range(len(ids)), key=ids.__getitem__)]

    return first
