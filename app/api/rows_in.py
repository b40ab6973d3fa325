"""From the body of an add or upsert to `Rows`: both JSON forms and `.npy`."""

from functools import partial

import msgspec
import numpy as np
from msgspec import UNSET, Raw, Struct, UnsetType
from numpy.typing import NDArray

from app.api import limits, npy
from app.api.bodies import NPY, Media
from app.api.ids import check_ids
from app.api.json_in import decode
from app.api.limits import ID_INT_MAX
from app.api.metadata_in import compact_all
from app.api.refusals import UnknownField, one
from app.api.sparse_in import refuse_arrays, rows
from app.api.vectors_in import Decoded, check_columns
from app.engine.errors import IdTypeMismatch, Invalid, OutOfRange
from app.engine.types import CollectionSettings, Id, Rows, Vectors


class _Item(Struct, forbid_unknown_fields=True):
    """`schemas.Item`, its vector as it came."""

    vector: Raw
    id: Id | UnsetType = UNSET
    metadata: Raw | UnsetType = UNSET


class _Body(Struct, forbid_unknown_fields=True):
    """`schemas.WriteBody`, its vectors as they came."""

    items: list[_Item] | UnsetType = UNSET
    vectors: list[Raw] | UnsetType = UNSET
    ids: list[Id] | UnsetType = UNSET
    metadata: list[Raw] | UnsetType = UNSET


_DECODER = msgspec.json.Decoder(_Body)


def from_json(body: bytes | bytearray, settings: CollectionSettings) -> Rows:
    """Raises Malformed and Invalid's family, naming places as `items[17].vector` or `vectors[17]`."""
    given = decode(_DECODER, body)
    if given.items is not UNSET:
        extra = [name for name in ("vectors", "ids", "metadata") if getattr(given, name) is not UNSET]
        if extra:
            raise one(Invalid, extra[0], "goes with vectors, not with items: give either items or columns")
        return _from_items(given.items, settings)
    if given.vectors is UNSET:
        raise one(Invalid, "items", "missing: give items, or vectors")
    return _from_columns(given.vectors, given.ids, given.metadata, settings)


def from_npy(body: bytes | bytearray, first_id: int | UnsetType, settings: CollectionSettings) -> Rows:
    """Raises Malformed and Invalid's family; the engine will name its own findings as `row 17`."""
    refuse_arrays(settings)
    vectors = npy.matrix(body)
    _check_count(len(vectors), "shape")
    check_columns(vectors.shape[1], settings.dimension)
    return Rows(vectors, None if first_id is UNSET else _run(first_id, len(vectors), settings), None, "npy")


def no_first_id(first_id: int | UnsetType) -> None:
    """Raises UnknownField where a JSON body, which has its own ids, comes with ?first_id=."""
    if first_id is not UNSET:
        raise one(UnknownField, "first_id", "belongs to .npy bodies: a JSON body holds its own ids")


def _from_items(items: list[_Item], settings: CollectionSettings) -> Rows:
    _check_count(len(items), "items")
    vectors = _vectors([item.vector for item in items], settings, "items[{}].vector")
    ids = _item_ids(items)
    if ids is not None:
        check_ids(ids, settings.id_type, "items[{}].id")
    raws = [None if item.metadata is UNSET else item.metadata for item in items]
    return Rows(vectors, _typed(ids), compact_all(raws, "items[{}].metadata"), "items")


def _vectors(texts: list[Raw], settings: CollectionSettings, pattern: str) -> Vectors:
    return rows(Decoded(texts, pattern), settings, pattern)


def _item_ids(items: list[_Item]) -> list[Id] | None:
    ids = [item.id for item in items if item.id is not UNSET]
    if not ids:
        return None
    if len(ids) < len(items):
        first = next(i for i, item in enumerate(items) if item.id is UNSET)
        raise one(Invalid, f"items[{first}].id", "missing: give every item an id, or none (the server assigns them)")
    return ids


def _from_columns(
    vectors: list[Raw],
    ids: list[Id] | UnsetType,
    metadata: list[Raw] | UnsetType,
    settings: CollectionSettings,
) -> Rows:
    _check_count(len(vectors), "vectors")
    stored = _vectors(vectors, settings, "vectors[{}]")
    for name, column in (("ids", ids), ("metadata", metadata)):
        if column is not UNSET and len(column) != len(vectors):
            raise one(Invalid, name, f"has {len(column)} entries, vectors has {len(vectors)}")
    if ids is not UNSET:
        check_ids(ids, settings.id_type, "ids[{}]")
    texts = None if metadata is UNSET else compact_all(list(metadata), "metadata[{}]")
    return Rows(stored, _typed(None if ids is UNSET else ids), texts, "columns")


def _typed(ids: list[Id] | None) -> list[int] | list[str] | None:
    if ids is None:
        return None
    if isinstance(ids[0], int):  # all are of one type: check_ids saw to that
        return [id for id in ids if isinstance(id, int)]
    return [id for id in ids if isinstance(id, str)]


def _run(first: int, count: int, settings: CollectionSettings) -> NDArray[np.int64]:
    if settings.id_type == "str":
        raise one(IdTypeMismatch, "first_id", "numbers rows of int collections, the collection's ids are str")
    if first + count - 1 > ID_INT_MAX:
        raise one(OutOfRange, "first_id", f"{count} rows from there pass the largest id, {ID_INT_MAX}")
    # Not arange(first, first + count): the end of the run may be 2^63, which is no int64.
    return np.arange(count, dtype=np.int64) + np.int64(first)


def _check_count(count: int, where: str) -> None:
    most = limits.current.items_max
    if not 1 <= count <= most:
        raise one(OutOfRange, where, f"has {count} items, 1 to {most} are taken in one request")


def decoder(
    media: Media, body: bytes | bytearray, first_id: int | UnsetType, settings: CollectionSettings
) -> "partial[Rows]":
    """The decoding of a body, ready to run here or in a thread."""
    if media == NPY:
        return partial(from_npy, body, first_id, settings)
    no_first_id(first_id)
    return partial(from_json, body, settings)
