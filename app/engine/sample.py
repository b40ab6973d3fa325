"""The queries that one worker was asked of late, per collection: kept in memory, written beside the catalogue at times.

They are what recall is measured on in the background, and calibrated on where it falls short: real queries need not be
like the data. Nothing else depends on them.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.engine.seldom import Seldom
from storage.layout import QUERIES_NAME
from storage.queries import SUFFIX, Sample, Unreadable, forget_sample, most_of, read_file, spread, write_sample

log = logging.getLogger(__name__)
MAX_OF_BATCH: Final = 64
"""A batch of thousands gives an even spread of so many: it must not push all others out."""
FLUSH_S: Final = 10.0
TELL_AGAIN_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Keep:
    """worker: names the file; queries: how many are kept, 0: none, and what was kept before is deleted."""

    worker: str
    queries: int


NOTHING: Final = Keep("nobody", 0)


class QuerySample:
    """Belongs to the event loop's thread; what `to_write` gives may run in any."""

    def __init__(self, folder: Path, dimension: int, keep: Keep) -> None:
        """folder: the collection's. Reads back what this worker kept before it was last stopped."""
        self._folder = folder
        self._worker = keep.worker
        self._dimension = dimension
        self._ring: deque[tuple[float, NDArray[np.float32]]] = deque(maxlen=most_of(dimension, keep.queries))
        """When, and what (1, d)."""
        self._changed = False
        self._writing = False
        self._next = 0.0
        self._seldom = Seldom(TELL_AGAIN_S)
        if keep.queries:
            self._read_back()
        else:
            forget_sample(folder)

    def _read_back(self) -> None:
        try:
            before = read_file(self._folder / QUERIES_NAME / (self._worker + SUFFIX))
        except FileNotFoundError:
            return
        except (Unreadable, OSError) as e:
            log.warning("%s: the sample of queries is passed over: %s", self._folder, e)
            return
        if before.vectors.shape[1] == self._dimension:
            rows = (before.vectors[i : i + 1] for i in range(len(before.vectors)))
            self._ring.extend(zip(before.times.tolist(), rows, strict=True))

    def note(self, queries: NDArray[np.float32]) -> None:
        """queries: (q, d) float32, as they were searched for; not changed afterwards. Well under a microsecond for
        one, which is held, not copied."""
        self._changed = True
        if len(queries) == 1:
            self._ring.append((time.time(), queries))
            return
        now = time.time()
        some = spread(queries, MAX_OF_BATCH).copy()
        self._ring.extend((now, some[i : i + 1]) for i in range(len(some)))

    def present(self) -> Sample:
        """What is kept now, (q, d), q may be 0."""
        kept = list(self._ring)
        if not kept:
            return Sample(np.empty((0, self._dimension), np.float32), np.empty(0))
        return Sample(np.concatenate([query for _, query in kept]), np.array([at for at, _ in kept]))

    def is_due(self) -> bool:
        """It has changed, and was not written in the last seconds."""
        return self._changed and not self._writing and time.monotonic() >= self._next and self._ring.maxlen != 0

    def to_write(self) -> Callable[[], None]:
        """Writes what is kept now, and raises nothing. To be run once."""
        kept = list(self._ring)
        self._changed, self._writing = False, True
        self._next = time.monotonic() + FLUSH_S

        def write() -> None:
            try:
                vectors = np.concatenate([query for _, query in kept])
                write_sample(self._folder, self._worker, Sample(vectors, np.array([at for at, _ in kept])))
            except FileNotFoundError as e:
                log.debug("%s was dropped: %s", self._folder, e)
            except OSError as e:
                # A full disk, or one that cannot be written: it is tried again when the next query has come.
                if self._seldom.due():
                    log.warning("%s: the sample of queries cannot be written: %s", self._folder, e)
            finally:
                self._writing = False

        return write

    def flush(self) -> None:
        """At the end of the process: writes what has not been written yet, nor ever will where a writing that was
        begun has been cancelled."""
        if (self._changed or self._writing) and self._ring:
            self.to_write()()
