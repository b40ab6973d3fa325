"""Sparse rows for the tests, and what must come of them by float64 arithmetic over dense ones."""

from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from index.sparse import SparseVectors
from seedvec.sparse import Postings, SparseRows, offsets


def drawn(seed: int, n: int, dimension: int, most: int, dtype: Any = np.float32, least: int = 0) -> SparseRows:
    """n rows of at most `most` numbers each, and of one where `least` is 1."""
    rng = np.random.default_rng(seed)
    places = [np.unique(rng.integers(0, dimension, length)) for length in rng.integers(least, most + 1, n)]
    indices = np.concatenate([*places, np.empty(0)]).astype(np.int32)
    lengths = np.array([len(some) for some in places], np.int64)
    return SparseRows(offsets(lengths), indices, rng.standard_normal(len(indices)).astype(dtype), dimension)


def postings(rows: SparseRows) -> Postings:
    """As plainly as can be."""
    order = np.argsort(rows.indices, kind="stable")
    terms, counts = np.unique(rows.indices, return_counts=True)
    return Postings(terms, offsets(counts), rows.row_numbers()[order].astype(np.int32), rows.values[order])


def first(rows: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Ids that fall as rows ascend: by row numbers alone the order would be another."""
    return rows[::-1][:n]


def stored(rows: SparseRows, metric: Any, *, posted: bool) -> SparseVectors:
    return SparseVectors(rows, metric, first, postings(rows) if posted else None)


def true_distances(metric: str, queries: SparseRows, rows: SparseRows) -> NDArray[np.float64]:
    """(q, n)."""
    q, r = (
        scipy.sparse.csr_array((s.values.astype(np.float64), s.indices, s.indptr), shape=s.shape)
        for s in (queries, rows)
    )
    dots = (q @ r.T).toarray()
    if metric == "dot":
        return np.asarray(-dots)
    norms = [np.sqrt(np.asarray(s.multiply(s).sum(axis=1))) for s in (q, r)]
    return np.asarray(1 - dots / norms[0][:, None] / norms[1])
