"""The filter language (`seedvec/filters`) with mistakes in it as the engine refuses them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from msgspec import Raw

from app.engine.errors import Invalid, InvalidFilter, Malformed, NotFinite, OutOfRange
from seedvec.filters import parse as language
from seedvec.filters.ast import Filter
from seedvec.filters.faults import FilterError, FilterNotFinite, FilterNotJson, FilterOutOfRange
from seedvec.filters.parse import MAX_DEPTH as MAX_DEPTH
from seedvec.filters.parse import MAX_NODES as MAX_NODES
from seedvec.filters.parse import MAX_VALUES as MAX_VALUES

_KINDS: Final[dict[type[FilterError], type[Invalid] | type[Malformed]]] = {
    FilterError: InvalidFilter,
    FilterNotJson: Malformed,
    FilterNotFinite: NotFinite,
    FilterOutOfRange: OutOfRange,
}


def parse(raw: bytes | bytearray | Raw, where: str = "filter") -> Filter:
    """raw: a JSON object in UTF-8; where: how an error names it.

    Raises Malformed (no JSON), InvalidFilter, NotFinite and OutOfRange (numbers), naming each place.
    """
    with _refusing():
        return language.parse(raw, where)


def parse_value(value: Any, where: str = "filter") -> Filter:
    """value: a filter as decoded JSON. Raises as `parse` does."""
    with _refusing():
        return language.parse_value(value, where)


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except FilterError as error:
        raise _KINDS[type(error)](error.detail, error.faults, error.fault_count) from None
