"""Answers as bytes: shortest float32 decimals, metadata as stored, arrays filled up."""

import io
from itertools import accumulate

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.encode import items_value, json_response, npz_response, search_value
from app.engine.errors import OutOfRange
from app.engine.types import Hits, Id, Items, SearchAnswer


def answered(*found: tuple[list[Id], list[float]]) -> SearchAnswer:
    """Ids and distances of each query's hits."""
    ids = [id_ for ids, _ in found for id_ in ids]
    distances = np.array([distance for _, distances in found for distance in distances], np.float32)
    starts = [0, *accumulate(len(ids) for ids, _ in found)]
    return SearchAnswer(Hits(Items(ids), distances, starts), True, None, None)


def test_a_search_answer_is_the_contracts() -> None:
    found = Hits(Items([42], None, [b'{"pos":"noun"}']), np.array([0.1834], np.float32), [0, 1])
    body = json_response(search_value(SearchAnswer(found, False, 0.962, "data"), False, 0.0007)).body
    assert body == (
        b'{"hits":[{"id":42,"distance":0.1834,"metadata":{"pos":"noun"}}],'
        b'"exact":false,"expected_recall":0.962,"calibrated_on":"data","took_ms":0.7}'
    )


def test_several() -> None:
    answer = answered(([1], [0.5]), ([], []))
    value = orjson.loads(json_response(search_value(answer, True, 0)).body)
    assert [len(result["hits"]) for result in value["results"]] == [1, 0]


def test_an_item_without_metadata_says_null() -> None:
    body = json_response(items_value(Items(["a"], np.ones((1, 2), np.float16), [None]))).body
    assert body == b'[{"id":"a","vector":[1.0,1.0],"metadata":null}]'


@given(st.lists(st.floats(width=16, allow_nan=False, allow_infinity=False), min_size=1, max_size=8))
def test_float16_reads_back_bit_for_bit(numbers: list[float]) -> None:
    stored = np.array([numbers], np.float16)
    sent = orjson.loads(json_response(items_value(Items([1], stored))).body)[0]["vector"]
    assert np.array(sent).astype(np.float16).tobytes() == stored.tobytes()


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=8))
def test_float32_goes_out_as_the_shortest_decimal(numbers: list[float]) -> None:
    stored = np.array([numbers], np.float32)
    body = bytes(json_response(items_value(Items([1], stored))).body).decode()
    for text, number in zip(body.partition('"vector":[')[2].rstrip("}]").split(","), stored[0], strict=True):
        digits = text.lstrip("-").split("e")[0].replace(".", "").strip("0")
        shortest = np.format_float_scientific(number, unique=True, trim="-")
        assert len(digits) <= len(shortest.lstrip("-").split("e")[0].replace(".", "").strip("0"))
        assert np.float32(np.longdouble(text)) == number


def test_npz_of_ints_is_filled_up() -> None:
    got = np.load(io.BytesIO(npz_response(answered(([5, 2], [0, 1]), ([], [])), 3, "int").body))
    assert got["ids"].dtype == np.int64 and got["ids"].tolist() == [[5, 2, -1], [-1, -1, -1]]
    assert got["distances"].dtype == np.float32
    assert got["distances"].tolist() == [[0, 1, np.inf], [np.inf] * 3]


def test_npz_of_strings() -> None:
    answer = answered((["é", "abc"], [0, 1]), (["x" * 64], [0]))
    got = np.load(io.BytesIO(npz_response(answer, 2, "str").body))
    assert got["ids"].tolist() == [["é".encode(), b"abc"], [b"x" * 64, b""]]


def test_npz_of_strings_without_hits() -> None:
    got = np.load(io.BytesIO(npz_response(answered(([], [])), 2, "str").body))
    assert got["ids"].tolist() == [[b"", b""]]


def test_npz_of_longer_strings_is_refused() -> None:
    with pytest.raises(OutOfRange, match="JSON"):
        npz_response(answered((["é" * 33], [0])), 1, "str")
