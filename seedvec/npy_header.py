"""The header of a `.npy` file, from whoever wrote it: read without NumPy's `eval`-like help, and within a bound."""

import ast
from functools import lru_cache
from typing import Any, Final, NamedTuple

MAGIC: Final = b"\x93NUMPY"
BYTES_MAX: Final = 10_000
"""NumPy's own bound. An honest header of a matrix has 118 bytes; parsing Python literals is not linear."""
PREFIX_BYTES_MAX: Final = 12
"""Magic, version and length that stand before the header itself."""
HEADERS_KEPT: Final = 64
_ALIGNMENT: Final = 64
_EXTENT_MAX: Final = 2**63 - 1
_LENGTH_BYTES: Final = {(1, 0): 2, (2, 0): 4, (3, 0): 4}


class NotNpy(ValueError):
    """No header of a `.npy` file, or none that an honest writer makes; the text says why."""


class Header(NamedTuple):
    """What it says. Nothing of it is compared with the file's length yet."""

    descr: Any
    """Of the dtype: a str such as `<f4`, or a list where it is a structure."""
    fortran: bool
    shape: tuple[int, ...]
    """Each 0 … 2^63-1."""
    start: int
    """Where the numbers begin, in bytes."""


def parse(head: bytes) -> Header:
    """head: the file's first bytes, PREFIX_BYTES_MAX + BYTES_MAX of them or all. Raises NotNpy."""
    if head[: len(MAGIC)] != MAGIC:
        raise NotNpy("it does not begin as a .npy file does (numpy.save writes one)")
    width = _LENGTH_BYTES.get(tuple(head[6:8]))  # type: ignore[arg-type]
    if width is None or len(head) < 8 + width:
        raise NotNpy("the version is none of 1.0, 2.0 and 3.0")
    length = int.from_bytes(head[8 : 8 + width], "little")
    start = 8 + width + length
    if length > BYTES_MAX or start > len(head):
        raise NotNpy(f"the header says it has {length} bytes")
    return Header(*_fields(head[8 + width : start]), start)


@lru_cache(HEADERS_KEPT)
def _fields(text: bytes) -> tuple[Any, bool, tuple[int, ...]]:
    """Kept: a client that asks with one query after the other sends the same header each time, and to read it takes as
    long as a fifth of a search."""
    fields = _literal(text)
    if not isinstance(fields, dict) or fields.keys() != {"descr", "fortran_order", "shape"}:
        raise NotNpy("the header must hold descr, fortran_order and shape")
    descr, fortran, shape = fields["descr"], fields["fortran_order"], fields["shape"]
    if not isinstance(fortran, bool):
        raise NotNpy("fortran_order must be True or False")
    if not isinstance(shape, tuple) or not all(type(extent) is int and 0 <= extent <= _EXTENT_MAX for extent in shape):
        raise NotNpy("shape must be a tuple of sizes")
    return descr, fortran, shape


def build(descr: str, shape: tuple[int, ...]) -> bytes:
    """A header of version 1.0 for numbers in C order, after which they begin at a multiple of 64 bytes.

    descr: of a dtype without structure, such as `<f4`.
    """
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    length = len(text) + 1 + -(len(MAGIC) + 4 + len(text) + 1) % _ALIGNMENT
    return MAGIC + b"\x01\x00" + length.to_bytes(2, "little") + text.ljust(length - 1).encode() + b"\n"


def _literal(text: bytes) -> Any:
    # An escape in a string could warn, and no honest header has one.
    if b"\\" in text or b"\0" in text:
        raise NotNpy("the header cannot be read")
    try:
        return ast.literal_eval(text.decode("utf-8").strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise NotNpy("the header cannot be read") from None
