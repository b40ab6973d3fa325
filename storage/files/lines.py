"""JSON Lines: an item's metadata a line, an object or `null`."""

from collections.abc import Iterator
from typing import Final

from storage.files.contract import METADATA_BYTES_MAX, BadFile
from storage.files.source import Source, chunks

TAKEN_BYTES_MAX: Final = 8 << 20
"""About what is taken at once. A batch of rows whose vectors are short could hold gigabytes of metadata."""
_BLANK: Final = b" \t\r"


class Lines:
    """The metadata of one row after the other, out of a source that is read once from start to end."""

    def __init__(self, source: Source, what: str) -> None:
        """what: how messages call the place."""
        self._source = source
        self._what = what
        self._lines = iter(())  # type: Iterator[bytes]
        self._next = 0

    def take(self, start: int, stop: int) -> list[bytes | None]:
        """Rows start … stop, or the first of them; each given once and in order, and start 0 begins anew.

        Raises BadFile, with the row: too few lines, too long a line, or what is no object.
        """
        if start == 0:
            self._lines, self._next = _split(self._source, self._what), 0
        if start != self._next:
            raise ValueError(f"row {self._next} comes next, not {start}")
        items: list[bytes | None] = []
        size = 0
        while self._next < stop and size < TAKEN_BYTES_MAX:
            items.append(self._item(self._next))
            size += len(items[-1] or b"")
            self._next += 1
        return items

    def finish(self, rows: int) -> None:
        """After the last row. Raises BadFile where more lines follow."""
        if next(self._lines, None) is not None:
            raise BadFile(f"{self._what}: has more lines than there are vectors ({rows})", rows)

    def _item(self, row: int) -> bytes | None:
        try:
            line = next(self._lines, None)
        except BadFile as e:
            raise BadFile(e.detail, row) from None
        if line is None:
            raise BadFile(f"{self._what}: has {row} lines, and there are more vectors", row)
        if line == b"null":
            return None
        if line[:1] != b"{" or line[-1:] != b"}":
            raise BadFile(f"{self._what}: line {row + 1} is neither a JSON object nor null", row)
        return line


def _split(source: Source, what: str) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks(source):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield _bounded(line, what)
        _bounded(rest, what)
    if rest.strip(_BLANK):
        yield _bounded(rest, what)


def _bounded(line: bytes, what: str) -> bytes:
    if len(line) > METADATA_BYTES_MAX:
        raise BadFile(f"{what}: a line has more than {METADATA_BYTES_MAX:,} bytes")
    return line.strip(_BLANK)
