"""Small `.npz` answers, written by hand, are what `np.savez` makes of the same arrays."""

import io
import zipfile
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.api.npz import SMALL, dump


@pytest.mark.parametrize(
    "arrays",
    [
        {"ids": np.arange(10, dtype=np.int64).reshape(1, 10), "distances": np.full((1, 10), np.inf, np.float32)},
        {"ids": np.array([[b"a", b"longer"], [b"", b"b"]]), "distances": np.zeros((2, 2), np.float32)},
        {"ids": np.empty((3, 0), np.int64), "distances": np.empty((3, 0), np.float32)},
        {"ids": np.arange(SMALL // 8 + 1), "distances": np.zeros(1, np.float32)},
        {},
    ],
    ids=["one query", "string ids", "empty", "large", "nothing"],
)
def test_reads_back(arrays: dict[str, NDArray[Any]]) -> None:
    written = dump(arrays)
    with zipfile.ZipFile(io.BytesIO(written)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"{name}.npy" for name in arrays]
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
    with np.load(io.BytesIO(written)) as found:
        assert list(found) == list(arrays)
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype and np.array_equal(found[name], array)
