"""Faiss indexes over bytes that somebody else owns: the segment's memory map, read in place, never copied.

Faiss writes nothing through a view, so a read-only map does. The arrays must outlive the index: they hang on it.
"""

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray


def _over(index: Any, rows: NDArray[Any]) -> Any:
    flat = rows.reshape(-1).view(np.uint8)
    # A view wants an owner to keep its bytes alive. Python keeps them (below), so any empty index lends its own.
    owner = faiss.IndexFlat(1).codes.owner
    view = faiss.MaybeOwnedVectorUInt8.create_view(faiss.swig_ptr(flat), flat.nbytes, owner)
    index.codes = view
    index.ntotal = len(rows)
    index.referenced_objects = [rows, flat, view]
    return index


def view(rows: NDArray[Any], faiss_metric: int) -> Any:
    """An exact Faiss index over rows (n, d) float32 or float16, C order, without a copy."""
    if not rows.flags.c_contiguous:
        raise ValueError("Faiss can only look at rows in C order")
    return _over(empty(rows.shape[1], rows.dtype, faiss_metric), rows)


def empty(dimension: int, dtype: np.dtype[Any], faiss_metric: int) -> Any:
    """The Faiss index whose codes are rows of that dtype, bit for bit."""
    if dtype == np.float16:
        return faiss.IndexScalarQuantizer(dimension, faiss.ScalarQuantizer.QT_fp16, faiss_metric)
    return faiss.IndexFlat(dimension, faiss_metric)
