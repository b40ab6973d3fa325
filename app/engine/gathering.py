"""Rows that lie in several places, brought together in one order."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.engine.types import Vectors
from seedvec.sparse import SparseRows, concatenate
from storage.catalogue import Settings

Lot = tuple[Vectors, NDArray[Any], NDArray[np.int64] | None]
"""Where from, which rows there, and which rows of the output they are (None: all of it)."""


def gathered(settings: Settings, n: int, lots: Iterable[Lot]) -> Vectors:
    """n rows in the collection's dtype, bit for bit as stored; every one is in one of the lots."""
    if settings.sparse:
        return _sparse(settings, list(lots))
    out = np.empty((n, settings.dimension), settings.vector_dtype)
    for source, rows, at in lots:
        out[slice(None) if at is None else at] = source[rows]
    return out


def _sparse(settings: Settings, lots: list[Lot]) -> SparseRows:
    parts = [source[rows] for source, rows, _ in lots]
    found = [part for part in parts if isinstance(part, SparseRows)]
    if not found:
        nothing = np.empty(0, np.int32), np.empty(0, settings.vector_dtype)
        return SparseRows(np.zeros(1, np.int64), *nothing, settings.dimension)
    places = [at for _, _, at in lots if at is not None]
    together = concatenate(found)
    return together[np.argsort(np.concatenate(places))] if places else together
