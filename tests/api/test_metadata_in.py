"""Metadata: stored compactly, every number as it was written, keys that a filter could name."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.limits import METADATA_BYTES_MAX, METADATA_DEPTH_MAX
from app.api.metadata_in import compact, compact_all
from app.api.refusals import InvalidMetadata


def stored(text: str) -> bytes | None:
    return compact(msgspec.Raw(text.encode()), "m")


def nested(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


def test_compact_utf8() -> None:
    assert (
        stored('{ "a" : "\\u00e9\\/" ,\n "b": [1, 2.50, true, null] }') == '{"a":"é/","b":[1,2.5,true,null]}'.encode()
    )


def test_integers_beyond_64_bits_survive() -> None:
    assert stored('{"a": 123456789012345678901234567890, "b": -9223372036854775809}') == (
        b'{"a":123456789012345678901234567890,"b":-9223372036854775809}'
    )


def test_null_is_none() -> None:
    assert stored("null") is None
    assert compact_all([None, msgspec.Raw(b"null")], "m[{}]") is None


@pytest.mark.parametrize(
    "text", ["1", '"a"', "[]", "true", nested(METADATA_DEPTH_MAX + 1), '{"a": [{"$b": 1}]}', '{"a.b": 1}']
)
def test_refused(text: str) -> None:
    with pytest.raises(InvalidMetadata):
        stored(text)


def test_depth_and_size_at_the_bound() -> None:
    assert stored(nested(METADATA_DEPTH_MAX)) is not None
    assert stored(json.dumps({"a": "x" * (METADATA_BYTES_MAX - 8)})) is not None
    with pytest.raises(InvalidMetadata):
        stored(json.dumps({"a": "x" * (METADATA_BYTES_MAX - 7)}))


def test_every_bad_item_is_named() -> None:
    with pytest.raises(InvalidMetadata) as refused:
        compact_all([msgspec.Raw(b"{}"), msgspec.Raw(b"1"), msgspec.Raw(b'{"$a":1}')], "items[{}].metadata")
    assert [f.where for f in refused.value.faults] == ["items[1].metadata", "items[2].metadata.$a"]


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
KEYS = st.text(max_size=8).filter(lambda key: "." not in key and not key.startswith("$"))
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=10
)


@given(st.dictionaries(KEYS, VALUES, max_size=5), st.booleans())
def test_what_is_stored_is_what_was_sent(value: dict[str, Any], ascii_only: bool) -> None:
    text = stored(json.dumps(value, ensure_ascii=ascii_only, indent=1))
    assert text is not None
    assert json.loads(text) == value
