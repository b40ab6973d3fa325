"""A reader made of vectors that say themselves how many of them are a batch, of ids and of metadata."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from storage.files.contract import BadFile, Batch, GroundTruth, IdKind, Ids, Outline, Sparse


class IdRows(Protocol):
    """Ids by row; see IdColumn."""

    kind: IdKind
    rows: int

    def take(self, start: int, stop: int) -> Ids: ...


class Texts(Protocol):
    """Metadata by row; asked in order, and told when it was the last."""

    def take(self, start: int, stop: int) -> list[bytes | None]:
        """Of rows start … stop, or where they are long of the first of them, at least one: the batch ends there."""

    def finish(self, rows: int) -> None: ...


class Vectors(NamedTuple):
    """Those of a file."""

    outline: Outline
    """Without ids and metadata."""
    take: Callable[[int, int], NDArray[Any]] | Callable[[int, int], Sparse]
    """Of rows start … stop, asked in order."""
    limit: Callable[[int, int], int] = lambda _, stop: stop
    """(start, stop) → where a batch from start has to end, that may at most go on to stop."""


class Parts:
    """See `Reader`."""

    def __init__(
        self,
        vectors: Vectors,
        ids: IdRows | None,
        metadata: Texts | None,
        count: int | None = None,
        ground_truth: GroundTruth | None = None,
    ) -> None:
        """count: how many items of metadata there are, where that is known."""
        rows = vectors.outline.rows or 0
        for what, found in (("ids", ids and ids.rows), ("items of metadata", count)):
            if found is not None and found != rows:
                raise BadFile(f"there are {found} {what} and {rows} vectors")
        self.outline = replace(vectors.outline, ids=ids.kind if ids else None, metadata=metadata is not None)
        self.ground_truth = ground_truth
        self.files = ExitStack()
        """Whatever has to be closed with it."""
        self._vectors = vectors
        self._ids = ids
        self._metadata = metadata

    def batches(self, rows: int) -> Iterator[Batch]:
        total, start = self.outline.rows or 0, 0
        while start < total:
            stop = self._vectors.limit(start, min(start + rows, total))
            metadata = self._metadata.take(start, stop) if self._metadata else None
            if metadata is not None:
                stop = start + len(metadata)
            ids = self._ids.take(start, stop) if self._ids else None
            yield Batch(self._vectors.take(start, stop), ids, metadata)
            start = stop
        if self._metadata:
            if not total:
                self._metadata.take(0, 0)
            self._metadata.finish(total)

    def close(self) -> None:
        self.files.close()
