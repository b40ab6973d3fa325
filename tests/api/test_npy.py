"""The `.npy` reader: takes what numpy.save writes, and answers anything else with a refusal."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.api import npy
from app.engine.errors import Invalid, Malformed, Refused


def saved(array: Any, version: tuple[int, int] | None = None, **options: Any) -> bytes:
    out = io.BytesIO()
    if version is None:
        np.save(out, array, **options)
    else:
        np.lib.format.write_array(out, array, version=version)
    return out.getvalue()


def with_header(text: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    raw = text.encode()
    length = struct.pack("<H" if version[0] == 1 else "<I", len(raw))
    return b"\x93NUMPY" + version + length + raw + data


ROWS = np.arange(12).reshape(3, 4) / 7


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f2", ">f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("version", [None, (2, 0), (3, 0)])
def test_takes_every_float_order_and_version(dtype: str, order: Any, version: tuple[int, int] | None) -> None:
    array = np.array(ROWS, dtype=dtype, order=order)
    got = npy.matrix(saved(array, version))
    assert got.dtype == array.dtype.newbyteorder("=") and got.dtype.isnative
    assert got.flags.c_contiguous and got.flags.aligned
    assert np.array_equal(got, array)


def test_one_dimension_is_one_row() -> None:
    body = saved(ROWS[0])
    assert npy.parse(body).shape == (4,)
    assert np.array_equal(npy.matrix(body), ROWS[:1])


def test_a_bytearray_is_read_without_a_copy() -> None:
    body = bytearray(saved(ROWS))
    got = npy.matrix(body)
    body[-8:] = struct.pack("<d", 5.0)
    assert got[-1, -1] == 5.0


def test_data_at_an_odd_offset_is_aligned() -> None:
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (1, 2)}"
    got = npy.matrix(with_header(header + " " * (1 - len(header) % 2), struct.pack("<2d", 1.5, 2.5)))
    assert got.tolist() == [[1.5, 2.5]] and got.flags.aligned


def test_dump_reads_back_bit_for_bit() -> None:
    row = ROWS.astype(np.float16)[1]
    back = np.load(io.BytesIO(npy.dump(row)), allow_pickle=False)
    assert back.dtype == np.float16 and back.tobytes() == row.tobytes()


MALFORMED = {
    "empty": b"",
    "no npy": b"PK\x03\x04 and more",
    "magic alone": b"\x93NUMPY",
    "version 4": b"\x93NUMPY\x04\x00" + saved(ROWS)[8:],
    "cut in the header": saved(ROWS)[:40],
    "cut in the data": saved(ROWS)[:-1],
    "longer than it says": saved(ROWS) + b"\0",
    "pickle": saved(np.array([[{"a": 1}]], dtype=object), allow_pickle=True),
    "header bomb": with_header("(" * 9000),
    "header of 4 GiB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}",
    "header over the bound": with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1)}" + " " * 20_000),
    "declares 512 TB": with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 128)}"),
    "huge extents": with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 4000 + ", 1)}"),
    "negative shape": with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4)}"),
    "shape of bools": with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (True, 1)}", b"\0" * 4),
    "shape no tuple": with_header("{'descr': '<f4', 'fortran_order': False, 'shape': [1, 1]}", b"\0" * 4),
    "order no bool": with_header("{'descr': '<f4', 'fortran_order': 0, 'shape': (1, 1)}", b"\0" * 4),
    "field missing": with_header("{'descr': '<f4', 'shape': (1, 1)}", b"\0" * 4),
    "field more": with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1), 'x': 1}", b"\0" * 4),
    "a call": with_header("{'descr': __import__('os').getcwd(), 'fortran_order': False, 'shape': (1, 1)}"),
    "escape that warns": with_header("{'descr': '\\d', 'fortran_order': False, 'shape': (1, 1)}"),
    "unhashable": with_header("{[]: 1}"),
    "no UTF-8": b"\x93NUMPY\x01\x00\x02\x00\xff\xfe",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(name: str) -> None:
    with pytest.raises(Malformed):
        npy.parse(MALFORMED[name])


@pytest.mark.parametrize(
    ("array", "where"),
    [
        (np.zeros((2, 2), np.int64), "dtype"),
        (np.zeros((2, 2), np.complex64), "dtype"),
        (np.zeros((2, 2), "S4"), "dtype"),
        (np.zeros(3, [("a", "<f4")]), "dtype"),
        (np.zeros((2, 2), np.longdouble), "dtype"),
        (np.zeros((2, 2, 2), np.float32), "shape"),
        (np.float32(3), "shape"),
        (np.zeros((0, 4), np.float32), "shape"),
        (np.zeros((4, 0), np.float32), "shape"),
    ],
)
def test_readable_but_not_acceptable(array: Any, where: str) -> None:
    with pytest.raises(Invalid) as refused:
        npy.parse(saved(array))
    assert refused.value.faults[0].where == where


GOOD = saved(ROWS.astype(np.float32))


@given(st.binary(max_size=400))
@example(b"\x93NUMPY\x01\x00\x00\x00")
def test_any_bytes_are_refused(body: bytes) -> None:
    with pytest.raises(Refused):
        npy.parse(body)


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_any_damage_is_refused_or_read_as_numbers(changes: list[tuple[int, int]]) -> None:
    body = bytearray(GOOD)
    for at, value in changes:
        body[at] = value
    try:
        array = npy.matrix(body)
    except Refused:
        return
    assert array.dtype.kind == "f" and array.nbytes <= len(body)


@given(
    st.text(max_size=60)
    | st.builds(
        "{{'descr': {!r}, 'fortran_order': {!r}, 'shape': {!r}}}".format,
        st.text(max_size=5) | st.sampled_from(["<f4", ">f2", "|O", "<f8"]) | st.integers(),
        st.booleans() | st.none(),
        st.tuples() | st.tuples(st.integers(-2, 10**30)) | st.tuples(st.integers(0, 4), st.integers(0, 4)) | st.text(),
    ),
    st.binary(max_size=64),
)
def test_any_header_is_refused_or_agrees_with_its_size(header: str, data: bytes) -> None:
    try:
        array = npy.parse(with_header(header, data))
    except Refused:
        return
    assert array.nbytes == len(data)
