"""Vectors of either kind, and the exact search over them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from index import distance, sparse_distance
from index.contract import Index, Vectors
from index.exact import Exact
from index.sparse import SparseExact, SparseVectors
from seedvec.sparse import SparseRows

Rows = NDArray[Any] | SparseRows
"""n of them: (n, d), or sparse."""
Stored = Vectors | SparseVectors
ExactSearch = Exact | SparseExact
Searcher = Index | SparseExact


def exact_search(stored: Stored) -> ExactSearch:
    return SparseExact(stored) if isinstance(stored, SparseVectors) else Exact(stored)


def norms(rows: Rows) -> NDArray[np.float32]:
    """Euclidean norms, (n,) float32."""
    return sparse_distance.norms(rows) if isinstance(rows, SparseRows) else distance.norms(rows)
