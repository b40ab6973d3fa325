"""A reader made of columns: vectors, and ids and metadata where there are any."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Protocol

from storage.files.contract import BadFile, Batch, IdKind, Ids, Outline
from storage.files.numbers import BFLOAT16_NOTE, Rows, stored_as


class IdRows(Protocol):
    """Ids by row; see IdColumn."""

    kind: IdKind
    rows: int

    def take(self, start: int, stop: int) -> Ids: ...


class Texts(Protocol):
    """Metadata by row; asked in order, and told when it was the last."""

    def take(self, start: int, stop: int) -> list[bytes | None]: ...

    def finish(self, rows: int) -> None: ...


class Columns:
    """Batches of columns that are as long as each other."""

    def __init__(
        self,
        vectors: Rows,
        ids: IdRows | None = None,
        metadata: Texts | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        if ids is not None and ids.rows != vectors.rows:
            raise BadFile(f"there are {ids.rows} ids and {vectors.rows} vectors")
        widened = (BFLOAT16_NOTE,) if vectors.bfloat16 else ()
        self.outline = Outline(
            vectors.width,
            stored_as(vectors),
            vectors.rows,
            ids=ids.kind if ids else None,
            metadata=metadata is not None,
            notes=widened + notes,
        )
        self.files = ExitStack()
        """Whatever has to be closed with it."""
        self._vectors = vectors
        self._ids = ids
        self._metadata = metadata

    def batches(self, rows: int) -> Iterator[Batch]:
        total = self._vectors.rows
        for start in range(0, total, rows):
            stop = min(start + rows, total)
            yield Batch(
                self._vectors.take(start, stop),
                self._ids.take(start, stop) if self._ids else None,
                self._metadata.take(start, stop) if self._metadata else None,
            )
        if self._metadata:
            if not total:
                self._metadata.take(0, 0)
            self._metadata.finish(total)

    def close(self) -> None:
        self.files.close()


def opened(make: Callable[[ExitStack], Columns]) -> Columns:
    """What `make` makes of files that it enters into the stack: they are closed with it, or at once where it fails."""
    with ExitStack() as files:
        columns = make(files)
        columns.files = files.pop_all()
    return columns
