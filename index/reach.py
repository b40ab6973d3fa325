"""How far off a query may lie for what was measured to speak of it.

Queries of another kind than those calibrated on (text against pictures, noise) have their neighbours farther away, and
find fewer of them with the same settings. Measured with photo-sift (100,000 rows) and fashion-mnist: of the files' own
queries 2 and 0 in 1,000 lie beyond the reach of held-out rows; of queries turned and moved as another modality is 1,000
and 826, with as much noise as the data spread 974 and 1,000, with half as much 151 and 6.
"""

import numpy as np
from numpy.typing import NDArray

from index.contract import Metric

WITHIN = 0.999
MIN_QUERIES = 300
"""With fewer the farthest of them says too little about the next."""


def reach(metric: Metric, queries: NDArray[np.float32], kth: NDArray[np.float32]) -> float | None:
    """queries (q, d), kth (q,): their true k-th distances. All but one in 1,000 lie within. None: too few to tell."""
    if len(queries) < MIN_QUERIES:
        return None
    return float(np.quantile(_for_any_length(metric, queries, kth), WITHIN))


def beyond(metric: Metric, queries: NDArray[np.float32], kth: NDArray[np.float32], within: float) -> int:
    """How many of the queries (q, d) have their k-th neighbour (q,) farther than that."""
    if len(kth) == 1 and metric != "dot":
        return int(kth.item() > within)
    return int(np.count_nonzero(_for_any_length(metric, queries, kth) > within))


def _for_any_length(metric: Metric, queries: NDArray[np.float32], kth: NDArray[np.float32]) -> NDArray[np.float32]:
    """By inner product a query twice as long has the same neighbours, twice as far."""
    if metric != "dot":
        return kth
    lengths = np.sqrt(np.vecdot(queries, queries))
    return np.asarray(kth / np.maximum(lengths, np.float32(1e-18)))
