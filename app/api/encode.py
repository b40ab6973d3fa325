"""Answers: items and hits as JSON, arrays as `.npy` and `.npz`.

Vectors go out as the shortest decimals that read back to the same float32, metadata byte for byte as it is stored.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.responses import Response

from app.api import npz
from app.api.bodies import JSON, NPY, NPZ
from app.api.limits import NPZ_ID_BYTES_MAX
from app.api.npy import dump
from app.api.refusals import one
from app.api.whole import Whole
from app.engine.errors import OutOfRange
from app.engine.types import Hits, IdType, Items, SearchAnswer, Vectors
from seedvec.sparse import SparseRows

_NULL = orjson.Fragment(b"null")


def json_response(value: Any, status: int = 200) -> Response:
    """value may hold NumPy arrays (C order, no float16) and `orjson.Fragment`."""
    return _whole(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY), JSON, status)


def _whole(body: bytes, media: str, status: int = 200) -> Response:
    return Whole(body, [(b"content-type", media.encode("ascii")), (b"content-length", b"%d" % len(body))], status)


def printable(vectors: NDArray[Any]) -> NDArray[Any]:
    """float16 as the float32 of the same value, whose shortest decimal reads back to it; C order for orjson."""
    if vectors.dtype == np.float16:
        vectors = vectors.astype(np.float32)
    return np.ascontiguousarray(vectors)


def _vectors(vectors: Vectors) -> Iterable[Any]:
    """Each as it is printed."""
    if not isinstance(vectors, SparseRows):
        return printable(vectors)
    values = printable(vectors.values)
    return (
        {"indices": vectors.indices[start:end], "values": values[start:end]}
        for start, end in pairwise(vectors.indptr.tolist())
    )


def items_value(items: Items) -> list[dict[str, Any]]:
    """`[{"id", "metadata", "vector"}]`, of the two last what was asked for; an item without metadata says null."""
    out: list[dict[str, Any]] = [{"id": id} for id in items.ids]
    _attach(out, items)
    return out


def _hits_value(hits: Hits) -> list[dict[str, Any]]:
    """Of all queries, one after the other."""
    # Iterating yields float32 scalars, which orjson prints as such; tolist() would print 0.18340000510215759.
    out: list[dict[str, Any]] = [
        {"id": id, "distance": distance} for id, distance in zip(hits.items.ids, hits.distances, strict=True)
    ]
    _attach(out, hits.items)
    return out


def _attach(out: list[dict[str, Any]], items: Items) -> None:
    if items.vectors is not None:
        for entry, vector in zip(out, _vectors(items.vectors), strict=True):
            entry["vector"] = vector
    if items.metadata is not None:
        for entry, text in zip(out, items.metadata, strict=True):
            entry["metadata"] = _NULL if text is None else orjson.Fragment(text)


def search_value(answer: SearchAnswer, several: bool, took_s: float) -> dict[str, Any]:
    """several: answer `results`, one entry a query, instead of the one query's `hits`."""
    hits = _hits_value(answer.hits)
    value: dict[str, Any] = {"hits": hits}
    if several:
        value = {"results": [{"hits": hits[start:end]} for start, end in pairwise(answer.hits.starts)]}
    value["exact"] = answer.exact
    value["expected_recall"] = answer.expected_recall
    value["calibrated_on"] = answer.calibrated_on
    if answer.explain is not None:
        value["explain"] = answer.explain
    value["took_ms"] = round(took_s * 1e3, 3)
    return value


def npy_response(array: NDArray[Any]) -> Response:
    return _whole(dump(array), NPY)


def npz_response(answer: SearchAnswer, k: int, id_type: IdType) -> Response:
    """`ids` (q, k) int64 with -1, or fixed-width bytes with b"", and `distances` (q, k) float32 with +inf.

    id_type: of the collection, so that an answer without hits has ids of the same type.

    Raises OutOfRange where a string id is too long for the array.
    """
    hits, filled = answer.hits, _filled(answer.hits.starts, k)
    distances = np.full(filled.shape, np.inf, np.float32)
    distances[filled] = hits.distances
    ids = _str_ids(hits.items.ids, filled) if id_type == "str" else _int_ids(hits.items.ids, filled)
    return _whole(npz.dump({"ids": ids, "distances": distances}), NPZ)


def _filled(starts: list[int], k: int) -> NDArray[np.bool_]:
    """Where the hits stand in arrays of k places a query, (q, k)."""
    return np.arange(k) < np.diff(starts)[:, None]


def _int_ids(found: list[Any], filled: NDArray[np.bool_]) -> NDArray[np.int64]:
    ids = np.full(filled.shape, -1, np.int64)
    ids[filled] = found
    return ids


def _str_ids(found: list[Any], filled: NDArray[np.bool_]) -> NDArray[np.bytes_]:
    encoded = [id.encode("utf-8") for id in found]
    width = max(map(len, encoded), default=1)
    if width > NPZ_ID_BYTES_MAX:
        message = f"an id of {width} bytes was found, the arrays take up to {NPZ_ID_BYTES_MAX}: ask for JSON instead"
        raise one(OutOfRange, "ids", message)
    ids = np.full(filled.shape, b"", dtype=f"S{width}")
    ids[filled] = encoded
    return ids
