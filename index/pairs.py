"""The one distance of many pairs: each query of a batch and rows of its own."""

import numpy as np
from numpy.typing import NDArray

from index import threads
from index.contract import Vectors
from index.distance import distances

PIECE_ELEMENTS = 1 << 16
"""Rows are gathered in pieces of 256 KiB, which stay in the cache until they are measured. All at once, 1000 × 14 rows
of 784 took two and a half times the processor time; pieces of 512 KiB were at times given back to the kernel."""
FEW_PIECES = 8
"""Fewer, of a twentieth of a millisecond each, are done before other threads have started."""


def measured(vectors: Vectors, queries: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """queries: (q, d); rows: (q, w), -1 for none → distances (q, w), +inf for none."""
    there = rows >= 0
    of_query, wanted = np.nonzero(there)[0], rows[there]
    out = np.empty(len(wanted), np.float32)
    step = max(1, PIECE_ELEMENTS // queries.shape[1])

    def measure(part: slice) -> None:
        # "clip" spares the check of each number.
        near = vectors.rows.take(wanted[part], axis=0, mode="clip")
        out[part] = distances(vectors.metric, queries.take(of_query[part], axis=0, mode="clip"), near)

    parts = [slice(start, start + step) for start in range(0, len(wanted), step)]
    if len(parts) < FEW_PIECES:
        for part in parts:
            measure(part)
    else:
        threads.each(measure, parts)
    all_ = np.full(rows.shape, np.inf, np.float32)
    all_[there] = out
    return all_
