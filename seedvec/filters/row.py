"""One item's metadata against a filter: for rows that are not in columns, and to check every hit."""

import operator
from collections.abc import Callable
from typing import Any

import msgspec

from seedvec.filters.ast import (
    Among,
    And,
    Compare,
    Contains,
    Every,
    Exists,
    Filter,
    Leaf,
    Node,
    Not,
    Or,
    Path,
    Prefix,
    Size,
    Values,
)

Metadata = dict[str, Any]
Test = Callable[[Any], bool]

_DECODER = msgspec.json.Decoder(Metadata)
_ABSENT = object()
_NOTHING: Metadata = {}
_ORDER = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def decode(json: bytes) -> Metadata:
    """An item's metadata, integers of any size exact. json: an object in UTF-8, as it is stored."""
    return _DECODER.decode(json)


def compile_row(filter: Filter) -> Callable[[Metadata | None], bool]:
    """A function of an item's decoded metadata (None: it has none): whether the item matches."""
    test = _node(filter.root)

    def matches(metadata: Metadata | None) -> bool:
        return test(_NOTHING if metadata is None else metadata)

    return matches


def _node(node: Node) -> Test:
    if isinstance(node, And):
        return _both(tuple(map(_node, node.parts)))
    if isinstance(node, Or):
        return _either(tuple(map(_node, node.parts)))
    if isinstance(node, Not):
        return _opposite(_node(node.part))
    return _leaf(_reach(node.path), _of_field(node))


def _both(tests: tuple[Test, ...]) -> Test:
    def holds(metadata: Any) -> bool:
        for test in tests:  # noqa: SIM110 (a generator for every item would cost more than the tests)
            if not test(metadata):
                return False
        return True

    return holds


def _either(tests: tuple[Test, ...]) -> Test:
    def holds(metadata: Any) -> bool:
        for test in tests:  # noqa: SIM110
            if test(metadata):
                return True
        return False

    return holds


def _opposite(test: Test) -> Test:
    return lambda metadata: not test(metadata)


def _reach(path: Path) -> Callable[[Metadata], Any]:
    """What finds the field, or _ABSENT. Only objects are entered."""
    if len(path) == 1:
        key = path[0]
        return lambda metadata: metadata.get(key, _ABSENT)

    def find(metadata: Any) -> Any:
        for key in path:
            if type(metadata) is not dict:
                return _ABSENT
            metadata = metadata.get(key, _ABSENT)
        return metadata

    return find


def _leaf(find: Callable[[Metadata], Any], test: Test) -> Test:
    return lambda metadata: test(find(metadata))


def _of_field(leaf: Leaf) -> Test:
    """A test of the field itself (_ABSENT where there is none)."""
    match leaf:
        case Exists():
            return lambda field: field is not _ABSENT
        case Size(_, n):
            return lambda field: type(field) is list and len(field) == n
        case Every(_, values):
            return _every(values)
        case Among(_, values):
            return _any_element(_among(values))
        case Compare(_, op, operand):
            return _any_element(_compare(op, operand))
        case Prefix(_, text):
            return _any_element(lambda value: type(value) is str and value.startswith(text))
        case Contains(_, text):
            return _any_element(lambda value: type(value) is str and text in value)


def _any_element(test: Test) -> Test:
    """The field itself, or any element where it is an array. The test holds for no array, no object, not _ABSENT."""

    def holds(field: Any) -> bool:
        return any(map(test, field)) if type(field) is list else test(field)

    return holds


def _among(values: Values) -> Test:
    if values == Values(strings=values.strings):
        if len(values.strings) == 1:
            only = values.strings[0]
            return lambda value: bool(value == only)
        strings = frozenset(values.strings)
        return lambda value: type(value) is str and value in strings
    return _among_mixed(values)


def _among_mixed(values: Values) -> Test:
    numbers = frozenset(values.numbers)
    by_type = {str: frozenset(values.strings), int: numbers, float: numbers}
    flags = {value for value, taken in ((False, values.false), (True, values.true), (None, values.null)) if taken}

    def holds(value: Any) -> bool:
        # By type first: True is 1 in Python, and what has another type may not even be hashable.
        taken = by_type.get(type(value))
        if taken is not None:
            return value in taken
        return (value is None or value is True or value is False) and value in flags

    return holds


def _compare(op: str, operand: Any) -> Test:
    stands = _ORDER[op]
    if isinstance(operand, str):
        return lambda value: type(value) is str and stands(value, operand)
    return lambda value: (type(value) is int or type(value) is float) and stands(value, operand)


def _every(values: Values) -> Test:
    wanted: list[Test] = [_among(Values(numbers=(n,))) for n in values.numbers]
    wanted += [_among(Values(strings=(text,))) for text in values.strings]
    for there, value in ((values.null, Values(null=True)), (values.false, Values(false=True))):
        wanted += [_among(value)] if there else []
    wanted += [_among(Values(true=True))] if values.true else []

    def holds(field: Any) -> bool:
        return type(field) is list and all(any(map(test, field)) for test in wanted)

    return holds
