"""Files that are the vectors' numbers one after the other, behind a header or none."""

from pathlib import Path

from storage.files.contract import Batch, Outline
from storage.files.output import Count, Output, dense


class FlatWriter:
    """Writes front to back: a pipe will do. Ids and metadata have no place here; batches may bring them."""

    def __init__(self, path: Path, outline: Outline, header: bytes = b"") -> None:
        self._outline = outline
        self._count = Count(outline)
        self._output = Output(path)
        self._output.file.write(header)

    def write(self, batch: Batch) -> None:
        vectors = dense(batch, self._outline)
        self._count.add(len(vectors))
        self._output.array(vectors)

    def finish(self) -> None:
        self._count.finish()
        self._output.close()

    def abort(self) -> None:
        self._output.abort()
