"""Query strings of the hot routes, held to a struct as strictly as the bodies are."""

import math
from typing import TypeVar
from urllib.parse import parse_qsl

import msgspec

from app.api.json_in import translate
from app.api.refusals import one
from app.engine.errors import Invalid, NotFinite

T = TypeVar("T", bound=msgspec.Struct)
_LISTS = frozenset({"include"})
_FIELDS_MAX = 100


def decode_query(raw: bytes, kind: type[T]) -> T:
    """Raises Invalid's family naming the parameter. Lists are written `include=a,b` or `include=a&include=b`."""
    if not raw:
        return kind()
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
