"""An index that serves, measured with real queries: does it keep its promise, and what would?"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index.approximate import Approximate
from index.calibration import Calibration, interval
from index.pacing import Progress, within
from index.sweep import calibrate
from index.truth import grouped, kth_distances

FEWEST = 100
"""Distinct queries; fewer say too little about the next."""
TRUTH = 0.6
"""Share of the work that is the exact answers, in progress."""
SEARCHED_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Measured:
    """recall: mean recall@k; interval: of the mean, 95 %; queries: how many distinct ones."""

    recall: float
    interval: tuple[float, float]
    queries: int


def distinct(queries: NDArray[np.float32]) -> NDArray[np.float32]:
    """(q, d) → each once, the first of its like, in order."""
    return queries[np.sort(np.unique(queries, axis=0, return_index=True)[1])]


def recalibrated(index: Approximate, queries: NDArray[np.float32], progress: Progress) -> Calibration:
    """The same index calibrated on these queries (q, d) against all its rows; some choose, the others certify.

    Raises ValueError for fewer than `FEWEST` distinct ones, and what `progress` raises."""
    asked = distinct(np.ascontiguousarray(queries, dtype=np.float32))
    if len(asked) < FEWEST:
        raise ValueError(f"{len(asked)} distinct queries are too few to calibrate on: {FEWEST} are wanted")
    groups = grouped(index.vectors, asked, None, within(progress, 0.0, TRUTH))
    return calibrate(index, groups, within(progress, TRUTH, 1.0), "queries")


def shortfall(index: Approximate, queries: NDArray[np.float32], k: int, recall: float, progress: Progress) -> Measured:
    """What searches for k at this recall find for these queries (q, d), q ≥ 1. Rows that were dropped since count as
    any other."""
    asked = distinct(np.ascontiguousarray(queries, dtype=np.float32))
    k = min(k, len(index.vectors.rows))
    kth = kth_distances(index.vectors, asked, k, None, within(progress, 0.0, TRUTH))
    plan = index.plan(k, recall)
    shares = np.empty(len(asked))
    for start in range(0, len(asked), SEARCHED_AT_ONCE):
        part = slice(start, start + SEARCHED_AT_ONCE)
        found = index.search(asked[part], k, plan).distances <= kth[part, None]
        shares[part] = np.minimum(found.sum(axis=1), k) / k
        progress(TRUTH + (1 - TRUTH) * min(1.0, (start + SEARCHED_AT_ONCE) / len(asked)))
    return Measured(float(shares.mean()), interval(shares), len(asked))
