"""What docs/filters.md says of the language is so."""

import json
import re
from pathlib import Path

import pytest

from app.engine.errors import MAX_FAULTS, InvalidFilter
from app.engine.filters.parse import parse, parse_value
from seedvec.filters import parse as parser
from seedvec.filters.row import compile_row
from tests.filter_reference import matches

PAGE = (Path(__file__).parents[3] / "docs" / "filters.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(\{.*\})` \| `(\{.*\})` \| `(\{.*\})` \|$", PAGE, re.MULTILINE)


def test_there_are_examples_of_every_operator() -> None:
    assert len(ROWS) >= 20
    shown = " ".join(filter for filter, _, _ in ROWS)
    for operator in (*parser.OPERATORS, "$and", "$or", "$not"):
        assert f"`{operator}`" in PAGE
        assert operator in ("$eq", "$lte") or f'"{operator}"' in shown


@pytest.mark.parametrize(("filter", "good", "bad"), ROWS)
def test_the_examples_hold(filter: str, good: str, bad: str) -> None:
    test = compile_row(parse(filter.encode()))
    for item, holds in ((json.loads(good), True), (json.loads(bad), False)):
        assert test(item) is holds
        assert matches(json.loads(filter), item) is holds


def test_the_refusal_shown_is_the_one_given() -> None:
    shown = json.loads(re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)[0])
    with pytest.raises(InvalidFilter) as refused:
        parse_value({"$or": [{}, {"length": {"$gte": None}}], "by": {"name": "B"}})
    assert [{"where": f.where, "message": f.message} for f in refused.value.faults] == shown["errors"]
    assert refused.value.fault_count == shown["error_count"] <= MAX_FAULTS


def test_the_limits_are_those_of_the_code() -> None:
    limits = re.search(r"^Sixteen levels .*?path\.", PAGE, re.MULTILINE | re.DOTALL)
    assert limits is not None
    assert (parser.MAX_DEPTH, parser.MAX_KEYS) == (16, 16)
    for number in (parser.MAX_NODES, parser.MAX_VALUES):
        assert f"{number:,}" in limits[0]
