"""Several files read as one, the next opened when the one before it is through: however many, few are open."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from storage.files.contract import BadFile, Batch, Outline, Reader


def join(paths: Sequence[Path], open_one: Callable[[Path], Reader], notes: tuple[str, ...] = ()) -> Reader:
    """The rows of all in that order; notes come before those of the files.

    Raises BadFile: no file at all, or files that do not agree in dimension, dtype, or whether they have ids and
    metadata.
    """
    if not paths:
        raise BadFile("there is no file to read")
    if len(paths) == 1:
        return open_one(paths[0])
    return _Joined(paths, open_one, notes)


class _Joined:
    def __init__(self, paths: Sequence[Path], open_one: Callable[[Path], Reader], notes: tuple[str, ...]) -> None:
        self._paths = paths
        self._open_one = open_one
        self._open: Reader | None = None
        self.outline = self._outline(notes)

    def batches(self, rows: int) -> Iterator[Batch]:
        done = 0
        for path in self._paths:
            self._open = self._open_one(path)
            _agree(self.outline, self._open.outline, path)
            try:
                for batch in self._open.batches(rows):
                    yield batch
                    done += batch.rows
            except BadFile as e:
                raise BadFile(f"{path.name}: {e.detail}", None if e.row is None else done + e.row) from e
            finally:
                self.close()

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def _outline(self, first_notes: tuple[str, ...]) -> Outline:
        outlines = []
        for path in self._paths:
            try:
                reader = self._open_one(path)
            except BadFile as e:
                raise BadFile(f"{path.name}: {e.detail}", e.row) from e
            outlines.append(reader.outline)
            reader.close()
            _agree(outlines[0], outlines[-1], path)
        counts = [o.rows for o in outlines]
        notes = (*first_notes, *(note for o in outlines for note in o.notes))
        return replace(
            outlines[0], rows=None if None in counts else sum(c for c in counts if c), notes=tuple(dict.fromkeys(notes))
        )


def _agree(first: Outline, other: Outline, path: Path) -> None:
    for what in ("dimension", "dtype", "sparse", "ids", "metadata"):
        wanted, found = getattr(first, what), getattr(other, what)
        if wanted != found:
            raise BadFile(f"{path.name}: its {what} is {found}, that of the first file {wanted}: they cannot be one")
