"""What one worker sees of one collection: an immutable view, and the follower that keeps it true.

Before each request the follower asks SQLite whether any process has committed (`data_version`, microseconds) and,
if so, catches up: deaths from the change log, new rows by their keys, new segments by the generation. So every
worker reads every acknowledged write. Opening a large index takes longer than a request may wait; meanwhile the old
segments serve, brought up to date by the same deaths and new rows.
"""

import logging
import math
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from app.engine.described import Described
from app.engine.pending import Pending, PendingBuffer
from app.engine.segments import OpenSegment, Part, calibrated, load_index, open_one
from index.approximate import Approximate
from index.contract import Index, Metric
from seedvec.segment import SegmentError
from storage import catalogue
from storage.catalogue import IndexRow, SegmentRow, Settings, State
from storage.documents import has_metadata, read_documents
from storage.errors import Damaged, Dropped

log = logging.getLogger(__name__)
MAX_WAIT_S = 60.0
"""How long the old segments may serve while the index of a new one is opened."""
MEMORY_SHARE = 0.5
"""Vectors that would take more of the memory than this are read from the disk row by row, not with all around them: in
2.5 GiB for everything, a search among 10,000,000 × 128 took 1.4 s while each of its rows brought 128 KiB with it."""


@dataclass(frozen=True, slots=True)
class View:
    """One state of the collection. state.live rows are in it: in `parts` (by key) and in `pending`."""

    settings: Settings
    state: State
    parts: tuple[Part, ...]
    pending: Pending
    has_metadata: bool
    """False: no item has any, so that nobody need ask."""
    plans: dict[Any, Any] = field(default_factory=dict, compare=False)
    """`search.plan` keeps here what it made for this view."""

    def is_alive(self, key: int) -> bool:
        row = self.pending.find(key)
        if row >= 0:
            return self.pending.is_alive(row)
        for part in self.parts:
            row = part.segment.find(key)
            if row >= 0:
                return part.is_alive(row)
        return False


class Follower:
    """Belongs to the event loop's thread; only `_load` runs elsewhere."""

    def __init__(self, folder: Path, loader: Executor, derivers: Executor, memory_bytes: float = math.inf) -> None:
        """loader: opens indexes; derivers: makes metadata columns where no file has them; memory_bytes: what the
        server may use, page cache included."""
        self.folder = folder
        self._memory_bytes = memory_bytes
        self.db = catalogue.connect(folder)
        self._loader = loader
        self.described = Described(folder, self.db, derivers)
        self._indexes: dict[str, Loaded] = {}
        """Opened indexes by file name."""
        self._loading: dict[str, Future[Loaded]] = {}
        self._opened: dict[str, OpenSegment] = {}
        """Segments by file name that a look has opened before it met one that a merge had taken: the next goes on from
        there, or a builder at full speed would always be ahead of it."""
        self._version = -1
        self._pinned = False
        self._waiting_since: float | None = None
        with self.db.reading():
            settings = catalogue.read_settings(self.db)
        metric = cast(Metric, settings.metric)
        self.dimension = settings.dimension
        self.sparse = settings.sparse
        self._buffer = PendingBuffer(settings.dimension, settings.vector_dtype, metric, settings.sparse)
        self._view: View | None = None

    def view(self) -> View:
        """The present view. Raises Dropped, Damaged."""
        if self._pinned and self._view is not None:
            return self._view
        version = self.db.data_version()
        if version != self._version or self._loaded() or self._view is None:
            missing = ""
            while True:
                try:
                    with self.db.reading():
                        self._catch_up()
                    break
                except FileNotFoundError as e:
                    missing = _gone(e, missing)
                except SegmentError as e:
                    raise Damaged(str(e)) from e
            self._version = version
        assert self._view is not None
        return self._view

    @contextmanager
    def pinned(self) -> Iterator[View]:
        """The present view, and within the block the catalogue as it was at that moment.

        Nothing may be awaited inside: whoever reads this catalogue meanwhile would be held to that moment too.
        Raises Dropped, Damaged.
        """
        missing = ""
        while True:
            with self.db.reading():
                try:
                    self._catch_up()
                except FileNotFoundError as e:
                    missing = _gone(e, missing)
                    continue
                except SegmentError as e:
                    raise Damaged(str(e)) from e
                assert self._view is not None
                self._pinned = True
                try:
                    yield self._view
                finally:
                    self._pinned = False
                return

    def load_all(self) -> None:
        """Opens everything, indexes too, before the first request. May block."""
        self.view()
        for future in list(self._loading.values()):
            future.result()
        self.view()

    def is_opening(self) -> bool:
        """Does the last view do without indexes that are still being opened? One that cannot be opened is no longer."""
        return bool(self._loading)

    def close(self) -> None:
        for future in self._loading.values():
            future.cancel()
        self.described.close()
        self.db.close()

    def describe(self) -> None:
        """From now on views know the metadata of their rows, as far as it can be had at once."""
        if not self.described.wanted:
            self.described.wanted = True
            self._version = -1

    def distrust(self, segment: SegmentRow, why: str) -> None:
        """The segment's columns file is damaged: its metadata is known anew once it is derived from the catalogue."""
        self.described.distrust(segment, why)
        self._version = -1

    # ---------------------------------------------------------------- catching up

    def _catch_up(self) -> None:
        state = catalogue.read_state(self.db)
        if state.dropped:
            raise Dropped(str(self.folder))
        settings = catalogue.read_settings(self.db)
        old = self._view
        deaths, next_key = EMPTY, 0
        if old is not None:
            next_key = old.state.next_key
            if old.state.log_pos != state.log_pos:
                deaths = catalogue.read_deaths(self.db, old.state.log_pos)
        new_rows = catalogue.read_pending(self.db, settings, next_key) if next_key != state.next_key else None
        parts = () if old is None else tuple(part.bury(deaths) if len(deaths) else part for part in old.parts)
        generation, sealed_below = state.generation, 0
        if old is None or old.state.generation != generation or self._loaded():
            rows = catalogue.read_segments(self.db)
            if old is not None and self._may_wait(old, state, rows):
                generation = old.state.generation
            else:
                parts = self._adopt(parts, rows)
                sealed_below = self._first_pending(state)
                self._waiting_since = None
        elif old.state.log_pos < state.trimmed_pos:
            # Deaths of rows that were never sealed may have been cleared unread, and no new segment tells of it:
            # what lies below the first row that pends is dead.
            sealed_below = self._first_pending(state)
        any_metadata = has_metadata(self.db)
        patched: dict[int, bytes | None] | None = None
        documents: list[bytes | None] = []
        if self.described.wanted:
            patched = self.described.patched_since(None if old is None else old.state.log_pos, state.log_pos)
            parts = self.described.follow(parts, patched)
            new_keys = EMPTY if new_rows is None else new_rows.keys
            documents = read_documents(self.db, self._buffer.undescribed(patched is None, new_keys))
        # From here on nothing fails: a file that was gone above left the buffer as it was.
        if new_rows is not None:
            self._buffer.append(new_rows)
        if self.described.wanted:
            self._buffer.patch(patched)
            self._buffer.describe(documents)
        self._buffer.bury(deaths)
        self._buffer.drop_below(sealed_below)
        # While the old segments serve on, the view keeps their generation: the next look tries again.
        state.generation = generation
        self._view = View(settings, state, parts, self._buffer.view(), any_metadata)

    def _first_pending(self, state: State) -> int:
        """Seals take a prefix of the keys: below the first that pends, all has been sealed."""
        row = self.db.one("SELECT min(key) FROM pending")
        return state.next_key if row is None or row[0] is None else int(row[0])

    def _loaded(self) -> bool:
        return any(future.done() for future in self._loading.values()) or self.described.loaded()

    def _may_wait(self, old: View, state: State, rows: list[SegmentRow]) -> bool:
        """May the old segments serve on while an index of the new ones is being opened?

        Only if nothing is known to the new ones alone: no death that the log has lost, no row that never pended here.
        """
        known = {part.segment.row.seq for part in old.parts}
        fresh = [row for row in rows if row.seq not in known]
        newest = max((row.base_key + row.span for row in fresh), default=0)
        if not old.parts or old.state.log_pos < state.trimmed_pos or newest > old.state.next_key:
            return False
        if not self._request_indexes(rows):
            return False
        self._waiting_since = self._waiting_since or time.monotonic()
        return time.monotonic() - self._waiting_since < MAX_WAIT_S

    def _adopt(self, parts: tuple[Part, ...], rows: list[SegmentRow]) -> tuple[Part, ...]:
        """The parts of a new list of segments: those known go on with what is dead in them, the others are opened."""
        self._request_indexes(rows)
        known = {part.segment.row.seq: part for part in parts}
        adopted = []
        for row in rows:
            part = known.get(row.seq)
            if part is None:
                if row.file not in self._opened:
                    self._opened[row.file] = open_one(self.folder, row)
                part = Part(self._opened[row.file].with_index(row, None), None)
                part = part.bury(catalogue.read_deaths_within(self.db, row))
            adopted.append(part.with_index(row, self._index_of(row.index)))
        named = {row.index.file for row in rows if row.index is not None}
        self._indexes = {name: loaded for name, loaded in self._indexes.items() if name in named}
        self._opened.clear()
        return tuple(adopted)

    def _index_of(self, row: IndexRow | None) -> Index | None:
        """Where it is open: calibrated as its row says by now, which may change while the file stays."""
        loaded = None if row is None else self._indexes.get(row.file)
        if row is None or loaded is None or loaded.index is None:
            return None
        said = row.meta.get("calibration")
        if said != loaded.calibration:
            loaded = Loaded(calibrated(loaded.index, row.meta), said)
            self._indexes[row.file] = loaded
        return loaded.index

    def _request_indexes(self, rows: list[SegmentRow]) -> bool:
        """Starts opening the indexes that are not open yet; takes over those that are. True: some are under way."""
        for name, future in list(self._loading.items()):
            if future.done():
                self._indexes[name] = future.result()
                del self._loading[name]
        scattered = sum(row.bytes for row in rows) > MEMORY_SHARE * self._memory_bytes
        for row in rows:
            if row.index is None or row.index.file in self._indexes or row.index.file in self._loading:
                continue
            self._loading[row.index.file] = self._loader.submit(_load, self.folder, row, scattered)
        return bool(self._loading)


def _gone(now: FileNotFoundError, before: str) -> str:
    """Name of the file that is missing now. before: which one the reading before this one missed.

    A merge unlinks what its transaction has replaced: a file that a later reading still names is lost. Raises Damaged.
    """
    if str(now.filename) == before:
        raise Damaged(f"{before} is gone") from now
    return str(now.filename)


EMPTY: NDArray[np.int64] = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Loaded:
    """index: None where it cannot be had; calibration: what it was told of it, as its row had it then."""

    index: Approximate | None
    calibration: Any


def _load(folder: Path, row: SegmentRow, scattered: bool) -> Loaded:
    """Runs in the loader's thread: maps the segment a second time (pages are shared; the exact search goes on reading
    the first from end to end) and opens its index."""
    index = None
    try:
        index = load_index(folder, row, open_one(folder, row, scattered=scattered).vectors)
    except FileNotFoundError:
        pass  # merged away meanwhile: the next look reads the new list
    except Exception:
        # An index is derived: without it the search is exact, while an error here would come to every request.
        log.exception("the index of %s cannot be opened, searching exactly", row.file)
    return Loaded(index, row.index.meta.get("calibration") if row.index is not None else None)
