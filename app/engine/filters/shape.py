"""What a filter asks of which fields, without the values that it asks for: for logs, which must not hold data."""

from seedvec.filters.ast import Among, And, Compare, Contains, Every, Exists, Filter, Leaf, Node, Not, Or, Prefix, Size

MOST = 400
"""Characters: a filter may have a thousand nodes."""
_OPERATORS = {"<": "$lt", "<=": "$lte", ">": "$gt", ">=": "$gte"}


def shape(filter: Filter) -> str:
    """As `$and(pos $in 1, length $lt)`: fields and operators, and of sets how many values they have."""
    text = _of(filter.root)
    return text if len(text) <= MOST else text[: MOST - 1] + "…"


def _of(node: Node) -> str:
    if isinstance(node, And | Or):
        return f"${'and' if isinstance(node, And) else 'or'}({', '.join(_of(part) for part in node.parts)})"
    if isinstance(node, Not):
        return f"$not({_of(node.part)})"
    return f"{'.'.join(node.path)} {_asked(node)}"


def _asked(leaf: Leaf) -> str:
    match leaf:
        case Compare(op=op):
            return _OPERATORS[op]
        case Among(values=values) | Every(values=values):
            n = len(values.numbers) + len(values.strings) + values.null + values.false + values.true
            return f"{'$in' if isinstance(leaf, Among) else '$all'} {n}"
        case Exists():
            return "$exists"
        case Prefix():
            return "$prefix"
        case Contains():
            return "$contains"
        case Size():
            return "$size"
