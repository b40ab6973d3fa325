"""Which items a filter matches, decided in the most obvious way: one item at a time, straight from the JSON.

Written from the description of the language alone, and slow; it knows nothing of the parser, the columns or the
normal form, which are tested against it. The filter must be a valid one.
"""

from collections.abc import Callable
from typing import Any

ABSENT = object()


def matches(filter_json: dict[str, Any], metadata: dict[str, Any] | None) -> bool:
    """Whether an item with this metadata (None: it has none) matches the filter."""
    return all(_term(metadata or {}, name, wanted) for name, wanted in filter_json.items())


def _term(metadata: dict[str, Any], name: str, wanted: Any) -> bool:
    if name == "$and":
        return all(matches(part, metadata) for part in wanted)
    if name == "$or":
        return any(matches(part, metadata) for part in wanted)
    if name == "$not":
        return not matches(wanted, metadata)
    assert not name.startswith("$"), name
    return _field(_find(metadata, name), wanted)


def _find(metadata: dict[str, Any], path: str) -> Any:
    """The field that a dotted path names. Only objects are entered, arrays are not."""
    here: Any = metadata
    for key in path.split("."):
        if not isinstance(here, dict) or key not in here:
            return ABSENT
        here = here[key]
    return here


def _field(field: Any, wanted: Any) -> bool:
    if not isinstance(wanted, dict):
        return _holds(field, "$eq", wanted)
    assert wanted, "an empty object is no condition"
    return all(_holds(field, operator, operand) for operator, operand in wanted.items())


def _holds(field: Any, operator: str, operand: Any) -> bool:
    if operator == "$not":
        return not _field(field, operand)
    if operator == "$ne":
        return not _holds(field, "$eq", operand)
    if operator == "$nin":
        return not _holds(field, "$in", operand)
    if operator == "$exists":
        return bool(operand) == (field is not ABSENT)
    if operator == "$all":
        return isinstance(field, list) and all(any(_same(e, value) for e in field) for value in operand)
    if operator == "$size":
        return isinstance(field, list) and len(field) == operand
    test = TESTS[operator]
    return any(test(element, operand) for element in (field if isinstance(field, list) else [field]))


def _kind(value: Any) -> str:
    """What can equal each other is of one kind. An array in an array, an object and nothing at all are of none."""
    if value is None:
        return "null"
    if isinstance(value, bool):  # before the numbers: Python holds True to be 1
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "string" if isinstance(value, str) else "other"


def _same(value: Any, operand: Any) -> bool:
    kind = _kind(value)
    return kind != "other" and kind == _kind(operand) and bool(value == operand)


def _ordered(value: Any, operand: Any) -> bool:
    """Whether the two stand in an order at all. Numbers compare exactly in Python, strings by code point."""
    kind = _kind(value)
    return kind in ("number", "string") and kind == _kind(operand)


TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": _same,
    "$in": lambda value, operands: any(_same(value, operand) for operand in operands),
    "$gt": lambda value, operand: _ordered(value, operand) and value > operand,
    "$gte": lambda value, operand: _ordered(value, operand) and value >= operand,
    "$lt": lambda value, operand: _ordered(value, operand) and value < operand,
    "$lte": lambda value, operand: _ordered(value, operand) and value <= operand,
    "$prefix": lambda value, operand: isinstance(value, str) and value.startswith(operand),
    "$contains": lambda value, operand: isinstance(value, str) and operand in value,
}
"""What a field, or one element of an array, has to fulfil."""
