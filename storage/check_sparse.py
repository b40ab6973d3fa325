"""Do the sparse vectors of a segment hold together, and are its postings the same numbers by place?"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from seedvec.segment import Segment
from seedvec.sparse import Postings, SparseRows

PIECE: Final = 1 << 20
"""Numbers looked at at once."""
MIXERS: Final = tuple(np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64))


def sparse_faults(segment: Segment) -> Iterator[str]:
    """In words; none for a dense one. Reads every number twice."""
    rows, postings = segment.vectors, segment.postings
    if not isinstance(rows, SparseRows) or postings is None:
        return
    if not _are_edges(rows.indptr, rows.size):
        yield "the edges of its rows do not ascend from 0 to how many numbers there are"
        return
    if not _are_edges(postings.starts, rows.size):
        yield "the edges of its postings do not ascend from 0 to how many numbers there are"
        return
    if not _ascend(rows.indices, rows.indptr, rows.dimension):
        yield "the places of its numbers do not ascend within a row, or lie outside of its dimension"
    elif not _ascend(postings.terms, np.array([0, len(postings.terms)]), rows.dimension):
        yield "the terms of its postings do not ascend, or lie outside of its dimension"
    elif not _ascend(postings.rows, postings.starts, len(rows)):
        yield "the rows of its postings do not ascend within a term, or are none of its rows"
    elif _digest(_by_row(rows)) != _digest(_by_place(postings)):
        yield "its postings are not the numbers of its rows"


def _are_edges(edges: NDArray[np.int64], end: int) -> bool:
    return bool(edges[0] == 0 and edges[-1] == end and (np.diff(edges) >= 0).all())


def _ascend(numbers: NDArray[np.int32], edges: NDArray[np.int64], bound: int) -> bool:
    """Strictly from edge to edge, and all of them from 0 to below bound."""
    if not len(numbers):
        return True
    falls = np.flatnonzero(np.diff(numbers) <= 0) + 1
    first = np.zeros(len(numbers) + 1, bool)
    first[edges] = True
    return bool(first[falls].all() and numbers.min() >= 0 and numbers.max() < bound)


Entries = Iterator[tuple[NDArray[np.int64], NDArray[np.int32], NDArray[Any]]]
"""Rows, places and numbers, some at a time."""


def _by_row(rows: SparseRows) -> Entries:
    for begin in range(0, rows.size, PIECE):
        some = slice(begin, min(begin + PIECE, rows.size))
        yield _owners(rows.indptr, some), rows.indices[some], rows.values[some]


def _by_place(postings: Postings) -> Entries:
    for begin in range(0, len(postings.rows), PIECE):
        some = slice(begin, min(begin + PIECE, len(postings.rows)))
        terms = postings.terms[_owners(postings.starts, some)]
        yield postings.rows[some].astype(np.int64), terms, postings.values[some]


def _owners(edges: NDArray[np.int64], some: slice) -> NDArray[np.int64]:
    """Between which edges each number lies."""
    owners: NDArray[np.int64] = np.searchsorted(edges, np.arange(some.start, some.stop), side="right") - 1
    return owners


def _digest(entries: Entries) -> int:
    """The same for the same entries in any order, and for others by a chance of 2^-64."""
    total = 0
    for rows, places, values in entries:
        bits = values.view(f"u{values.itemsize}").astype(np.uint64)
        mixed = np.zeros(len(rows), np.uint64)
        for column, mixer in zip((rows.astype(np.uint64), places.astype(np.uint64), bits), MIXERS, strict=True):
            mixed = (mixed ^ column) * mixer
            mixed ^= mixed >> np.uint64(31)
        total = (total + int(mixed.sum(dtype=np.uint64))) % (1 << 64)
    return total
