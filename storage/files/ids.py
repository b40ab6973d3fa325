"""Ids as a column of a file: whole numbers, or strings of a fixed width."""

import re
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from storage.files.contract import ID_BYTES_MAX, BadFile, IdKind, Ids
from storage.files.given import whole_numbers
from storage.files.numbers import Matrix

STRING_BYTES_MAX: Final = 4 * ID_BYTES_MAX
"""Width of one string in a file: UCS-4 of the longest id."""
_TAKEN_BYTES: Final = 4 << 20
"""Strings that are decoded at once: a column of the widest takes twenty times what they say."""
_DTYPE: Final = re.compile(r"[<>|=]?(?:[iu][1248]|[SU]\d{1,5})")


class IdColumn:
    """n ids of one kind. Raises BadFile where these can be none."""

    def __init__(self, matrix: Matrix, what: str) -> None:
        """matrix: (n, 1) of integers, `U` (UCS-4) or `S` (UTF-8); what: how messages call the place."""
        if matrix.width != 1 or matrix.bfloat16 or matrix.dtype.kind not in "iuSU":
            raise BadFile(f"{what}: ids are one whole number or string a row")
        if not 0 < matrix.dtype.itemsize <= STRING_BYTES_MAX:
            raise BadFile(f"{what}: strings of {matrix.dtype.itemsize} bytes are no ids")
        self.kind: IdKind = "int" if matrix.dtype.kind in "iu" else "str"
        self.rows = matrix.rows
        self._matrix = matrix
        self._what = what

    def take(self, start: int, stop: int) -> Ids:
        """Of rows start … stop. Raises BadFile with the row: negative or above 2^63-1, or no text."""
        if self.kind == "int":
            return whole_numbers(self._matrix.take(start, stop).reshape(-1), self._what, start)
        step = max(1, _TAKEN_BYTES // self._matrix.dtype.itemsize)
        parts = [(at, min(at + step, stop)) for at in range(start, stop, step)]
        return [text for part in parts for text in _texts(self._matrix.take(*part).reshape(-1), self._what, part[0])]


def id_dtype(descr: Any, what: str) -> np.dtype[Any]:
    """Of NumPy's spelling. Raises BadFile where ids are not kept so."""
    if isinstance(descr, str) and _DTYPE.fullmatch(descr):
        return np.dtype(descr)
    raise BadFile(f"{what}: ids are whole numbers or strings (numpy dtypes int64, S or U)")


def _texts(column: NDArray[Any], what: str, first: int) -> list[str]:
    if column.dtype.kind == "S":
        return [_decoded(text, what, row) for row, text in enumerate(column.tolist(), first)]
    points = column.view(np.uint32).reshape(len(column), -1)
    # NumPy makes strings of any 32 bits, also such as Python then chokes on.
    wrong = ((points > 0x10FFFF) | ((points >= 0xD800) & (points < 0xE000))).any(axis=1)
    if wrong.any():
        raise BadFile(f"{what}: an id is no text", first + int(np.argmax(wrong)))
    texts: list[str] = column.tolist()
    return texts


def _decoded(text: bytes, what: str, row: int) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise BadFile(f"{what}: an id is no UTF-8", row) from None
