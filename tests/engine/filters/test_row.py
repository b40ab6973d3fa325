"""One item against a filter: the corners of the language, and agreement with the per-row reference."""

import json
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine.filters.parse import parse
from seedvec.filters.row import compile_row, decode
from tests.filter_reference import matches
from tests.filter_strategies import filters, make_filter, make_metadata, metadata

BIG = 2**53
CASES: list[tuple[Any, Any, bool]] = [
    # filter, metadata, holds
    ({}, None, True),
    ({"$or": []}, {"a": 1}, False),
    ({"a": 1}, None, False),
    ({"a": {"$ne": 1}}, None, True),
    ({"a": {"$nin": [1]}}, {}, True),
    ({"a": {"$not": {"$gt": 1}}}, {"a": "x"}, True),
    # kinds stand apart
    ({"a": 1}, {"a": True}, False),
    ({"a": True}, {"a": 1}, False),
    ({"a": 0}, {"a": False}, False),
    ({"a": {"$in": [True, None]}}, {"a": 1.0}, False),
    ({"a": 1}, {"a": "1"}, False),
    ({"a": {"$gte": 0}}, {"a": True}, False),
    ({"a": {"$lte": "z"}}, {"a": 1}, False),
    ({"a": {"$gt": 0}}, {"a": None}, False),
    # numbers by value, exactly
    ({"a": 1}, {"a": 1.0}, True),
    ({"a": 0}, {"a": -0.0}, True),
    ({"a": BIG + 1}, {"a": float(BIG)}, False),
    ({"a": float(BIG)}, {"a": BIG + 1}, False),
    ({"a": {"$gt": float(BIG)}}, {"a": BIG + 1}, True),
    ({"a": {"$lt": BIG + 1}}, {"a": float(BIG)}, True),
    ({"a": 10**30}, {"a": 1e30}, False),
    ({"a": int(1e30)}, {"a": 1e30}, True),
    ({"a": {"$gt": 1e308}}, {"a": 10**400}, True),
    ({"a": {"$gt": 0.1}}, {"a": 0.1}, False),
    # null and absence
    ({"a": None}, {"a": None}, True),
    ({"a": None}, {}, False),
    ({"a": None}, {"a": [1, None]}, True),
    ({"a": {"$ne": None}}, {}, True),
    ({"a": {"$exists": True}}, {"a": None}, True),
    ({"a": {"$exists": True}}, {"a": []}, True),
    ({"a": {"$exists": True}}, {"a": {}}, True),
    ({"a": {"$exists": False}}, {"b": 1}, True),
    # arrays: any element, each operator by itself
    ({"a": 2}, {"a": [1, 2]}, True),
    ({"a": {"$gt": 4, "$lt": 2}}, {"a": [1, 5]}, True),
    ({"a": {"$ne": 2}}, {"a": [1, 2]}, False),
    ({"a": 1}, {"a": [[1]]}, False),
    ({"a": {"$in": ["x"]}}, {"a": []}, False),
    ({"a": {"$prefix": "x"}}, {"a": [1, "xy"]}, True),
    ({"a": {"$all": [1, 2]}}, {"a": [2, 3, 1]}, True),
    ({"a": {"$all": [1, 2]}}, {"a": [2, 3]}, False),
    ({"a": {"$all": [1]}}, {"a": 1}, False),
    ({"a": {"$all": [1]}}, {"a": [True]}, False),
    ({"a": {"$all": []}}, {"a": []}, True),
    ({"a": {"$all": []}}, {"a": 1}, False),
    ({"a": {"$size": 0}}, {"a": []}, True),
    ({"a": {"$size": 1}}, {"a": "x"}, False),
    ({"a": {"$size": 1}}, {"a": {"b": 1}}, False),
    # paths
    ({"a.b": 1}, {"a": {"b": 1}}, True),
    ({"a.b": 1}, {"a": [{"b": 1}]}, False),
    ({"a.b.c": {"$exists": True}}, {"a": {"b": 1}}, False),
    ({"a": {"$eq": 1}}, {"a": {"b": 1}}, False),
    ({"a.": 1, "": 2}, {"a": {"": 1}, "": 2}, True),
    # text
    ({"a": {"$contains": "b"}}, {"a": "abc"}, True),
    ({"a": {"$contains": "b"}}, {"a": ["b"]}, True),
    ({"a": {"$contains": ""}}, {"a": 1}, False),
    ({"a": {"$prefix": ""}}, {"a": ""}, True),
    ({"a": {"$gt": "\uffff"}}, {"a": "\U0001f600"}, True),
    ({"a": {"$lt": "b"}}, {"a": "B"}, True),
    ({"a": "é"}, {"a": "e\u0301"}, False),
    ({"day": {"$gte": "2026-01-31", "$lt": "2026-02-01"}}, {"day": "2026-01-31T12:00:00Z"}, True),
]


@pytest.mark.parametrize(("filter_json", "item", "holds"), CASES, ids=lambda value: str(value)[:50])
def test_corners(filter_json: Any, item: Any, holds: bool) -> None:
    """The reference is held to them too: what both got wrong would otherwise agree."""
    assert compile_row(parse(json.dumps(filter_json).encode()))(item) is holds
    assert matches(filter_json, item) is holds


@given(filters, st.lists(metadata, min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_agrees_with_the_reference(filter_json: dict[str, Any], items: list[Any]) -> None:
    assert_agreement(filter_json, items)


def test_agrees_with_the_reference_in_ten_thousand_cases() -> None:
    """Without Hypothesis, which shrinks but takes 2 ms a case."""
    rng = Random(20)
    held = 0
    for _ in range(2_500):
        held += assert_agreement(make_filter(rng), [make_metadata(rng) for _ in range(4)])
    assert 2_500 < held < 7_500


def assert_agreement(filter_json: dict[str, Any], items: list[Any]) -> int:
    """How many of the items match."""
    test = compile_row(parse(json.dumps(filter_json).encode()))
    held = 0
    for item in items:
        holds = matches(filter_json, item)
        assert test(item) is holds
        assert test(decode(msgspec.json.encode(item or {}))) is holds
        held += holds
    return held


def test_stored_numbers_come_back_exactly() -> None:
    assert decode(b'{"a":123456789012345678901234567890,"b":9007199254740993}') == {
        "a": 123456789012345678901234567890,
        "b": 2**53 + 1,
    }
