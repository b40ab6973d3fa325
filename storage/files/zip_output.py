"""A zip that is written front to back: the vectors as they come in its first member, and what was put aside meanwhile
after them. A pipe will do."""

import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

from seedvec import npy_header
from storage.files.contract import Batch, Outline
from storage.files.naming import IDS, METADATA
from storage.files.output import Count, Output, as_bytes, dense
from storage.files.spilled import Spilled

Begin = Callable[[str, int], IO[bytes]]
"""Opens the member of that name; about so many bytes go into it."""


class ZipWriter(ABC):
    """What `contract.Writer` wants of a format that is such a zip."""

    def __init__(self, path: Path, outline: Outline) -> None:
        self._outline = outline
        self._count = Count(outline)
        with ExitStack() as failed:
            self._aside = Spilled(outline, path.parent)
            failed.callback(self._aside.close)
            self._output = Output(path)
            failed.callback(self._output.abort)
            self._zip = zipfile.ZipFile(self._output.file, "w")
            self._vectors = self._begin_vectors()
            failed.pop_all()

    @abstractmethod
    def _begin_vectors(self) -> IO[bytes]:
        """The member that takes the vectors, with whatever stands before them."""

    @abstractmethod
    def _put_rest(self) -> None:
        """All other members, once the rows have been counted."""

    def write(self, batch: Batch) -> None:
        vectors = dense(batch, self._outline)
        self._count.add(len(vectors))
        self._aside.add(batch)
        self._vectors.write(as_bytes(vectors))

    def finish(self) -> None:
        self._count.finish()
        self._vectors.close()
        self._put_rest()
        self._zip.close()
        self._aside.close()
        self._output.close()

    def abort(self) -> None:
        # The zip would be ended when it is forgotten: now, while there is a file to end it in.
        with suppress(OSError, ValueError, RuntimeError):
            self._vectors.close()
            self._zip.close()
        self._aside.close()
        self._output.abort()


def put_aside(aside: Spilled, rows: int, begin: Begin) -> None:
    """ids and metadata as `.npz` has them, dense and sparse."""
    if aside.ids is not None:
        dtype = aside.ids.dtype
        with begin(f"{IDS}.npy", rows * dtype.itemsize) as member:
            member.write(npy_header.build(dtype.str, (rows,)))
            member.writelines(map(as_bytes, aside.ids.arrays(dtype)))
    if aside.lines is not None:
        with begin(f"{METADATA}.jsonl", aside.lines.bytes) as member:
            member.writelines(aside.lines.chunks())
