"""The normal form: one tree, and one text, for all the ways in which the same filter can be written.

- `Not` stands before leaves only: before an `And` or `Or` it turns them into each other, before a `Not` both go.
- An `And` in an `And` and an `Or` in an `Or` become their parts; one part alone stands for itself.
- Parts stand in the order of their texts, each once.
- In an `Or` what asks one field for values is one `Among`; in an `And` its negation is likewise.
- What holds always or never is decided here: `And(())` and `Or(())` remain only as the whole filter.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

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
    Number,
    Or,
    Path,
    Prefix,
    Size,
    Values,
)

_SIZE_END = 2**31
"""No array in metadata has so many elements."""

# It prints integers of any size exactly, and floats so that they read back.
_ENCODER = msgspec.json.Encoder()


class _Form(NamedTuple):
    """A node in normal form with its text. parts: of an And or Or, theirs."""

    text: str
    node: Node
    parts: "tuple[_Form, ...]" = ()


def normal(root: Node) -> Filter:
    """The filter in normal form. root: any tree, its `Values` as `values_of` gives them."""
    form = _normal(root, False)
    return Filter(form.node, form.text)


def number(value: Number) -> Number:
    """A float with an integral value as the int that it is; -0.0 is 0."""
    return int(value) if type(value) is float and value.is_integer() else value


def value_of(given: Any) -> Values:
    """The set of one JSON scalar (a finite number), as `values_of` makes it from several."""
    if type(given) is str:
        return Values(strings=(given,))
    if type(given) is bool:
        return Values(true=True) if given else Values(false=True)
    return Values(null=True) if given is None else Values(numbers=(number(given),))


def values_of(given: Iterable[Any]) -> Values:
    """The set of some JSON scalars (finite numbers)."""
    given = tuple(given)
    # Types are asked for by identity, here and below: Python takes True for an int.
    kinds = set(map(type, given))
    strings = {value for value in given if type(value) is str} if str in kinds else ()
    numbers = {number(value) for value in given if type(value) in (int, float)} if kinds & {int, float} else ()
    flags = {value for value in given if type(value) is bool} if bool in kinds else ()
    return Values(None in given, False in flags, True in flags, tuple(sorted(numbers)), tuple(sorted(strings)))


def _normal(node: Node, negated: bool) -> _Form:
    if isinstance(node, Not):
        return _normal(node.part, not negated)
    if isinstance(node, And | Or):
        kind = And if isinstance(node, And) is not negated else Or
        return _joined(kind, [_normal(part, negated) for part in node.parts])
    if _never(node):
        return _ALL if negated else _NONE
    return _leaf(node, negated)


def _never(leaf: Leaf) -> bool:
    if isinstance(leaf, Among):
        return not any(_listed(leaf.values))
    return isinstance(leaf, Size) and not 0 <= leaf.n < _SIZE_END


def _leaf(leaf: Leaf, negated: bool) -> _Form:
    text = _ENCODER.encode(_described(leaf)).decode()
    return _Form(f'["not",{text}]', Not(leaf)) if negated else _Form(text, leaf)


def _described(leaf: Leaf) -> tuple[Any, ...]:
    """A leaf for printing. Keys hold no dots (a path was split at them), so a dotted path names one field."""
    path = ".".join(leaf.path)
    match leaf:
        case Exists():
            return ("exists", path)
        case Among(_, values):
            return ("among", path, *_listed(values))
        case Compare(_, op, operand):
            return (op, path, operand)
        case Prefix(_, text):
            return ("prefix", path, text)
        case Contains(_, text):
            return ("contains", path, text)
        case Every(_, values):
            return ("every", path, *_listed(values))
        case Size(_, n):
            return ("size", path, n)


def _listed(values: Values) -> tuple[Any, ...]:
    return (values.null, values.false, values.true, values.numbers, values.strings)


def _joined(kind: type[And] | type[Or], forms: list[_Form]) -> _Form:
    flat: list[_Form] = []
    for form in forms:
        if type(form.node) is kind:
            flat.extend(form.parts)
        elif isinstance(form.node, And | Or) and not form.parts:
            return form  # one part that never holds decides an And, one that always does an Or
        else:
            flat.append(form)
    unique = {form.text: form for form in _united(kind is And, flat)}
    parts = tuple(unique[text] for text in sorted(unique))
    if len(parts) == 1:
        return parts[0]
    text = ",".join(['"and"' if kind is And else '"or"', *(part.text for part in parts)])
    return _Form(f"[{text}]", kind(tuple(part.node for part in parts)), parts)


def _united(negated: bool, forms: list[_Form]) -> list[_Form]:
    """Forms with those that ask one field for values made one. negated: those that ask it for none of them."""
    by_path: dict[Path, list[Values]] = {}
    others: list[_Form] = []
    for form in forms:
        leaf = form.node.part if negated and isinstance(form.node, Not) else None if negated else form.node
        if isinstance(leaf, Among):
            by_path.setdefault(leaf.path, []).append(leaf.values)
        else:
            others.append(form)
    if len(others) + len(by_path) == len(forms):
        return forms
    return others + [_leaf(Among(path, _union(sets)), negated) for path, sets in by_path.items()]


def _union(sets: list[Values]) -> Values:
    return Values(
        any(s.null for s in sets),
        any(s.false for s in sets),
        any(s.true for s in sets),
        tuple(sorted({n for s in sets for n in s.numbers})),
        tuple(sorted({t for s in sets for t in s.strings})),
    )


_ALL = _Form('["and"]', And(()))
_NONE = _Form('["or"]', Or(()))
