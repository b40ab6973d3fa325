"""Ids and names from paths and bodies."""

import pytest

from app.api.ids import check_name, check_new_name, fault_of, path_id
from app.engine.errors import CollectionNotFound, IdNotFound, IdTypeMismatch, Invalid, OutOfRange, Refused
from app.engine.types import Id, IdType


@pytest.mark.parametrize(
    ("raw", "id_type", "id"),
    [
        (b"42", "int", 42),
        (b"0", "int", 0),
        (b"9223372036854775807", "int", 2**63 - 1),
        (b"%34%32", "int", 42),
        (b"42", "str", "42"),
        (b"a/b", "str", "a/b"),
        (b"a%2Fb", "str", "a/b"),
        (b"a%252Fb", "str", "a%2Fb"),
        (b"%C3%A9+x%20", "str", "é+x "),
        (b"a%0Ab", "str", "a\nb"),
        (b"...", "str", "..."),
    ],
)
def test_path_ids(raw: bytes, id_type: IdType, id: Id) -> None:
    assert path_id(raw, id_type) == id


@pytest.mark.parametrize(
    ("raw", "id_type", "kind"),
    [
        (b"abc", "int", IdTypeMismatch),
        (b"-1", "int", IdTypeMismatch),
        (b"007", "int", IdTypeMismatch),
        (b"1.0", "int", IdTypeMismatch),
        (b"%D9%A3", "int", IdTypeMismatch),
        (b"9223372036854775808", "int", OutOfRange),
        (b"9" * 5000, "int", OutOfRange),
        (b".", "str", OutOfRange),
        (b"%2E%2e", "str", OutOfRange),
        (b"a%00", "str", OutOfRange),
        (b"x" * 513, "str", OutOfRange),
        (b"%ff", "str", Invalid),
        (b"%C3", "int", Invalid),
        (b"1", "auto", IdNotFound),
        (b"a", "auto", IdNotFound),
    ],
)
def test_path_ids_refused(raw: bytes, id_type: IdType, kind: type[Refused]) -> None:
    with pytest.raises(Refused) as refused:
        path_id(raw, id_type)
    assert type(refused.value) is kind


@pytest.mark.parametrize("id", [0, 2**63 - 1, "a", "x" * 512, "é" * 256, "...", "a.b", " "])
def test_ids(id: Id) -> None:
    assert fault_of(id) is None


@pytest.mark.parametrize("name", ["a", "0", "a_b-c", "x" * 63])
def test_names(name: str) -> None:
    assert check_new_name(name) == name == check_name(name)


@pytest.mark.parametrize("name", ["", "A", "_a", "-a", "a.b", "x" * 64, "a\n", "é", "a/b"])
def test_names_refused(name: str) -> None:
    with pytest.raises(OutOfRange, match="a-z0-9"):
        check_new_name(name)
    with pytest.raises(CollectionNotFound):
        check_name(name)
