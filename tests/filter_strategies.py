"""Random metadata and random filters over one small pool of paths and values, so that they often meet.

`make_…` take a `random.Random`, for long runs; the strategies are the same under Hypothesis, which can shrink them.
"""

from collections.abc import Callable
from random import Random
from typing import Any

from hypothesis import strategies as st

KEYS = ("a", "b", "tags", "o", "é", "")
LIKELY = ("a", "b", "tags", "o.a", "o.tags")
PATHS = (*LIKELY, "o", "é", "", "o.b", "o.o.a", "o.", "a.b", "none", "none.a")
"""Some lead into objects, some into what may be an array or a scalar, some nowhere."""

NUMBERS: tuple[int | float, ...] = (
    *(0, 1, -1, 2, 3, 10, -0.0, 1.0, 0.5, 0.1, -2.5, 3.0000000000000004, 1e-300, 1e308, 5e-324),
    *(2**53 - 1, 2**53, 2**53 + 1, 2.0**53, 2.0**53 + 2, -(2**53) - 1, 2**62 + 1, float(2**62)),
    *(2**63 - 1, 2**63, float(2**63), -(2**63), -(2**63) - 1, 2**64, 10**22, 1e22, 10**30, 1e30, int(1e30), -(10**40)),
)
STRINGS = (
    *("", "a", "b", "ab", "abc", "b ", "B", "1", "true", "null", "0.5", "2026-01-31", "2026-02-01T12:00:00Z"),
    *(
        "é",
        "e\u0301",
        "ß",
        "日本",
        "日本語",
        "\uffff",
        "\U0001f600",
        "\U0001f600a",
        "a\0b",
        "$a",
        "a.b",
        '"\\\n',
        "a" * 300,
    ),
)
"""U+FFFF stands before U+1F600 by code point and behind it in UTF-16."""

COMMON = (1, "a", True, None, 2**53 + 1, "ab", 1.0, 0, False, 2.0**53, 0.5, "1", "", 2**53, 2, "b", "é")
"""The first the most often."""

ORDERED = ("$gt", "$gte", "$lt", "$lte")


def make_scalar(rng: Random) -> Any:
    """Out of a handful most of the time, so that two are often equal, or nearly so."""
    draw = rng.randrange(20)
    if draw < 14:
        return COMMON[min(rng.randrange(len(COMMON)) for _ in range(3))]
    if draw < 16:
        return rng.choice(NUMBERS)
    if draw < 18:
        return rng.choice(STRINGS)
    return rng.randrange(-(2**70), 2**70) if draw == 18 else rng.choice(STRINGS) + rng.choice(STRINGS)


def make_value(rng: Random, depth: int) -> Any:
    """Any JSON value: scalars mostly, arrays with mixed elements, objects with keys of the pool."""
    draw = rng.randrange(10)
    if depth == 0 or draw < 6:
        return make_scalar(rng)
    if draw < 9:
        return [make_value(rng, depth - 2 if depth > 2 else 0) for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 5)))]
    return make_object(rng, depth - 1)


def make_object(rng: Random, depth: int) -> dict[str, Any]:
    fields = {key: make_value(rng, depth) for key in KEYS if rng.randrange(3)}
    if depth and rng.randrange(3):
        fields["o"] = make_object(rng, depth - 1)
    return fields


def make_metadata(rng: Random) -> dict[str, Any] | None:
    """One item's metadata; None: it has none."""
    return None if rng.randrange(12) == 0 else make_object(rng, 3)


def make_filter(rng: Random, depth: int = 6) -> dict[str, Any]:
    """A valid filter, its logical operators nested at most `depth` deep."""
    depth = rng.randrange(depth) + 1
    terms = (_make_term(rng, depth) for _ in range(rng.choice((1, 1, 1, 1, 2, 2))))
    return dict(terms) if rng.randrange(30) else {}


def _make_term(rng: Random, depth: int) -> tuple[str, Any]:
    draw = rng.randrange(10) if depth > 1 else 9
    if draw < 1:
        return "$not", make_filter(rng, depth - 1)
    if draw < 3:
        return "$and", _make_parts(rng, depth)
    if draw < 7:
        return "$or", _make_parts(rng, depth)
    path = rng.choice(LIKELY if rng.randrange(3) else PATHS)
    return path, _make_operators(rng, depth) if rng.randrange(8) else make_scalar(rng)


def _make_parts(rng: Random, depth: int) -> list[dict[str, Any]]:
    """Seldom none: that decides everything around it."""
    return [make_filter(rng, depth - 1) for _ in range(rng.choice((1, 2, 2, 3, 3, 4)) if rng.randrange(30) else 0)]


def _make_operators(rng: Random, depth: int) -> dict[str, Any]:
    chosen = [rng.choice(OPERATORS) for _ in range(rng.choice((1, 1, 1, 2)))]
    operators = {name: make(rng) for name, make in chosen}
    if depth > 1 and rng.randrange(8) == 0:
        operators["$not"] = _make_operators(rng, depth - 1)
    return operators


def _ordinal(rng: Random) -> Any:
    value = make_scalar(rng)
    return rng.choice(NUMBERS) if value is None or isinstance(value, bool) else value


def _text(rng: Random) -> str:
    return rng.choice(STRINGS)[: rng.choice((0, 1, 1, 2, 300))]


def _scalars(rng: Random) -> list[Any]:
    return [make_scalar(rng) for _ in range(rng.choice((0, 1, 2, 3, 5, 8)))]


def _no_nulls(rng: Random) -> list[Any]:
    return [value for value in _scalars(rng)[:2] if value is not None]


OPERATORS: tuple[tuple[str, Callable[[Random], Any]], ...] = (
    *((name, make_scalar) for name in ("$eq", "$ne")),
    *((name, _scalars) for name in ("$in", "$in", "$nin")),
    *((name, _ordinal) for name in ORDERED),
    ("$exists", lambda rng: rng.randrange(3) > 0),
    ("$prefix", _text),
    ("$contains", _text),
    ("$all", _no_nulls),
    ("$size", lambda rng: rng.choice((0, 1, 2, 2.0, 3, 5))),
)

_RANDOM = st.randoms(use_true_random=False)
metadata = _RANDOM.map(make_metadata)
filters = _RANDOM.map(make_filter)
