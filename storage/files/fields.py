"""Metadata made of columns: what a value of another format becomes in JSON.

Numbers, text, booleans, lists and objects as they are. NaN and the infinities are null: JSON has none of them. Dates
and times are text as in ISO 8601 (a time zone kept as an offset), durations likewise, decimals numbers with all their
digits, bytes Base64, UUIDs text.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from storage.files.contract import METADATA_BYTES_MAX, BadFile
from storage.files.lines import TAKEN_BYTES_MAX

_ENCODER: Final = msgspec.json.Encoder(decimal_format="number")


def objects(columns: Mapping[str, Sequence[Any]], first: int, *, absent: bool = False) -> list[bytes | None]:
    """One JSON object a row, of as many as the shortest column has; where they are long, of the first of them (see
    `Texts` in parts.py). first: the number of the first row, for messages. absent: a None is a field that the row does
    not have; None for a row that has none. Raises BadFile with the row."""
    names = list(columns)
    rows = (dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=False))
    if absent:
        rows = ({name: value for name, value in row.items() if value is not None} for row in rows)
    return until_long(encoded(row, at) if row or not absent else None for at, row in enumerate(rows, first))


def until_long(items: Iterable[bytes | None]) -> list[bytes | None]:
    """The first of them, at least one, until they are about TAKEN_BYTES_MAX."""
    taken: list[bytes | None] = []
    size = 0
    for found in items:
        taken.append(found)
        size += len(found or b"")
        if size >= TAKEN_BYTES_MAX:
            break
    return taken


def encoded(item: dict[str, Any], row: int) -> bytes:
    """One item's metadata. Raises BadFile with the row: what JSON cannot say, or too much of it."""
    try:
        text = _ENCODER.encode(item)
    except (TypeError, ValueError, RecursionError, OverflowError) as e:
        raise BadFile(f"the metadata cannot be written as JSON: {e}", row) from None
    if len(text) > METADATA_BYTES_MAX:
        raise BadFile(f"the metadata has more than {METADATA_BYTES_MAX:,} bytes", row)
    return text


def item(text: bytes, what: str, row: int) -> bytes | None:
    """A JSON object as it was written; None for `null` and for no text. Raises BadFile with the row."""
    text = text.strip(b" \t\r\n")
    if text in (b"", b"null"):
        return None
    if text[:1] != b"{" or text[-1:] != b"}":
        raise BadFile(f"{what}: neither a JSON object nor null", row)
    return text
