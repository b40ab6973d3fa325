"""Bodies of add and upsert: what they decode to, and every fault named where it is."""

from typing import Any

import numpy as np
import orjson
import pytest
from msgspec import UNSET, Raw

from app.api.npy import dump
from app.api.refusals import InvalidMetadata, UnknownField
from app.api.rows_in import from_json, from_npy
from app.api.vectors_in import Decoded
from app.engine.errors import (
    DimensionMismatch,
    IdTypeMismatch,
    Invalid,
    Malformed,
    NotFinite,
    OutOfRange,
    Refused,
)
from app.engine.types import CollectionSettings
from app.settings import Settings

AUTO = CollectionSettings(2)
INT = CollectionSettings(2, id_type="int")
STR = CollectionSettings(2, id_type="str")


def refusal(body: bytes | Any, settings: CollectionSettings = AUTO) -> Refused:
    with pytest.raises(Refused) as refused:
        from_json(body if isinstance(body, bytes) else orjson.dumps(body), settings)
    return refused.value


def test_items() -> None:
    rows = from_json(
        b'{"items": [{"id": 7, "vector": [1, 2.5], "metadata": {"a": 1}}, {"id": 8, "vector": [3, 4]}]}', INT
    )
    assert rows.vectors.tolist() == [[1, 2.5], [3, 4]]
    assert (rows.ids, rows.metadata, rows.place) == ([7, 8], [b'{"a":1}', None], "items")


def test_columns() -> None:
    rows = from_json(b'{"ids": ["a", "b"], "vectors": [[1, 2], [3, 4]], "metadata": [null, {}]}', AUTO)
    assert (rows.ids, rows.metadata, rows.place) == (["a", "b"], [None, b"{}"], "columns")


def test_ids_and_metadata_may_be_left_out() -> None:
    rows = from_json(b'{"vectors": [[1, 2]]}', AUTO)
    assert rows.ids is None and rows.metadata is None
    assert from_json(b'{"items": [{"vector": [1, 2]}]}', AUTO).ids is None


def test_the_last_of_a_key_given_twice_counts() -> None:
    assert from_json(b'{"vectors": [[9, 9]], "vectors": [[1, 2]]}', AUTO).vectors.tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("body", "kind", "where"),
    [
        (
            {"items": [{"id": 1, "vector": [1, 2]}] * 17 + [{"id": 1, "vector": [1]}]},
            DimensionMismatch,
            "items[17].vector",
        ),
        ({"vectors": [[1, 2], [1, 2, 3]]}, DimensionMismatch, "vectors[1]"),
        ({"items": [{"vector": []}]}, DimensionMismatch, "items[0].vector"),
        ({"items": [{"vector": [1, "2"]}]}, Invalid, "items[0].vector[1]"),
        ({"items": [{"vector": [1, True]}]}, Invalid, "items[0].vector[1]"),
        ({"items": [{"vector": [1, None]}]}, Invalid, "items[0].vector[1]"),
        ({"items": [{"vector": [[1, 2]]}]}, Invalid, "items[0].vector[0]"),
        ({"items": [{"id": 1}]}, Invalid, "items[0].vector"),
        ({"items": [{"vector": [1, 2], "values": 1}]}, UnknownField, "items[0].values"),
        ({"items": [{"vector": [1, 2]}], "upsert": True}, UnknownField, "upsert"),
        ({"items": [{"vector": [1, 2]}], "ids": [1]}, Invalid, "ids"),
        ({"ids": [1]}, Invalid, "items"),
        ({"items": []}, OutOfRange, "items"),
        ({"vectors": []}, OutOfRange, "vectors"),
        ({"vectors": [[1, 2]], "ids": [1, 2]}, Invalid, "ids"),
        ({"vectors": [[1, 2]], "metadata": []}, Invalid, "metadata"),
        ({"items": [{"id": 1, "vector": [1, 2]}, {"vector": [1, 2]}]}, Invalid, "items[1].id"),
        ({"items": [{"id": 1, "vector": [1, 2]}, {"id": "1", "vector": [1, 2]}]}, IdTypeMismatch, "items[1].id"),
        ({"vectors": [[1, 2]] * 2, "ids": ["a", 1]}, IdTypeMismatch, "ids[1]"),
        ({"items": [{"id": 1.0, "vector": [1, 2]}]}, Invalid, "items[0].id"),
        ({"items": [{"id": True, "vector": [1, 2]}]}, Invalid, "items[0].id"),
        ({"items": [{"id": None, "vector": [1, 2]}]}, Invalid, "items[0].id"),
        ({"items": [{"id": -1, "vector": [1, 2]}]}, OutOfRange, "items[0].id"),
        ({"items": [{"id": 2**63, "vector": [1, 2]}]}, OutOfRange, "items[0].id"),
        ({"items": [{"id": "", "vector": [1, 2]}]}, OutOfRange, "items[0].id"),
        ({"items": [{"id": "..", "vector": [1, 2]}]}, OutOfRange, "items[0].id"),
        ({"items": [{"id": "a\0", "vector": [1, 2]}]}, OutOfRange, "items[0].id"),
        ({"items": [{"id": "é" * 257, "vector": [1, 2]}]}, OutOfRange, "items[0].id"),
        ({"items": [{"vector": [1, 2], "metadata": [1]}]}, InvalidMetadata, "items[0].metadata"),
        ({"items": [{"vector": [1, 2], "metadata": {"a": {"b.c": 1}}}]}, InvalidMetadata, "items[0].metadata.a.b.c"),
        ({"vectors": [[1, 2]] * 2, "metadata": [{}, {"$a": 1}]}, InvalidMetadata, "metadata[1].$a"),
        ([], Invalid, "body"),
        (b'{"vectors": [[1, 1e400]]}', NotFinite, "vectors[0][1]"),
        (b'{"vectors": [[1, ' + b"9" * 400 + b"]]}", NotFinite, "vectors[0][1]"),
        (b'{"items": [{"id": ' + b"9" * 30 + b', "vector": [1, 2]}]}', OutOfRange, "items[0].id"),
        (b'{"vectors": [[1, 2]], "metadata": [{"a": 1e400}]}', NotFinite, "metadata[0]"),
    ],
)
def test_faults_are_named(body: Any, kind: type[Refused], where: str) -> None:
    refused = refusal(body)
    assert type(refused) is kind
    assert refused.faults[0].where == where
    assert refused.fault_count == 1


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"nonsense",
        b'{"vectors": [[1, NaN]]}',
        b'{"vectors": [[1, Infinity]]}',
        b'{"vectors": [[1, 2]]} x',
        b'{"vectors": [[01, 2]]}',
        b'{"vectors": [[1, 2],]}',
        b"\xef\xbb\xbf{}",
        b'{"ids": ["\xff"], "vectors": [[1, 2]]}',
        b'{"ids": ["\\ud800"], "vectors": [[1, 2]]}',
        b'{"vectors": [[1, 2]], "metadata": [{"a": "\xff"}]}',
        b'{"vectors": [[1, 2]], "metadata": [' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"]}",
    ],
)
def test_no_json(body: bytes) -> None:
    assert type(refusal(body)) is Malformed


def test_every_wrong_row_counts_and_a_hundred_are_named() -> None:
    refused = refusal({"vectors": [[1, 2]] + [[1]] * 250})
    assert refused.fault_count == 250 and len(refused.faults) == 100
    assert refused.faults[0].where == "vectors[1]"
    assert "251" not in refused.detail and "250" in refused.detail


@pytest.mark.parametrize(("settings", "id", "other"), [(INT, "a", "str"), (STR, 1, "int")])
def test_the_other_id_type_is_told_how_to_get_its_collection(
    settings: CollectionSettings, id: int | str, other: str
) -> None:
    refused = refusal({"items": [{"id": id, "vector": [1, 2]}]}, settings)
    assert type(refused) is IdTypeMismatch
    assert f'"id_type": "{other}"' in refused.detail


def test_too_many_items() -> None:
    body = b'{"vectors": [' + b"[1,2]," * Settings().items_max + b"[1,2]]}"
    assert type(refusal(body)) is OutOfRange


def test_npy_rows() -> None:
    rows = from_npy(dump(np.ones((3, 2), np.float16)), 5, INT)
    assert rows.vectors.dtype == np.float16 and rows.place == "npy"
    assert isinstance(rows.ids, np.ndarray) and rows.ids.tolist() == [5, 6, 7]
    assert from_npy(dump(np.ones((3, 2))), UNSET, STR).ids is None


def test_npy_first_id_up_to_the_largest() -> None:
    rows = from_npy(dump(np.ones((2, 2))), 2**63 - 2, INT)
    assert isinstance(rows.ids, np.ndarray) and rows.ids.tolist() == [2**63 - 2, 2**63 - 1]


@pytest.mark.parametrize(
    ("first_id", "settings", "kind"),
    [(2**63 - 2, INT, OutOfRange), (2**70, INT, OutOfRange), (0, STR, IdTypeMismatch)],
)
def test_npy_first_id_refused(first_id: int, settings: CollectionSettings, kind: type[Refused]) -> None:
    with pytest.raises(Refused) as refused:
        from_npy(dump(np.ones((3, 2))), first_id, settings)
    assert type(refused.value) is kind


def test_npy_of_another_width() -> None:
    with pytest.raises(DimensionMismatch) as refused:
        from_npy(dump(np.ones((3, 5))), UNSET, AUTO)
    assert "5" in refused.value.detail and "2" in refused.value.detail


def test_vectors_of_a_large_body_are_decoded_one_at_a_time() -> None:
    """What decodes holds the interpreter: the event loop must be let in between two vectors."""
    texts = [b"[1, 2]", b"[3, 4]", b'["a", 5]']
    given = iter(Decoded([Raw(text) for text in texts], "vectors[{}]"))
    assert [next(given), next(given)] == [[1, 2], [3, 4]]
    with pytest.raises(Invalid) as refused:
        next(given)
    assert refused.value.faults[0].where == "vectors[2][0]"


def test_no_room_is_taken_for_vectors_that_are_not_there() -> None:
    """A body of empty lists is refused by what is in it, not by what as many right ones would take: 25 GB here."""
    body = b'{"vectors": [' + b",".join([b"[]"] * 50_000) + b"]}"
    found = refusal(body, CollectionSettings(65_536))
    assert isinstance(found, DimensionMismatch) and found.fault_count == 50_000
