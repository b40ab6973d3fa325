"""Ids and names on their way in: from bodies and from raw paths."""

from collections.abc import Sequence
from urllib.parse import unquote_to_bytes

from app.api import limits
from app.api.limits import ID_BYTES_MAX, ID_INT_MAX, NAME, NAME_PATTERN
from app.api.refusals import many, one
from app.engine.errors import MAX_FAULTS, CollectionNotFound, Fault, IdNotFound, IdTypeMismatch, Invalid, OutOfRange
from app.engine.types import Id, IdType

_INT_DIGITS_MAX = 19
_ADVICE = 'ids of the other type want a collection created with "id_type": "{}"'


def fault_of(id: Id) -> str | None:
    """Why the id can be none, or None where it can."""
    if isinstance(id, int):
        return None if 0 <= id <= ID_INT_MAX else f"an int id lies in 0 … {ID_INT_MAX}"
    size = len(id) if id.isascii() else len(id.encode("utf-8", "surrogatepass"))
    if not 1 <= size <= ID_BYTES_MAX:
        return f"a str id has 1 to {ID_BYTES_MAX} bytes of UTF-8, this one {size}"
    if "\0" in id or id in (".", ".."):
        return "NUL, '.' and '..' are no ids"
    return None


def check_ids(ids: Sequence[Id], id_type: IdType, pattern: str) -> None:
    """Raises IdTypeMismatch and OutOfRange naming every bad id by pattern, as `items[{}].id`.

    An `auto` collection takes either type, but one body holds one: that of its first id.
    """
    if not ids:
        return
    wanted = id_type if id_type != "auto" else _type_of(ids[0])
    wrong = [i for i, id in enumerate(ids) if _type_of(id) != wanted]
    if wrong:
        why = f"the collection's ids are {wanted}" if id_type != "auto" else f"the first id of the body is {wanted}"
        faults = [Fault(pattern.format(i), f"{_type_of(ids[i])} id, but {why}") for i in wrong[:MAX_FAULTS]]
        other = "str" if wanted == "int" else "int"
        refusal = many(IdTypeMismatch, faults, len(wrong), f"{len(wrong)} ids have the wrong type")
        raise IdTypeMismatch(f"{refusal.detail}; {_ADVICE.format(other)}", faults, len(wrong))
    bad = [(i, fault) for i, id in enumerate(ids) if (fault := fault_of(id)) is not None]
    if bad:
        faults = [Fault(pattern.format(i), fault) for i, fault in bad[:MAX_FAULTS]]
        raise many(OutOfRange, faults, len(bad), f"{len(bad)} ids are out of range")


def check_id_count(count: int) -> None:
    """Raises OutOfRange for more ids than one fetch, delete or patch takes."""
    most = limits.current.ids_max
    if count > most:
        raise one(OutOfRange, "ids", f"has {count} ids, at most {most} are taken in one request")


def check_name(name: str) -> str:
    """The name itself. Raises CollectionNotFound: no collection can have been created under another."""
    if NAME.fullmatch(name) is None:
        raise CollectionNotFound(f"there is no collection {shown(name)}")
    return name


def check_new_name(name: str, where: str = "collection") -> str:
    """The name itself. where: how the request calls it. Raises OutOfRange naming the pattern."""
    if NAME.fullmatch(name) is None:
        raise one(OutOfRange, where, f"the name {shown(name)} does not match {NAME_PATTERN}")
    return name


def shown(text: str) -> str:
    """Text of a client, short enough for a message."""
    return repr(text if len(text) <= 80 else text[:77] + "…")


def decoded(raw: bytes) -> str:
    """A piece of the raw path, percent-decoded exactly once. Raises Invalid where it is no UTF-8."""
    try:
        return (unquote_to_bytes(raw) if b"%" in raw else raw).decode("utf-8")
    except UnicodeDecodeError:
        raise one(Invalid, "id", "the path, percent-decoded, is no UTF-8") from None


def path_id(raw: bytes, id_type: IdType) -> Id:
    """The id in a path. Raises IdTypeMismatch, OutOfRange, and IdNotFound where nothing was ever written."""
    text = decoded(raw)
    if id_type == "str":
        id: Id = text
    elif not (text.isascii() and text.isdecimal()) or (text[0] == "0" and text != "0"):
        # 007 is refused: one item has one address.
        if id_type == "auto":
            raise IdNotFound(f"there is no item {shown(text)}: the collection is empty")
        advice = _ADVICE.format("str")
        raise IdTypeMismatch(
            f"{shown(text)} is no int id; {advice}", [Fault("id", "the collection's ids are int: decimal digits")]
        )
    else:
        id = int(text) if len(text) <= _INT_DIGITS_MAX else ID_INT_MAX + 1
    fault = fault_of(id)
    if fault is not None:
        raise one(OutOfRange, "id", fault)
    if id_type == "auto":
        raise IdNotFound(f"there is no item {shown(text)}: the collection is empty")
    return id


def _type_of(id: Id) -> IdType:
    return "int" if isinstance(id, int) else "str"
