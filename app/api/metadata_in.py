"""Metadata on its way in: a JSON object, checked and stored compactly, every number kept as it was written."""

from typing import Any

import msgspec

from app.api.json_in import decode, join
from app.api.limits import METADATA_BYTES_MAX, METADATA_DEPTH_MAX
from app.api.refusals import InvalidMetadata, many, one
from app.engine.errors import MAX_FAULTS, Fault

# Unlike orjson, msgspec keeps integers beyond 64 bits exact in both directions.
_DECODER: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_ENCODER = msgspec.json.Encoder()


def compact(raw: msgspec.Raw, where: str) -> bytes | None:
    """One item's metadata as compact UTF-8 JSON; None where the client wrote null.

    Raises InvalidMetadata (no object, too large, too deep, a key that a filter could not name), and what
    `json_in.decode` raises.
    """
    value = decode(_DECODER, raw, where)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise one(InvalidMetadata, where, f"must be an object, not {_kind(value)}")
    _check(value, 1, where)
    text = _ENCODER.encode(value)
    if len(text) > METADATA_BYTES_MAX:
        raise one(InvalidMetadata, where, f"is {len(text)} bytes, at most {METADATA_BYTES_MAX} are kept")
    return text


def compact_all(raws: list[msgspec.Raw | None], pattern: str) -> list[bytes | None] | None:
    """Metadata of all items (None: the item has none); None where none has any.

    pattern: the place of item i, as `items[{}].metadata`. Raises InvalidMetadata naming every bad item.
    """
    faults: list[Fault] = []
    count = 0
    out: list[bytes | None] = []
    for i, raw in enumerate(raws):
        try:
            out.append(None if raw is None else compact(raw, pattern.format(i)))
        except InvalidMetadata as error:
            count += 1
            if len(faults) < MAX_FAULTS:
                faults.extend(error.faults)
    if count:
        raise many(InvalidMetadata, faults, count, f"the metadata of {count} items is not acceptable")
    return out if any(text is not None for text in out) else None


def _check(value: dict[str, Any] | list[Any], depth: int, where: str) -> None:
    if depth > METADATA_DEPTH_MAX:
        raise one(InvalidMetadata, where, f"is nested deeper than {METADATA_DEPTH_MAX} levels")
    if isinstance(value, list):
        for i, child in enumerate(value):
            if isinstance(child, dict | list):
                _check(child, depth + 1, f"{where}[{i}]")
        return
    for key, child in value.items():
        if "." in key or key.startswith("$"):
            # Filters read "a.b" as a path and "$a" as an operator: such a key could never be asked for.
            raise one(InvalidMetadata, join(where, f".{key}"), "a key may not contain '.' or start with '$'")
        if isinstance(child, dict | list):
            _check(child, depth + 1, f"{where}.{key}")


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, list):
        return "an array"
    return "a string" if isinstance(value, str) else "a number"
