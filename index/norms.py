"""Norms of vectors of either kind. Apart from `stored.py`, so that a process which only writes loads no Faiss."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from index import distance, sparse_distance
from seedvec.sparse import SparseRows

Rows = NDArray[Any] | SparseRows
"""n of them: (n, d), or sparse."""


def norms(rows: Rows) -> NDArray[np.float32]:
    """Euclidean norms, (n,) float32."""
    return sparse_distance.norms(rows) if isinstance(rows, SparseRows) else distance.norms(rows)
