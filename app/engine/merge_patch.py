"""RFC 7396 JSON merge patch on stored metadata."""

from collections.abc import Callable
from typing import Any

import msgspec

from app.engine.errors import Fault, OutOfRange

MAX_METADATA_BYTES = 64 << 10
"""Of one item, as JSON text: also after a patch."""


def merge_patch(patch: bytes) -> Callable[[bytes | None], bytes | None]:
    """patch: a JSON object in UTF-8. Returns old metadata → new; an object that ends up empty is `{}`.

    msgspec keeps integers of any size exact.
    """
    wanted = msgspec.json.decode(patch)

    def merge(old: bytes | None) -> bytes | None:
        merged = msgspec.json.encode(_merge(msgspec.json.decode(old) if old is not None else {}, wanted))
        if len(merged) > MAX_METADATA_BYTES:
            words = f"would grow to {len(merged)} bytes; an item holds at most {MAX_METADATA_BYTES}"
            raise OutOfRange(f"the metadata {words}: nothing was changed", [Fault("metadata", words)])
        return merged

    return merge


def _merge(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merge(merged.get(name), value)
    return merged
