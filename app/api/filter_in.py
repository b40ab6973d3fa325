"""Filters on their way in, from bodies and query strings. The same text comes again and again: it is read once."""

from collections import OrderedDict
from threading import Lock

from msgspec import UNSET, Raw, UnsetType

from app.api.refusals import one
from app.engine.errors import InvalidFilter, Malformed
from app.engine.filters.parse import MAX_NODES, parse, parse_value
from seedvec.filters.ast import Filter

CACHE_BYTES = 32 * 2**20
"""Memory that kept filters may take in one worker: three of the largest $in, or tens of thousands of usual ones."""
_BYTES_PER_BYTE = 12
"""What a byte of a long $in becomes at most (measured: 6 for ints, 11 for short strings that are not ASCII)."""
_BYTES_PER_CONDITION = 320

EVERYTHING = parse_value({})


class Read:
    """The filters read last, by their text. A parsed filter is immutable, so all requests may share it."""

    def __init__(self, cache_bytes: int) -> None:
        self._cache_bytes = cache_bytes
        self._bytes = 0
        self._kept: OrderedDict[bytes, Filter] = OrderedDict()
        self._lock = Lock()  # large bodies are decoded in threads

    def __len__(self) -> int:
        return len(self._kept)

    def __call__(self, text: bytes) -> Filter:
        """Raises as `parse` does."""
        with self._lock:
            kept = self._kept.get(text)
            if kept is not None:
                self._kept.move_to_end(text)
                return kept
        parsed = parse(text)
        self._keep(text, parsed)
        return parsed

    def _keep(self, text: bytes, parsed: Filter) -> None:
        size = cost(text)
        if size > self._cache_bytes:
            return
        with self._lock:
            if self._kept.setdefault(text, parsed) is not parsed:
                return  # another thread was faster
            self._bytes += size
            while self._bytes > self._cache_bytes:
                oldest, _ = self._kept.popitem(last=False)
                self._bytes -= cost(oldest)


def cost(text: bytes) -> int:
    """Bytes of memory, at most, that a filter and its text take."""
    # There is a colon to every condition; those in strings only make the estimate higher.
    return _BYTES_PER_BYTE * len(text) + _BYTES_PER_CONDITION * min(text.count(b":"), 2 * MAX_NODES)


_read = Read(CACHE_BYTES)


def filter_in(given: Raw | str | UnsetType) -> Filter | None:
    """A body's filter (JSON) or a query string's (its text); None where none is given or all items match it.

    Raises InvalidFilter, NotFinite and OutOfRange, naming the place, and Malformed for a body that is no JSON.
    """
    if given is UNSET:
        return None
    wanted = _of_query(given) if isinstance(given, str) else _read(bytes(given))
    return None if wanted.matches_all else wanted


def _of_query(text: str) -> Filter:
    try:
        return _read(text.encode())
    except Malformed as refused:
        # Of a body the whole is malformed; here it is one parameter.
        raise one(InvalidFilter, "filter", refused.detail.removeprefix("filter ")) from None
