"""Does a new index find what is there? At its greatest effort it must, or it is not what it was made from."""

import numpy as np

from index.approximate import Approximate
from index.contract import Rejected, Vectors
from index.halves import as_float32
from index.pacing import Progress, within
from index.sweep import shares_found
from index.truth import Group, kth_distances

LEAST = 0.99
QUERIES = 1000
K = 10
TRUTH = 0.7
"""Share of the work that is the exact answers, in progress."""


def check(index: Approximate, vectors: Vectors, progress: Progress) -> float:
    """recall@10 with up to 1,000 of the stored rows as queries, compared by distance. index: holds all rows.

    Raises Rejected where it is below `LEAST`."""
    n = len(vectors.rows)
    k = min(K, n)
    rows = np.unique(np.linspace(0, n - 1, QUERIES, dtype=np.int64))
    queries = as_float32(vectors.rows[rows])
    group = Group(k, queries, kth_distances(vectors, queries, k, None, within(progress, 0.0, TRUTH)))
    found = 0.0
    for effort in index.efforts(k):
        # Most indexes do with the lesser; what that leaves missing has to be found by the greatest.
        found = float(shares_found(index, group, effort).mean())
        progress(TRUTH + (1 - TRUTH) / 2)
        if found >= LEAST:
            progress(1.0)
            return found
    raise Rejected(
        f"the {index.kind} index found {found:.1%} of the true {k} nearest of {len(rows):,} stored vectors at its"
        f" greatest effort, where {LEAST:.0%} is the least"
    )
