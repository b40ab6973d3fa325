"""Ids as other programs give them, on their way to ours."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.files.contract import ID_BYTES_MAX, BadFile


def whole_numbers(numbers: NDArray[Any], what: str, first: int) -> NDArray[np.int64]:
    """int64 of any integers. first: the row of the first. Raises BadFile with the row: not in 0 … 2^63-1."""
    wrong = numbers > np.iinfo(np.int64).max if numbers.dtype == np.uint64 else numbers < 0
    if wrong.any():
        raise BadFile(f"{what}: an id is not in 0 … 2^63-1", first + int(np.argmax(wrong)))
    return numbers.astype(np.int64, copy=False)


def texts(found: Sequence[Any], what: str, first: int) -> list[str]:
    """Raises BadFile with the row: no text, none that UTF-8 can say, or too long."""
    for row, text in enumerate(found, first):
        if not isinstance(text, str):
            raise BadFile(f"{what}: an id is {'missing' if text is None else f'no text ({type(text).__name__})'}", row)
        try:
            length = len(text.encode())
        except UnicodeEncodeError:
            raise BadFile(f"{what}: an id is no UTF-8", row) from None
        if length > ID_BYTES_MAX:
            raise BadFile(f"{what}: an id has {length:,} bytes, at most {ID_BYTES_MAX} may be", row)
    return list(found)
