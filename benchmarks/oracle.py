"""The true nearest neighbours, by code that shares nothing with the product.

Faiss' matrix product proposes more than are wanted; float64 decides among them. Answers are judged by their ids, not
by the distances that come with them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

KEPT = 128
"""Nearest rows known of each query: enough for k = 100 and what ties with the hundredth."""
SPARE = 32
"""Proposals beyond KEPT: float32 orders near ones otherwise than float64."""
TIE = 1e-6
"""Share of a distance within which float32, in which vectors are stored and distances answered, tells no two apart."""
QUERIES_AT_ONCE = 250
ROW_BITS = 40

Rows = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Truth:
    """rows: (q, KEPT) int64, the nearest first; near: (q, KEPT) float64 their distances (of l2: not squared)."""

    rows: NDArray[np.int64]
    near: NDArray[np.float64]

    def first(self, n: int) -> "Truth":
        return Truth(self.rows[:n], self.near[:n])

    def shares(self, found: NDArray[np.int64]) -> NDArray[np.float64]:
        """recall@k of each query, (q,). found: (q, k) ids, which are row numbers, -1 where there are fewer."""
        k = found.shape[1]
        kth = self.near[: len(found), k - 1 : k]
        right = self.near[: len(found)] <= kth + TIE * np.abs(kth)
        query = np.arange(len(found))[:, None] << ROW_BITS
        wanted = (query + self.rows[: len(found)])[right]
        hits = np.isin(query + found, wanted) & (found >= 0)
        # A row that came twice would count twice: the product must not gain by that.
        assert all(len(set(row)) == len(row) for row in found.tolist() if -1 not in row), "an id came twice"
        return np.asarray(np.minimum(hits.sum(axis=1), k) / k)


def nearest(metric: str, parts: Iterable[Rows], queries: Rows) -> Truth:
    """parts: the data's rows in order, (m, d) each, as many at a time as fit in memory; metric: l2, cosine or dot."""
    asked = _unit(queries) if metric == "cosine" else np.ascontiguousarray(queries, np.float32)
    rows = np.full((len(queries), 0), -1, np.int64)
    near = np.full((len(queries), 0), np.inf)
    begin = 0
    for part in parts:
        compared = _unit(part) if metric == "cosine" else np.ascontiguousarray(part, np.float32)
        by = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
        _, proposed = faiss.knn(asked, compared, min(KEPT + SPARE, len(part)), metric=by)
        measured = _measured(metric, part, queries, proposed)
        rows, near = _merged(rows, near, proposed + begin, measured)
        begin += len(part)
    return Truth(rows, near)


def kept(file: Path, metric: str, parts: Iterable[Rows], queries: Rows) -> Truth:
    """The same, from the file where an earlier run has left it. Whoever names it says what it belongs to."""
    if not file.exists():
        truth = nearest(metric, parts, queries)
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, rows=truth.rows, near=truth.near)
        return truth
    with np.load(file) as stored:
        return Truth(stored["rows"], stored["near"])


def _merged(
    rows: NDArray[np.int64], near: NDArray[np.float64], more: NDArray[np.int64], at: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    rows, near = np.concatenate([rows, more], axis=1), np.concatenate([near, at], axis=1)
    order = np.argsort(near, axis=1, kind="stable")[:, :KEPT]
    return np.take_along_axis(rows, order, 1), np.take_along_axis(near, order, 1)


def _measured(metric: str, part: Rows, queries: Rows, proposed: NDArray[np.int64]) -> NDArray[np.float64]:
    out = np.empty(proposed.shape)
    for begin in range(0, len(queries), QUERIES_AT_ONCE):
        some = slice(begin, begin + QUERIES_AT_ONCE)
        theirs = part[proposed[some]].astype(np.float64)
        asked = queries[some].astype(np.float64)[:, None, :]
        if metric == "l2":
            out[some] = np.linalg.norm(theirs - asked, axis=2)
            continue
        products = np.vecdot(theirs, asked)
        if metric == "cosine":
            products /= np.linalg.norm(theirs, axis=2) * np.linalg.norm(asked, axis=2)
        out[some] = 1 - products if metric == "cosine" else -products
    return out


def _unit(rows: Rows) -> NDArray[np.float32]:
    wide = rows.astype(np.float64)
    result: NDArray[np.float32] = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
    return result
