"""RFC 7396, appendix A, as far as an item's metadata can be of it: both sides are objects."""

import json
from typing import Any

import pytest

from app.engine.errors import OutOfRange
from app.engine.merge_patch import MAX_METADATA_BYTES, merge_patch

SECTION_3 = (
    """{"title": "Goodbye!", "author": {"givenName": "John", "familyName": "Doe"}, "tags": ["example", "sample"],
        "content": "This will be unchanged"}""",
    """{"title": "Hello!", "phoneNumber": "+01-123-456-7890", "author": {"familyName": null}, "tags": ["example"]}""",
    """{"title": "Hello!", "author": {"givenName": "John"}, "tags": ["example"], "content": "This will be unchanged",
        "phoneNumber": "+01-123-456-7890"}""",
)
EXAMPLES: list[tuple[str, str, str | None]] = [
    ('{"a":"b"}', '{"a":"c"}', '{"a":"c"}'),
    ('{"a":"b"}', '{"b":"c"}', '{"a":"b","b":"c"}'),
    ('{"a":"b"}', '{"a":null}', "{}"),
    ('{"a":"b","b":"c"}', '{"a":null}', '{"b":"c"}'),
    ('{"a":["b"]}', '{"a":"c"}', '{"a":"c"}'),
    ('{"a":"c"}', '{"a":["b"]}', '{"a":["b"]}'),
    ('{"a":{"b":"c"}}', '{"a":{"b":"d","c":null}}', '{"a":{"b":"d"}}'),
    ('{"a":[{"b":"c"}]}', '{"a":[1]}', '{"a":[1]}'),
    ('{"e":null}', '{"a":1}', '{"e":null,"a":1}'),
    ("{}", '{"a":{"bb":{"ccc":null}}}', '{"a":{"bb":{}}}'),
    SECTION_3,
    # What a scalar was becomes an object; null inside an array is a value.
    ('{"a":1}', '{"a":{"b":2,"c":null}}', '{"a":{"b":2}}'),
    ('{"a":1}', '{"a":[null]}', '{"a":[null]}'),
    # Numbers stay what they are, of any size.
    ('{"a":9007199254740993,"b":1e-7}', '{"c":123456789012345678901234567890}', None),  # type: ignore[list-item]
]


def parsed(text: str | bytes) -> Any:
    return json.loads(text)


@pytest.mark.parametrize(("old", "patch", "new"), EXAMPLES)
def test_examples(old: str, patch: str, new: str | None) -> None:
    merged = merge_patch(patch.encode())(old.encode())
    assert merged is not None
    if new is not None:
        assert parsed(merged) == parsed(new)
    else:
        assert parsed(merged) == {"a": 9007199254740993, "b": 1e-7, "c": 123456789012345678901234567890}


def test_without_metadata_it_begins_empty() -> None:
    assert merge_patch(b'{"a":1,"b":null}')(None) == b'{"a":1}'
    assert merge_patch(b"{}")(None) == b"{}"


def test_a_patch_is_applied_to_each_item_by_itself() -> None:
    merge = merge_patch(b'{"a":{"x":1}}')
    assert merge(b'{"a":{"y":2}}') == b'{"a":{"y":2,"x":1}}'
    assert merge(b'{"a":{"z":3}}') == b'{"a":{"z":3,"x":1}}'


def test_it_does_not_grow_past_what_an_item_may_hold() -> None:
    half = b'{"%s":"%s"}'
    old = half % (b"a", b"x" * (MAX_METADATA_BYTES - 20))
    assert merge_patch(b'{"b":1}')(old) is not None
    with pytest.raises(OutOfRange):
        merge_patch(half % (b"b", b"y" * 40))(old)
