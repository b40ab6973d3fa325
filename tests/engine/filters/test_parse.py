"""The language as it is read: one normal form for all ways of writing, and every mistake named by its place."""

import json
import time
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine.errors import MAX_FAULTS, Invalid, InvalidFilter, Malformed, NotFinite, OutOfRange
from app.engine.filters.parse import MAX_DEPTH, MAX_NODES, MAX_VALUES, parse, parse_value
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
    Prefix,
    Size,
    Values,
)
from seedvec.filters.normal import normal
from tests.filter_strategies import filters, make_filter

A, B = ("a",), ("b",)
ONE = Among(A, Values(numbers=(1,)))


def parsed(value: Any) -> Filter:
    return parse(json.dumps(value).encode())


def refused(value: Any, kind: type[Invalid] = InvalidFilter) -> Invalid:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    with pytest.raises(kind) as error:
        parse(raw)
    assert type(error.value) is kind
    return error.value


NODES: list[tuple[Any, Node]] = [
    ({"a": 1}, ONE),
    ({"a": {"$eq": "x"}}, Among(A, Values(strings=("x",)))),
    ({"a": None}, Among(A, Values(null=True))),
    ({"a": True}, Among(A, Values(true=True))),
    ({"a": {"$ne": False}}, Not(Among(A, Values(false=True)))),
    ({"a.b": {"$gt": 1.5}}, Compare(("a", "b"), ">", 1.5)),
    ({"a": {"$gte": "x"}}, Compare(A, ">=", "x")),
    ({"a": {"$lt": 2.0}}, Compare(A, "<", 2)),
    ({"a": {"$lte": 2**70}}, Compare(A, "<=", 2**70)),
    (
        {"a": {"$in": ["y", "x", 2, 1.0, 0.5, None, True, 1]}},
        Among(A, Values(True, False, True, (0.5, 1, 2), ("x", "y"))),
    ),
    ({"a": {"$nin": [1]}}, Not(ONE)),
    ({"a": {"$exists": True}}, Exists(A)),
    ({"a": {"$exists": False}}, Not(Exists(A))),
    ({"a": {"$prefix": ""}}, Prefix(A, "")),
    ({"a": {"$contains": "é"}}, Contains(A, "é")),
    ({"a": {"$all": [2, 1, 2]}}, Every(A, Values(numbers=(1, 2)))),
    ({"a": {"$all": []}}, Every(A, Values())),
    ({"a": {"$size": 2.0}}, Size(A, 2)),
    ({"a": {"$size": 2**40}}, Or(())),
    ({"": {"$exists": True}}, Exists(("",))),
    ({"a..b.": {"$exists": True}}, Exists(("a", "", "b", ""))),
    ({}, And(())),
    ({"$and": []}, And(())),
    ({"$or": []}, Or(())),
    ({"$or": [{}]}, And(())),
    ({"$not": {}}, Or(())),
    ({"$not": {"$or": []}}, And(())),
    ({"a": {"$in": []}}, Or(())),
    ({"a": {"$nin": []}}, And(())),
    ({"b": 2, "a": {"$in": []}}, Or(())),
    ({"$or": [{"b": 2}, {"a": {"$nin": []}}]}, And(())),
    ({"a": -0.0}, Among(A, Values(numbers=(0,)))),
    ({"a": 1e22}, Among(A, Values(numbers=(10**22,)))),
    ({"a": {"$gt": 1, "$lt": 3}}, And((Compare(A, "<", 3), Compare(A, ">", 1)))),
    ({"a": {"$not": {"$gt": 1, "$lt": 3}}}, Or((Not(Compare(A, "<", 3)), Not(Compare(A, ">", 1))))),
]


@pytest.mark.parametrize(("value", "node"), NODES, ids=lambda value: str(value)[:60])
def test_nodes(value: Any, node: Node) -> None:
    assert parsed(value).root == node
    assert parse_value(value) == parsed(value)


SAME: list[list[Any]] = [
    [{"a": 1}, {"a": 1.0}, {"a": {"$eq": 1}}, {"a": {"$in": [1, 1.0]}}, {"$and": [{"a": 1}, {}, {"a": 1}]}],
    [{"a": 1}, {"$or": [{"a": 1}, {"$or": [{"a": 1}]}]}, {"$not": {"$not": {"a": 1}}}, {"$not": {"a": {"$ne": 1}}}],
    [{"a": 1}, {"a": {"$not": {"$ne": 1}}}, {"a": {"$not": {"$not": {"$eq": 1}}}}, {"a": {"$not": {"$nin": [1]}}}],
    [{"a": 1, "b": 2}, {"b": 2, "a": 1}, {"$and": [{"b": 2}, {"a": 1}]}, {"a": 1, "$and": [{"$and": [{"b": 2}]}]}],
    [{"a": {"$in": [1, 2]}}, {"$or": [{"a": 2}, {"a": 1}]}, {"a": {"$in": [2, 1, 2.0]}}],
    [
        {"a": {"$in": [1, None, True, "x", False]}},
        {"$or": [{"a": value} for value in (False, "x", True, 1, None)]},
        {"$or": [{"a": value} for value in (None, True, 1, "x", False)]},
    ],
    [{"a": {"$nin": [1, 2]}}, {"$and": [{"a": {"$ne": 1}}, {"a": {"$ne": 2}}]}, {"$not": {"a": {"$in": [1, 2]}}}],
    [{"a": {"$nin": [1, 2]}}, {"$not": {"$or": [{"a": 1}, {"a": 2}]}}, {"a": {"$ne": 1, "$nin": [2]}}],
    [
        {"$or": [{"b": 1}, {"a": {"$in": [1, 2]}}]},
        {"$or": [{"a": 1}, {"b": 1}, {"a": 2}]},
        {"$not": {"a": {"$nin": [1, 2]}, "b": {"$ne": 1}}},
    ],
    [{"$not": {"a": 1, "b": 2}}, {"$or": [{"a": {"$ne": 1}}, {"$not": {"b": 2}}]}],
    [{"a": {"$gt": 1, "$lt": 3}}, {"$and": [{"a": {"$lt": 3}}, {"a": {"$gt": 1}}]}],
    [{"a": {"$not": {"$gt": 1}}}, {"$not": {"a": {"$gt": 1}}}],
]


@pytest.mark.parametrize("ways", SAME, ids=lambda ways: json.dumps(ways[0]))
def test_ways_of_writing_one_thing(ways: list[Any]) -> None:
    assert len({parsed(way) for way in ways}) == 1
    assert len({parsed(way).key for way in ways}) == 1


DIFFERENT: list[Any] = [
    *({"a": value} for value in (1, "1", True, "true", None, "null", 1.5, 2**53, 2**53 + 1, 0, False, "")),
    *({"a": {op: 1}} for op in ("$ne", "$gt", "$gte", "$lt", "$lte", "$size")),
    *({"a": {op: "1"}} for op in ("$ne", "$gt", "$prefix", "$contains")),
    {"a": {"$all": [1]}},
    *({"a": {op: [1, 2]}} for op in ("$in", "$nin", "$all")),
    *({path: 1} for path in ("b", "", ".", "a.b", "a.", ".a")),
    *({"a": {"$exists": there}} for there in (True, False)),
    *({op: [{"a": 1}, {"b": 1}]} for op in ("$and", "$or")),
    {"$and": [{"a": 1}, {"a": 2}]},
    {},
    {"$or": []},
    {"a": 'x"],["y'},
    {"a": {"$in": ["x", "y"]}},
    {"a": "x,y"},
]


def test_different_filters_have_different_keys() -> None:
    assert len({parsed(value).key for value in DIFFERENT}) == len(DIFFERENT)


@given(filters)
@settings(max_examples=500, deadline=None)
def test_the_normal_form_is_one(value: dict[str, Any]) -> None:
    """Normalising it again changes nothing, and equal keys mean equal trees."""
    once = parsed(value)
    assert normal(once.root) == once
    assert normal(Not(Not(once.root))) == once
    assert normal(Not(normal(Not(once.root)).root)) == once
    assert (once.root == And(())) == once.matches_all
    for part in within(once.root):
        assert not isinstance(part, Not) or not isinstance(part.part, And | Or | Not)
        assert not isinstance(part, And | Or) or len(part.parts) > 1
        assert not isinstance(part, Among) or part.values != Values()


def within(node: Node) -> list[Node]:
    """All nodes below the root."""
    below = node.parts if isinstance(node, And | Or) else (node.part,) if isinstance(node, Not) else ()
    return [*below, *(deeper for part in below for deeper in within(part))]


def test_equal_keys_and_equal_trees_go_together() -> None:
    rng = Random(4)
    by_key: dict[str, Node] = {}
    by_root: dict[Node, str] = {}
    for _ in range(3000):
        made = parsed(make_filter(rng, 3))
        assert by_key.setdefault(made.key, made.root) == made.root
        assert by_root.setdefault(made.root, made.key) == made.key
    assert len(by_key) > 500


BAD: list[tuple[Any, str]] = [
    (None, "filter"),
    ([], "filter"),
    ("a", "filter"),
    ({"$and": [{"a": 1}, {"b": 2}, {"length": {"$gte": None}}]}, "filter.$and[2].length.$gte"),
    ({"$gt": 1}, "filter.$gt"),
    ({"$nor": []}, "filter.$nor"),
    ({"$and": {"a": 1}}, "filter.$and"),
    ({"$or": [1]}, "filter.$or[0]"),
    ({"$not": [{"a": 1}]}, "filter.$not"),
    ({"$not": None}, "filter.$not"),
    ({"a": {}}, "filter.a"),
    ({"a": []}, "filter.a"),
    ({"a": [1]}, "filter.a"),
    ({"a": {"b": 1}}, "filter.a.b"),
    ({"a": {"$gt": 1, "b": 1}}, "filter.a.b"),
    ({"a": {"$eq": [1]}}, "filter.a.$eq"),
    ({"a": {"$eq": {"b": 1}}}, "filter.a.$eq"),
    ({"a": {"$ne": []}}, "filter.a.$ne"),
    ({"a": {"$regex": "x"}}, "filter.a.$regex"),
    ({"a": {"$": 1}}, "filter.a.$"),
    ({"a": {"$and": [{"$gt": 1}]}}, "filter.a.$and"),
    ({"a": {"$not": 1}}, "filter.a.$not"),
    ({"a": {"$not": {}}}, "filter.a.$not"),
    ({"a": {"$not": {"$gt": []}}}, "filter.a.$not.$gt"),
    ({"a": {"$gt": True}}, "filter.a.$gt"),
    ({"a": {"$lt": None}}, "filter.a.$lt"),
    ({"a": {"$lte": [1]}}, "filter.a.$lte"),
    ({"a": {"$gte": {}}}, "filter.a.$gte"),
    ({"a": {"$in": 1}}, "filter.a.$in"),
    ({"a": {"$in": [1, [2]]}}, "filter.a.$in[1]"),
    ({"a": {"$nin": [{}]}}, "filter.a.$nin[0]"),
    ({"a": {"$all": "x"}}, "filter.a.$all"),
    ({"a": {"$all": [1, None]}}, "filter.a.$all[1]"),
    ({"a": {"$exists": 1}}, "filter.a.$exists"),
    ({"a": {"$exists": None}}, "filter.a.$exists"),
    ({"a": {"$prefix": 1}}, "filter.a.$prefix"),
    ({"a": {"$contains": ["x"]}}, "filter.a.$contains"),
    ({"a": {"$size": -1}}, "filter.a.$size"),
    ({"a": {"$size": 1.5}}, "filter.a.$size"),
    ({"a": {"$size": "1"}}, "filter.a.$size"),
    ({"a": {"$size": True}}, "filter.a.$size"),
    ({"a.$gt": 1}, "filter.a.$gt"),
    ({".".join("a" * 17): 1}, "filter." + ".".join("a" * 17)),
    ({"x" * 1000: {}}, "filter." + "x" * 79 + "…"),
]


@pytest.mark.parametrize(("value", "where"), BAD, ids=lambda value: str(value)[:60])
def test_every_mistake_points_at_its_place(value: Any, where: str) -> None:
    error = refused(value)
    assert [fault.where for fault in error.faults] == [where]
    assert error.fault_count == 1
    assert error.detail == f"{where}: {error.faults[0].message}"
    assert len(error.detail) < 400


def test_messages_say_what_to_write() -> None:
    assert '"a.b"' in refused({"a": {"b": 1}}).detail
    assert "$in" in refused({"a": [1, 2]}).detail
    assert "$exists" in refused({"a": {}}).detail
    assert '{"field": {"$gt": …}}' in refused({"$gt": 1}).detail
    assert "$prefix" in refused({"a": {"$regex": "x"}}).detail
    assert '{"$or": [{"a": …}, …]}' in refused({"a": {"$or": [1]}}).detail


def test_all_mistakes_are_counted_and_a_hundred_named() -> None:
    error = refused({"a": {"$gt": None}, "$or": [{"b": {"$foo": 1}}, {"c": []}]})
    assert [fault.where for fault in error.faults] == ["filter.a.$gt", "filter.$or[0].b.$foo", "filter.$or[1].c"]
    assert "3 places" in error.detail
    error = refused({"a": {"$in": [[]] * 500}})
    assert (len(error.faults), error.fault_count) == (MAX_FAULTS, 500)


def nested(levels: int, operator: str) -> Any:
    """A filter of so many levels."""
    value: Any = {"a": {"$gt": 1}}
    for _ in range(levels - 1):
        value = {operator: value if operator == "$not" else [value]}
    return value


@pytest.mark.parametrize("operator", ["$and", "$or", "$not"])
def test_depth(operator: str) -> None:
    assert parsed(nested(MAX_DEPTH, operator))
    step = ".$not" if operator == "$not" else f".{operator}[0]"
    assert refused(nested(MAX_DEPTH + 1, operator)).faults[0].where == "filter" + step * MAX_DEPTH
    assert "levels" in refused(nested(200, operator)).detail


def test_depth_behind_a_field() -> None:
    def behind(levels: int) -> Any:
        value: Any = {"$gt": 1}
        for _ in range(levels - 1):
            value = {"$not": value}
        return {"a": value}

    assert parsed(behind(MAX_DEPTH)).root in (Compare(A, ">", 1), Not(Compare(A, ">", 1)))
    assert refused(behind(MAX_DEPTH + 1)).faults[0].where == "filter.a" + ".$not" * MAX_DEPTH


def test_far_too_deep_for_the_decoder() -> None:
    assert "levels" in refused(b'{"$not":' * 100_000 + b"{}" + b"}" * 100_000).detail


def test_nodes_are_counted() -> None:
    assert parsed({"$or": [{f"a{i}": i} for i in range(MAX_NODES - 1)]})
    error = refused({"$or": [{f"a{i}": i} for i in range(100 * MAX_NODES)]})
    assert error.faults[0].where == f"filter.$or[{MAX_NODES - 1}].a{MAX_NODES - 1}"
    assert error.fault_count == 1
    refused({"$and": [{}] * MAX_NODES})
    refused({"a": {"$not": {"$gt": 1}} | dict.fromkeys(["$lt", "$lte", "$gte"], 1), **{f"b{i}": 1 for i in range(996)}})


def test_many_values_fast() -> None:
    values = [f"key-{i}" for i in range(MAX_VALUES)]
    for operator in ("$in", "$nin", "$all"):
        raw = json.dumps({"a": {operator: values[::-1]}}).encode()
        start = time.process_time()
        parse(raw)
        assert time.process_time() - start < 2.0
        error = refused({"a": {operator: [*values, "x"]}})
        assert error.faults[0].where == f"filter.a.{operator}"
        assert str(MAX_VALUES) in error.detail
    found = parsed({"a": {"$in": values[::-1]}}).root
    assert found == Among(A, Values(strings=tuple(sorted(values))))


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1" + "0" * 400 + ".0e10"])
def test_numbers_that_are_not_finite(number: str) -> None:
    for text, where in (
        ('{"a": N}', "filter.a"),
        ('{"$or": [{"a": {"$in": [1.5, N]}}]}', "filter.$or[0].a.$in[1]"),
        ('{"a": {"$gt": N}}', "filter.a.$gt"),
        ('{"a": {"$size": N}}', "filter.a.$size"),
    ):
        error = refused(text.replace("N", number).encode(), NotFinite)
        assert [fault.where for fault in error.faults] == [where]


def test_numbers_of_any_size() -> None:
    assert parsed({"a": 10**4000}).root == Among(A, Values(numbers=(10**4000,)))
    assert parse(b'{"a": 1e308}').root == Among(A, Values(numbers=(int(1e308),)))
    refused(b'{"a": ' + b"1" * 5000 + b"}", OutOfRange)


@pytest.mark.parametrize("raw", [b"", b"{", b'{"a": NaN}', b'{"a": Infinity}', b'{"a": "\xff"}', b'{"a": "\\ud800"}'])
def test_no_json(raw: bytes) -> None:
    with pytest.raises(Malformed) as error:
        parse(raw, "here")
    assert error.value.detail.startswith("here")


def test_the_last_of_a_key_given_twice_counts() -> None:
    assert parse(b'{"a": 2, "a": {"$gt": 5, "$eq": 3, "$gt": 1}}') == parsed({"a": {"$eq": 3, "$gt": 1}})


def test_a_place_of_ones_own_and_raw_values() -> None:
    assert parse(msgspec.Raw(b'{"a": 1}')).root == ONE
    with pytest.raises(InvalidFilter) as error:
        parse(b'{"a": []}', "where")
    assert error.value.faults[0].where == "where.a"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["$and", "$or", "$not", "$in", "$gt", "$eq", "$all", "$size", "a", "a.b"]) | st.text(),
                inner,
            )
        ),
    )
)
@settings(max_examples=150, deadline=None)
def test_anything_is_read_or_refused(value: Any) -> None:
    try:
        made = parse_value(value)
    except (InvalidFilter, NotFinite) as error:
        assert error.faults
        assert error.fault_count >= len(error.faults)
    else:
        assert made == normal(made.root)
