"""Decoding JSON bodies into typed structs, strictly, and saying where one is wrong in the client's own terms.

Of a key that stands twice in one object the last one counts, as in most parsers (RFC 8259 leaves it open).
"""

import re
from typing import Any, TypeVar

import msgspec

from app.api.refusals import UnknownField, one
from app.engine.errors import Invalid, Malformed, NotFinite, OutOfRange, Refused

T = TypeVar("T")

# msgspec offers its place only inside the message: "Expected `float`, got `str` - at `$.items[17].vector[2]`".
_PLACE = re.compile(r"(?P<message>.*?)(?: - at `(?:key in )?\$(?P<path>.*)`)?", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<field>.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<field>.*)`", re.DOTALL)
_BOUND = re.compile(r" [<>]=? ")


def join(prefix: str, path: str) -> str:
    """`items[3]` and `.metadata` → `items[3].metadata`; nothing at all is the body itself."""
    return (prefix + path).lstrip(".") or "body"


def translate(error: msgspec.ValidationError, prefix: str = "") -> Refused:
    """msgspec's refusal as ours; prefix: the place of what was decoded."""
    found = _PLACE.fullmatch(str(error))
    message, path = (found["message"], found["path"] or "") if found else (str(error), "")
    path = path.replace("[...]", "")  # msgspec's word for a key of a free object, which it does not name
    if field := _UNKNOWN.fullmatch(message):
        return one(UnknownField, join(prefix, f"{path}.{field['field']}"), "unknown field")
    if field := _MISSING.fullmatch(message):
        return one(Invalid, join(prefix, f"{path}.{field['field']}"), "missing")
    where = join(prefix, path)
    if message == "Number out of range":
        return one(NotFinite, where, "the number is too large to be finite")
    if message == "Integer value out of range":
        return one(OutOfRange, where, "the number has too many digits")
    kind = OutOfRange if _BOUND.search(message) else Invalid
    return one(kind, where, message.replace("`", "").replace("Expected", "expected"))


def decode(decoder: msgspec.json.Decoder[T], body: bytes | bytearray | msgspec.Raw, prefix: str = "") -> T:
    """Raises Malformed (no JSON) and Invalid's family (not of the decoder's type), naming the place."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise translate(error, prefix) from None
    except msgspec.DecodeError as error:
        place = f" in {prefix}" if prefix else ""
        raise Malformed(f"the body is no JSON{place}: {_plain(error)}") from None
    except UnicodeDecodeError as error:
        raise Malformed(f"the body is no UTF-8: {error.reason} {error.object[error.start : error.end]!r}") from None
    except RecursionError:
        raise Malformed("the body's JSON is nested too deeply") from None


def _plain(error: Exception) -> str:
    text = str(error).removeprefix("JSON is malformed: ")
    return "it is cut off, or has a broken escape" if text == "Input data was truncated" else text


def plain_json(body: bytes | bytearray) -> Any:
    """The body as Python values, under the same strictness as the typed bodies. Raises Malformed, Invalid."""
    return decode(_ANY, body)


_ANY: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
