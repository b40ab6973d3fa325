"""Sparse vectors from their JSON form to rows. Which places are right is the engine's to check."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np
from msgspec import UNSET

from app.api.bodies import NPY
from app.api.refusals import UnsupportedMediaType, many
from app.api.schemas import SparseVector, Vector
from app.api.vectors_in import matrix, settled
from app.engine.errors import MAX_FAULTS, Fault, Invalid
from app.engine.sparse_places import wrong_kind
from app.engine.types import CollectionSettings, Vectors
from seedvec.sparse import SparseRows, offsets


def rows(given: Iterable[Vector], settings: CollectionSettings, pattern: str) -> Vectors:
    """Vectors of the kind that the collection is of. given: can be gone through more than once; pattern: how an error
    names vector i, as `vectors[{}]`.

    Raises Invalid's family."""
    if settings.sparse:
        return _sparse(list(given), settings.dimension, pattern)
    dense: Iterable[Any] = given
    try:
        return matrix(dense, settings.dimension, pattern)
    except TypeError:
        # A sparse one has no length. Asked for only here, so that dense ones are not looked at twice.
        _refuse_kind(given, SparseVector, False, pattern)
        raise


def refuse_arrays(settings: CollectionSettings) -> None:
    """Raises UnsupportedMediaType where the collection is sparse."""
    if settings.sparse:
        raise UnsupportedMediaType(
            f'the collection is sparse, {NPY} holds dense arrays: send JSON, {{"indices": […], "values": […]}} a vector'
        )


def _sparse(given: Sequence[Vector], dimension: int, pattern: str) -> SparseRows:
    _refuse_kind(given, list, True, pattern)
    vectors = [vector for vector in given if isinstance(vector, SparseVector)]
    uneven = [i for i, v in enumerate(vectors) if v.values is not UNSET and len(v.values) != len(v.indices)]
    if uneven:
        faults = [
            Fault(pattern.format(i), f"has {len(vectors[i].indices)} indices and {len(vectors[i].values or ())} values")
            for i in uneven[:MAX_FAULTS]
        ]
        raise many(Invalid, faults, len(uneven), f"{len(uneven)} vectors have another number of values than of indices")
    lengths = np.array([len(vector.indices) for vector in vectors], np.int64)
    indices = np.fromiter(chain.from_iterable(v.indices for v in vectors), np.int64, count=lengths.sum())
    listed = (_ones(v) if v.values is UNSET else v.values for v in vectors)
    values = settled(np.fromiter(chain.from_iterable(listed), np.float64, count=len(indices)))
    return SparseRows(offsets(lengths), indices, values, dimension)


def _ones(vector: SparseVector) -> list[float]:
    return [1.0] * len(vector.indices)


def _refuse_kind(given: Iterable[Vector], kind: type, sparse: bool, pattern: str) -> None:
    """Raises Invalid naming every vector of that kind. sparse: the collection is."""
    wrong = [i for i, vector in enumerate(given) if isinstance(vector, kind)]
    if wrong:
        words = "is a list of numbers" if sparse else "has indices and values"
        raise wrong_kind(sparse, [Fault(pattern.format(i), words) for i in wrong[:MAX_FAULTS]], len(wrong))
