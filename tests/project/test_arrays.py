"""Arrays in JSON read back bit for bit, with few digits; arrays as `.npy` are the array."""

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedvec.arrays import listed, npy


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_float32_reads_back(values: list[float]) -> None:
    array = np.array(values, np.float32)
    back = np.array(json.loads(json.dumps(listed(array))), np.float64).astype(np.float32)
    assert back.tobytes() == array.tobytes()


def test_every_float16_reads_back() -> None:
    array = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    array = array[np.isfinite(array)]
    back = np.array(json.loads(json.dumps(listed(array))), np.float64).astype(np.float16)
    assert back.tobytes() == array.tobytes()


@pytest.mark.parametrize(("dtype", "most"), [(np.float16, 12), (np.float32, 16)])
def test_few_digits(dtype: type, most: int) -> None:
    array = np.random.default_rng(1).standard_normal((100, 10)).astype(dtype)
    longest = max(len(repr(x)) for row in listed(array) for x in row)
    assert longest <= most


def test_lists_integers_and_float64_pass_as_they_are() -> None:
    assert listed((1, "a")) == [1, "a"]
    assert listed(np.array([2**62])) == [2**62]
    assert listed(np.array([0.1])) == [0.1]


def test_npy_is_the_array() -> None:
    array = np.arange(6, dtype=np.float16).reshape(2, 3)
    assert np.array_equal(np.load(io.BytesIO(npy(array)), allow_pickle=False), array)
