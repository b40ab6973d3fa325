"""From the JSON of a filter to its normal form, and what is wrong with it, place by place.

The language is described in `docs/filters.md`. Of a key that stands twice in one object the last one counts, as
everywhere in the API.
"""

import math
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec

from seedvec.filters.ast import (
    Among,
    And,
    Compare,
    Contains,
    Every,
    Exists,
    Filter,
    Node,
    Not,
    Or,
    Path,
    Prefix,
    Size,
)
from seedvec.filters.faults import MAX_FAULTS, Fault, FilterError, FilterNotFinite, FilterNotJson, FilterOutOfRange
from seedvec.filters.normal import normal, number, value_of, values_of

MAX_DEPTH = 16
"""Levels: the filter itself is the first, each $and, $or and $not begins another."""
MAX_NODES = 1_000
"""Conditions, and $and, $or and $not, in one filter."""
MAX_VALUES = 100_000
"""Of one $in, $nin or $all."""
MAX_KEYS = 16
"""Of a path. Metadata is nested no deeper."""
_SHOWN = 80
"""Characters of a client's own text in a message."""

_DECODER: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
# For a filter with a number like 1e400: it reads as infinite, so that the place can be named.
_LENIENT: msgspec.json.Decoder[Any] = msgspec.json.Decoder(float_hook=float)

_NOTHING: Node = And(())
"""Stands where a fault was found: the filter is refused in the end."""


def parse(raw: bytes | bytearray | msgspec.Raw, where: str = "filter") -> Filter:
    """raw: a JSON object in UTF-8; where: how an error names it.

    Raises FilterNotJson, FilterNotFinite and FilterOutOfRange (numbers), and FilterError, naming each place.
    """
    try:
        value = _DECODER.decode(raw)
    except msgspec.ValidationError:
        value = _with_infinities(raw, where)
    except msgspec.DecodeError as error:
        text = str(error).removeprefix("JSON is malformed: ")
        raise FilterNotJson(f"{where} is no JSON: {text}") from None
    except UnicodeDecodeError as error:
        raise FilterNotJson(f"{where} is no UTF-8: {error.reason}") from None
    except RecursionError:
        _refuse([Fault(where, _TOO_DEEP)], 1)
    return parse_value(value, where)


def parse_value(value: Any, where: str = "filter") -> Filter:
    """value: a filter as decoded JSON. Raises as `parse` does."""
    reader = _Reader()
    root = reader.filter(value, where, 1)
    reader.finish()
    return normal(root)


def _with_infinities(raw: bytes | bytearray | msgspec.Raw, where: str) -> Any:
    try:
        return _LENIENT.decode(raw)
    except msgspec.ValidationError:
        message = "a number has too many digits"
        raise FilterOutOfRange(f"{where}: {message}", [Fault(where, message)]) from None


def _refuse(faults: list[Fault], count: int, kind: type[FilterError] = FilterError) -> NoReturn:
    first = f"{faults[0].where}: {faults[0].message}"
    detail = first if count == 1 else f"{count} places in the filter are not acceptable; the first: {first}"
    raise kind(detail, faults, count)


class _Reader:
    """Reads one filter, collecting faults, until `finish` refuses it or lets it pass."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._count = 0
        self._nodes = 0
        self._infinite = False

    def finish(self) -> None:
        if self._count:
            _refuse(self._faults, self._count, FilterNotFinite if self._infinite else FilterError)

    def fault(self, where: str, message: str) -> Node:
        self._count += 1
        if len(self._faults) < MAX_FAULTS:
            self._faults.append(Fault(where, message))
        return _NOTHING

    def filter(self, value: Any, where: str, depth: int) -> Node:
        if type(value) is not dict:
            return self.fault(where, f"a filter is an object, not {_kind(value)}")
        if depth > MAX_DEPTH:
            return self.fault(where, _TOO_DEEP)
        if not value:
            self._counted(where)
        return _and([self._term(name, given, _step(where, name), depth) for name, given in value.items()])

    def _term(self, name: str, value: Any, where: str, depth: int) -> Node:
        if not name.startswith("$"):
            return self._field(name, value, where, depth)
        self._counted(where)
        if name == "$not":
            return Not(self.filter(value, where, depth + 1))
        if name not in ("$and", "$or"):
            return self.fault(where, _advice_before(name))
        if type(value) is not list:
            return self.fault(where, f"takes an array of filters, not {_kind(value)}")
        parts = tuple([self.filter(part, f"{where}[{i}]", depth + 1) for i, part in enumerate(value)])
        return And(parts) if name == "$and" else Or(parts)

    def _counted(self, where: str) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            # No further: what follows may be a hundred times as long.
            self.fault(where, f"here the filter passes the {MAX_NODES} conditions that one may have: $in takes many")
            self.finish()

    def _field(self, name: str, value: Any, where: str, depth: int) -> Node:
        path = tuple(name.split("."))
        if len(path) > MAX_KEYS:
            return self.fault(where, f"a path has at most {MAX_KEYS} keys: metadata is nested no deeper")
        if "$" in name and any(key.startswith("$") for key in path):
            return self.fault(where, "no key in metadata starts with '$'; operators stand in an object behind the path")
        return self._condition(path, value, where, depth)

    def _condition(self, path: Path, value: Any, where: str, depth: int) -> Node:
        if type(value) is dict:
            return self._operators(path, value, where, depth)
        self._counted(where)
        return _eq(self, path, value, where)

    def _operators(self, path: Path, value: dict[str, Any], where: str, depth: int) -> Node:
        if not value:
            return self.fault(where, 'an empty object is no condition; {"$exists": true} asks whether a field is there')
        return _and([self._operator(path, name, operand, _step(where, name), depth) for name, operand in value.items()])

    def _operator(self, path: Path, name: str, operand: Any, where: str, depth: int) -> Node:
        self._counted(where)
        build = OPERATORS.get(name)
        if build is not None:
            return build(self, path, operand, where)
        if name != "$not":
            return self.fault(where, _advice_behind(path, name))
        if type(operand) is not dict:
            return self.fault(where, f'takes an object of operators, not {_kind(operand)}: "$ne" negates a value')
        if depth >= MAX_DEPTH:
            return self.fault(where, _TOO_DEEP)
        return Not(self._operators(path, operand, where, depth + 1))

    def scalar(self, value: Any, where: str) -> bool:
        """Whether the value can be compared with; a fault where not."""
        if type(value) is dict or type(value) is list:
            self.fault(where, f"{_kind(value)} equals nothing: values are null, booleans, numbers and strings")
            return False
        return self.finite(value, where)

    def finite(self, value: Any, where: str) -> bool:
        if type(value) is not float or math.isfinite(value):
            return True
        self._infinite = True
        self.fault(where, "the number is too large to be finite")
        return False

    def scalars(self, operand: Any, where: str) -> bool:
        """Whether the operand is an array of values, not too many; a fault for everything in it that is wrong."""
        if type(operand) is not list:
            self.fault(where, f"takes an array of values, not {_kind(operand)}")
        elif len(operand) > MAX_VALUES:
            self.fault(where, f"has {len(operand)} values, at most {MAX_VALUES} are taken")
        elif set(map(type, operand)) <= _SCALARS and all(type(v) is not float or math.isfinite(v) for v in operand):
            return True
        else:
            for i, value in enumerate(operand):
                self.scalar(value, f"{where}[{i}]")
        return False


_SCALARS = {type(None), bool, int, float, str}


def _eq(reader: _Reader, path: Path, operand: Any, where: str) -> Node:
    if type(operand) is list:
        return reader.fault(where, "an array equals nothing: $in takes one of several values, $all wants them all")
    if type(operand) is dict:
        return reader.fault(where, f'an object equals nothing: compare its fields, as "{_shown(path)}.key"')
    return Among(path, value_of(operand)) if reader.scalar(operand, where) else _NOTHING


def _ne(reader: _Reader, path: Path, operand: Any, where: str) -> Node:
    return Not(_eq(reader, path, operand, where))


def _in(reader: _Reader, path: Path, operand: Any, where: str) -> Node:
    return Among(path, values_of(operand)) if reader.scalars(operand, where) else _NOTHING


def _nin(reader: _Reader, path: Path, operand: Any, where: str) -> Node:
    return Not(_in(reader, path, operand, where))


def _all(reader: _Reader, path: Path, operand: Any, where: str) -> Node:
    if not reader.scalars(operand, where):
        return _NOTHING
    for i, value in enumerate(operand):
        if value is None:
            reader.fault(f"{where}[{i}]", "null is taken by $eq, $ne, $in and $nin")
    return Every(path, values_of(operand))


def _exists(reader: _Reader, path: Path, operand: Any, where: str) -> Node:
    if type(operand) is not bool:
        return reader.fault(where, f"takes true or false, not {_kind(operand)}")
    return Exists(path) if operand else Not(Exists(path))


def _size(reader: _Reader, path: Path, operand: Any, where: str) -> Node:
    if type(operand) not in (int, float):
        return reader.fault(where, f"takes a whole number, not {_kind(operand)}")
    if not reader.finite(operand, where):
        return _NOTHING
    n = number(operand)
    if not isinstance(n, int) or n < 0:
        return reader.fault(where, "takes a whole number from 0 on")
    return Size(path, n)


def _compare(op: Any) -> "Callable[[_Reader, Path, Any, str], Node]":
    def build(reader: _Reader, path: Path, operand: Any, where: str) -> Node:
        if type(operand) is str:
            return Compare(path, op, operand)
        if type(operand) not in (int, float):
            return reader.fault(where, f"compares numbers or strings, not {_kind(operand)}")
        return Compare(path, op, number(operand)) if reader.finite(operand, where) else _NOTHING

    return build


def _text(kind: type[Prefix] | type[Contains]) -> "Callable[[_Reader, Path, Any, str], Node]":
    def build(reader: _Reader, path: Path, operand: Any, where: str) -> Node:
        if type(operand) is str:
            return kind(path, operand)
        more = "; an element of an array is asked for by $eq" if kind is Contains else ""
        return reader.fault(where, f"takes a string, not {_kind(operand)}{more}")

    return build


OPERATORS: dict[str, Callable[[_Reader, Path, Any, str], Node]] = {
    "$eq": _eq,
    "$ne": _ne,
    "$gt": _compare(">"),
    "$gte": _compare(">="),
    "$lt": _compare("<"),
    "$lte": _compare("<="),
    "$in": _in,
    "$nin": _nin,
    "$exists": _exists,
    "$prefix": _text(Prefix),
    "$contains": _text(Contains),
    "$all": _all,
    "$size": _size,
}
"""What stands behind a field, $not aside."""


def _and(parts: list[Node]) -> Node:
    return parts[0] if len(parts) == 1 else And(tuple(parts))


_TOO_DEEP = f"is nested deeper than {MAX_DEPTH} levels of $and, $or and $not"


def _advice_before(name: str) -> str:
    if name in OPERATORS:
        return f'stands behind a field: {{"field": {{"{name}": …}}}}'
    return "is no operator; before filters stand $and, $or and $not"


def _advice_behind(path: Path, name: str) -> str:
    if name in ("$and", "$or"):
        return f'stands before filters: {{"{name}": [{{"{_shown(path)}": …}}, …]}}'
    if name.startswith("$"):
        return f"is no operator; behind a field stand {', '.join(OPERATORS)} and $not"
    return f'a field of an object is written with its path: "{_shown((*path, name))}"'


def _shown(path: Path) -> str:
    text = ".".join(path)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _step(where: str, name: str) -> str:
    return f"{where}.{name}" if len(name) <= _SHOWN else f"{where}.{name[: _SHOWN - 1]}…"


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    return "a string" if isinstance(value, str) else "a number"
