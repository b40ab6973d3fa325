"""Query strings of the hot routes, held to a struct as strictly as the bodies are."""

import math
from functools import lru_cache
from typing import TypeVar
from urllib.parse import parse_qsl

import msgspec

from app.api.json_in import translate
from app.api.refusals import one
from app.engine.errors import Invalid, NotFinite

T = TypeVar("T", bound=msgspec.Struct)
_LISTS = frozenset({"include"})
_FIELDS_MAX = 100
_KEPT, _KEPT_BYTES = 256, 256
"""Query strings that are remembered, and of what length: a client of `.npy` sends the same with every query."""


def decode_query(raw: bytes, kind: type[T]) -> T:
    """Not to be changed: the next to send the same has it too. Lists are written `include=a,b` or
    `include=a&include=b`. Raises Invalid's family naming the parameter."""
    if not raw:
        return kind()
    return _kept(raw, kind) if len(raw) <= _KEPT_BYTES else _decoded(raw, kind)


def _decoded(raw: bytes, kind: type[T]) -> T:
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_FIELDS_MAX)
    except ValueError:
        raise one(Invalid, "query", "the query string cannot be read") from None
    values: dict[str, str | list[str]] = {}
    for name, value in pairs:
        if name in _LISTS:
            so_far = values.setdefault(name, [])
            assert isinstance(so_far, list)
            so_far.extend(part for part in value.split(",") if part)
        elif name in values:
            raise one(Invalid, name, "is given twice")
        else:
            values[name] = value
    try:
        # Not strict in this one respect: every value of a query string is text.
        decoded = msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise translate(error) from None
    for name in kind.__struct_fields__:
        number = getattr(decoded, name)
        if isinstance(number, float) and not math.isfinite(number):
            raise one(NotFinite, name, "must be finite")
    return decoded


_kept = lru_cache(_KEPT)(_decoded)
