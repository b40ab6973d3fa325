"""What the server prints reads back to what it stored, bit for bit."""

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.vectors_in import matrix


def read_back(numbers: "np.ndarray[tuple[int], np.dtype[np.float32]]") -> bytes:
    text = orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY)
    return matrix([orjson.loads(text)], len(numbers), "vector").astype(np.float32).tobytes()


@pytest.mark.parametrize("bits", [0x15AE43FD, 0x95AE43FD])
def test_a_text_half_way_between_two_float32(bits: int) -> None:
    numbers = np.array([bits], np.uint32).view(np.float32)
    text = orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY).decode()
    assert text.strip("[-]") == "7.038531e-26"
    assert read_back(numbers) == numbers.tobytes()


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_every_float32(values: list[float]) -> None:
    numbers = np.array(values, np.float32)
    assert read_back(numbers) == numbers.tobytes()


def test_many_at_once() -> None:
    numbers = np.random.default_rng(3).integers(0, 0x7F800000, 200_000, np.uint32).view(np.float32)
    assert read_back(numbers) == numbers.tobytes()


@pytest.mark.parametrize("number", [16777217.0, 1.0, 0.1, -0.0])
def test_other_numbers_round_as_ever(number: float) -> None:
    assert matrix([[number]], 1, "vector").astype(np.float32) == np.float32(number)
