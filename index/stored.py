"""Vectors of either kind, and the exact search over them."""

from index.contract import Index, Vectors
from index.exact import Exact
from index.sparse import SparseExact, SparseVectors

Stored = Vectors | SparseVectors
ExactSearch = Exact | SparseExact
Searcher = Index | SparseExact


def exact_search(stored: Stored) -> ExactSearch:
    return SparseExact(stored) if isinstance(stored, SparseVectors) else Exact(stored)
