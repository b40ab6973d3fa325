"""Filters that were read once are kept, by their text and bounded in bytes."""

import json
import tracemalloc
from typing import Any

import pytest
from msgspec import UNSET, Raw

from app.api.filter_in import Read, cost, filter_in
from app.engine.errors import InvalidFilter, Malformed
from app.engine.filters.parse import parse


def text(i: int, size: int = 100) -> bytes:
    return json.dumps({"a": str(i).rjust(size)}).encode()


def test_the_same_text_is_read_once() -> None:
    read = Read(10_000)
    assert read(text(1)) is read(text(1))
    assert read(text(1)) == parse(text(1))
    assert read(text(1)) is not read(text(2))


def test_what_was_not_asked_for_longest_goes_first() -> None:
    read = Read(4 * cost(text(0)))
    first = read(text(0))
    for i in range(1, 4):
        read(text(i))
    assert read(text(0)) is first
    read(text(4))
    assert len(read) == 4
    assert read(text(0)) is first
    for i in range(5, 100):
        read(text(i))
    assert len(read) == 4
    assert read(text(0)) is not first


def test_one_that_is_too_large_is_read_and_not_kept() -> None:
    read = Read(cost(text(1)))
    assert read(text(1, 2_000)) == parse(text(1, 2_000))
    assert len(read) == 0


@pytest.mark.parametrize(
    "filters",
    [
        [{"a": i} for i in range(500)],
        [{"pos": "noun", "length": {"$gte": i, "$lt": i + 10}} for i in range(500)],
        [{"$or": [{f"a{i}": i + j} for i in range(900)]} for j in range(2)],
        [{"a": {"$in": list(range(50_000))}}],
        [{"a": {"$in": [f"{i:05}" for i in range(50_000)]}}],
        [{"a": {"$in": [chr(0x4E00 + i % 20_000) + chr(0x4E00 + i // 5_000) for i in range(50_000)]}}],
    ],
    ids=["tiny", "usual", "conditions", "ints", "strings", "not ASCII"],
)
def test_the_memory_of_a_filter_is_not_underestimated(filters: list[dict[str, Any]]) -> None:
    texts = [json.dumps(filter, ensure_ascii=False, separators=(",", ":")).encode() for filter in filters]
    tracemalloc.start()
    try:
        kept = {bytes(text): parse(text) for text in texts}
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(kept) == len(filters)
    assert sum(map(cost, texts)) / 4 < taken < sum(map(cost, texts))


def test_what_is_refused_is_not_kept() -> None:
    read = Read(1_000)
    for _ in range(2):
        with pytest.raises(InvalidFilter):
            read(b'{"a": []}')
    assert len(read) == 0


def test_from_a_body_and_from_a_query_string() -> None:
    assert filter_in(Raw(b'{"a":1}')) is filter_in('{"a":1}')
    assert filter_in(UNSET) is None
    for everything in ("{}", '{"$and":[{}]}', '{"a":{"$nin":[]}}', '{"$not":{"$or":[]}}'):
        assert filter_in(everything) is None
    with pytest.raises(Malformed):
        filter_in(Raw(b'{"a":NaN}'))
    with pytest.raises(InvalidFilter) as refused:
        filter_in('{"a":NaN}')
    assert refused.value.faults[0].where == "filter"
