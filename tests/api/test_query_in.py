"""Query strings of the hot routes."""

import pytest
from msgspec import UNSET

from app.api.query_in import decode_query
from app.api.refusals import UnknownField
from app.api.schemas import ListBody, NoQuery, SearchQuery, WriteQuery
from app.engine.errors import Invalid, NotFinite, OutOfRange, Refused


def test_values() -> None:
    got = decode_query(b"k=5&exact=true&max_distance=-1.5&include=metadata,vector", SearchQuery)
    assert (got.k, got.exact, got.max_distance, got.include) == (5, True, -1.5, ["metadata", "vector"])


def test_defaults_and_lists() -> None:
    assert decode_query(b"", SearchQuery) == SearchQuery()
    assert decode_query(b"include=", SearchQuery).include == []
    assert decode_query(b"include=vector&include=metadata", SearchQuery).include == ["vector", "metadata"]
    assert decode_query(b"", WriteQuery).first_id is UNSET
    assert decode_query(b"cursor=1", ListBody).cursor == "1"


@pytest.mark.parametrize(
    ("raw", "kind", "where"),
    [
        (b"k=0", OutOfRange, "k"),
        (b"timeout_ms=0", OutOfRange, "timeout_ms"),
        (b"k=ten", Invalid, "k"),
        (b"k=", Invalid, "k"),
        (b"k=1&k=2", Invalid, "k"),
        (b"exact=maybe", Invalid, "exact"),
        (b"include=vectors", Invalid, "include[0]"),
        (b"max_distance=nan", NotFinite, "max_distance"),
        (b"max_distance=inf", NotFinite, "max_distance"),
        (b"recall=high", Invalid, "recall"),
        (b"recal=0.9", UnknownField, "recal"),
        (b"k=%ff", Invalid, "query"),
        (b"&".join(b"a%d=1" % i for i in range(200)), Invalid, "query"),
    ],
)
def test_refused(raw: bytes, kind: type[Refused], where: str) -> None:
    with pytest.raises(Refused) as refused:
        decode_query(raw, SearchQuery)
    assert type(refused.value) is kind
    assert refused.value.faults[0].where == where


def test_no_query() -> None:
    with pytest.raises(UnknownField):
        decode_query(b"x=1", NoQuery)
