"""The metadata of rows as filters are asked of it: columns of a segment, and what was written since laid over them.

All immutable: a view holds them, and an older view never changes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.engine.filters.columns import evaluate
from seedvec.filters.ast import Filter
from seedvec.filters.row import compile_row, decode
from storage.columns import Columns, columns_of

BLOCK_ROWS = 1024
"""Written rows are asked one by one (a microsecond or two each) until so many become columns of their own."""
KEPT_BYTES = 32 << 20
"""What a segment's answers to the filters asked last may take, in each worker."""
MAX_KEPT = 64
T = TypeVar("T")
Mask = NDArray[np.bool_]


class Kept(Generic[T]):
    """Answers by a filter's key, the oldest forgotten first. rows: bytes that each takes, about."""

    def __init__(self, rows: int) -> None:
        self._most = min(MAX_KEPT, max(2, KEPT_BYTES // max(1, rows)))
        self._answers: dict[str, T] = {}

    def get(self, filter: Filter) -> T | None:
        return self._answers.get(filter.key)

    def put(self, filter: Filter, answer: T) -> T:
        # Asked by the event loop and by the search thread: every step here is one of CPython's own.
        while len(self._answers) >= self._most:
            self._answers.pop(next(iter(tuple(self._answers))), None)
        self._answers[filter.key] = answer
        return answer


@dataclass(frozen=True, slots=True)
class Block:
    """rows: (n,) int64; columns: of their documents, in that order."""

    rows: NDArray[np.int64]
    columns: Columns


@dataclass(frozen=True, slots=True)
class Written:
    """One row's document: as it is stored, and decoded."""

    row: int
    json: bytes | None
    document: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Documents:
    """Documents of rows in the order they were written: of two of one row the later counts."""

    blocks: tuple[Block, ...] = ()
    tail: tuple[Written, ...] = ()

    def __len__(self) -> int:
        return sum(len(block.rows) for block in self.blocks) + len(self.tail)

    def and_(self, rows: Iterable[int], documents: Iterable[bytes | None]) -> "Documents":
        """The same and these."""
        written = [(old.row, old.json) for old in self.tail]
        written += zip(rows, documents, strict=True)
        if len(written) >= BLOCK_ROWS:
            return Documents((*self.blocks, _block(written)), ())
        new = written[len(self.tail) :]
        tail = (Written(row, json, decode(json) if json else {}) for row, json in new)
        return Documents(self.blocks, (*self.tail, *tail))

    def from_(self, first: int) -> "Documents":
        """Without what is wholly of rows below `first`."""
        return Documents(
            tuple(b for b in self.blocks if b.rows.max() >= first), tuple(w for w in self.tail if w.row >= first)
        )

    def lay(self, mask: Mask, filter: Filter, first: int = 0) -> None:
        """Writes into mask[row - first] whether these rows match; rows below `first` are passed over."""
        for block in self.blocks:
            answer, at = evaluate(filter, block.columns), block.rows - first
            if first:
                answer, at = answer[at >= 0], at[at >= 0]
            mask[at] = answer
        if self.tail:
            holds = compile_row(filter)
            for written in self.tail:
                if written.row >= first:
                    mask[written.row - first] = holds(written.document)


def _block(written: Sequence[tuple[int, bytes | None]]) -> Block:
    # Of a row that was written twice in one block the later document stands for both.
    last = dict(written)
    return Block(np.fromiter(last, np.int64, len(last)), columns_of(list(last.values())))


@dataclass(frozen=True, slots=True)
class Fields:
    """A segment's metadata. columns, and patches laid over them: true for `log_pos` of the change log, or later."""

    columns: Columns
    log_pos: int
    patches: Documents
    kept: Kept[Mask]
    """Answers of the columns alone."""
    caught_up: int = 0
    """How many of the patches were laid over at once, in a thread."""

    @staticmethod
    def of(columns: Columns, log_pos: int) -> "Fields":
        return Fields(columns, log_pos, Documents(), Kept(columns.rows))

    def patched(self, rows: Iterable[int], documents: Iterable[bytes | None]) -> "Fields":
        return replace(self, patches=self.patches.and_(rows, documents))

    def matching(self, filter: Filter) -> Mask:
        """(rows,) bool; not to be written into."""
        mask = self.kept.get(filter)
        if mask is None:
            mask = self.kept.put(filter, evaluate(filter, self.columns))
        if len(self.patches):
            mask = mask.copy()
            self.patches.lay(mask, filter)
        return mask
