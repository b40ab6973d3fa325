"""One collection in one worker: its follower, its writer, and what requests do with them."""

import asyncio
import json
import math
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from app.engine import errors, intake
from app.engine.agreement import from_stored
from app.engine.files import SealedFile, write_sealed
from app.engine.matching import is_described
from app.engine.merge_patch import merge_patch
from app.engine.sample import NOTHING, Keep, QuerySample
from app.engine.search_queue import SearchQueue
from app.engine.translate import translated
from app.engine.turn import at_end_of_turn
from app.engine.types import CollectionSettings, Id, Idempotency, Rows, Vectors, Written
from app.engine.view import MAX_WAIT_S, Follower, View
from app.engine.writer import Writer
from seedvec.sparse import SparseRows
from storage import atomic, catalogue
from storage import errors as below
from storage.documents import find_item, read_metadata
from storage.layout import SEGMENTS_NAME
from storage.writes import Batch, SealedRows, Turn, reserve_ids, reserve_seq

DESCRIBED_TRIES = 20
DIRECT_SHARE = 4
"""A write above a quarter of the pending bound becomes a segment at once."""
FULL_WAIT_S = 5.0
FULL_POLL_S = 0.05
OPENING_POLL_S = 0.02
OFF_LOOP_BYTES = 256 << 10
"""Vectors above this are checked and converted off the event loop."""
Q = TypeVar("Q")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a worker was set to, as far as collections are concerned."""

    pending_rows: int
    pending_bytes: int
    memory_bytes: float = math.inf
    writes_waiting: float = math.inf


@dataclass(frozen=True, slots=True)
class Pools:
    """writers: blocking commits; loaders: opening indexes; workers: decoding and files; searchers: one dear search."""

    writers: Executor
    loaders: Executor
    workers: Executor
    searchers: Executor
    queue: SearchQueue = field(default_factory=SearchQueue)
    """In front of `searchers`."""


class Collection:
    def __init__(self, name: str, folder: Path, limits: Limits, pools: Pools, keep: Keep = NOTHING) -> None:
        self.name = name
        self.folder = folder
        self.limits = limits
        self.pools = pools
        self.follower = Follower(folder, pools.loaders, pools.workers, limits.memory_bytes)
        self._seen: View | None = None
        self._stored: catalogue.Settings | None = None
        self._settings: CollectionSettings
        """What `_stored` says: every request asks for it."""
        self.damage: str | None = None
        """Why it was closed since it was opened here; `LocalEngine` tells the other processes."""
        self.writer = Writer(folder, pools.writers, limits.pending_rows, limits.pending_bytes, limits.writes_waiting)
        # A sparse collection is searched exactly: nobody needs to know what it was asked.
        self.sample = QuerySample(folder, self.follower.dimension, NOTHING if self.follower.sparse else keep)

    def view(self) -> View:
        """The present state, every acknowledged write in it. Raises CollectionNotFound, CollectionClosed.

        One look serves one turn of the event loop: all requests that the turn answers had come in before it began.
        """
        return self._seen or self.look_again()

    def look_again(self) -> View:
        """As `view`, with what was committed in this very moment."""
        if self.damage is not None:
            raise errors.CollectionClosed(self.damage)
        view = self._telling(self.follower.view)
        if at_end_of_turn(self._unsee):
            self._seen = view
        return view

    def settings(self) -> CollectionSettings:
        """As clients know them. Raises as `view`."""
        stored = self.view().settings
        if stored is not self._stored:
            self._stored, self._settings = stored, from_stored(stored)
        return self._settings

    def _unsee(self) -> None:
        self._seen = None

    def is_opening(self) -> bool:
        """The catalogue says that an index is there before any worker has opened it: until then this one searches as
        it did before. Raises as `view`."""
        self.look_again()
        return self.follower.is_opening()

    async def opened(self) -> None:
        """Returns once searches use the indexes that the catalogue names, or have had to do without them for as long
        as old segments may serve. Raises as `view`."""
        ends = time.monotonic() + MAX_WAIT_S
        while time.monotonic() < ends:
            if not self.is_opening():
                return
            await asyncio.sleep(OPENING_POLL_S)

    async def described(self) -> View:
        """As `view`, with the metadata of every row known, so that filters can be asked of it. Raises Busy as well."""
        view = self.view()
        for _ in range(DESCRIBED_TRIES):
            if not view.has_metadata or is_described(view):
                return view
            self.follower.describe()
            view = self.look_again()
            missing = self.follower.described.missing(view.parts)
            with self.told():
                for future in missing:
                    await asyncio.wrap_future(future)
            if missing:
                view = self.look_again()
        raise self.too_restless()

    def too_restless(self) -> errors.Busy:
        return errors.Busy(f"collection {self.name} is being reorganised faster than its metadata is read: try again")

    async def beside_the_loop(self, act: Callable[[], T], cost_us: float = 0.0, deadline: float = math.inf) -> T:
        """A dear search, in the one thread for them. Raises Overloaded, DeadlineExceeded."""
        return await self.pools.queue.run(self.pools.searchers, act, cost_us, deadline)

    async def beside_the_loop_with_others(
        self, alike: Hashable, asked: Q, act: Callable[[Sequence[Q]], Sequence[T]], cost_us: float, deadline: float
    ) -> T:
        """The same, together with those that wait under the same key."""
        return await self.pools.queue.run_with_others(self.pools.searchers, alike, asked, act, cost_us, deadline)

    def looks(self, times: int) -> Iterator[View]:
        """For an answer that may have to be given again from a newer view."""
        yield self.view()
        for _ in range(times - 1):
            yield self.look_again()

    @contextmanager
    def pinned(self) -> Iterator[View]:
        """As `look_again`, with the catalogue held to that moment: an answer given inside cannot be overtaken.

        Nothing may be awaited inside.
        """
        with self.told(), self.follower.pinned() as view:
            yield view

    @contextmanager
    def told(self, id_at: intake.Place | None = None) -> Iterator[None]:
        """`translated`, and what is damaged stays closed: the request that met it is not the only one to know."""
        try:
            with translated(self.name) if id_at is None else translated(self.name, id_at):
                yield
        except errors.CollectionClosed as e:
            self.damage = self.damage or e.detail
            raise

    def _telling(self, act: Callable[[], T]) -> T:
        """`act` in `told`, which is entered where something has gone wrong: half of a look, if it were always."""
        try:
            return act()
        except Exception:
            with self.told():
                raise

    def close(self) -> None:
        self.follower.close()
        self.writer.close()
        self.sample.flush()

    # ---------------------------------------------------------------- add and upsert

    async def add(self, rows: Rows, idempotency: Idempotency | None) -> Written:
        batch = await self._checked(intake.check_add, rows)
        return await self._store(batch, Turn.add, idempotency, intake.place_of(rows)[1])

    async def upsert(self, rows: Rows) -> Written:
        batch = await self._checked(intake.check_upsert, rows)
        return await self._store(batch, Turn.upsert, None, intake.place_of(rows)[1])

    async def _checked(self, check: Callable[[Rows, catalogue.Settings], Batch], rows: Rows) -> Batch:
        settings = self.view().settings
        if rows.vectors.nbytes <= OFF_LOOP_BYTES:
            return check(rows, settings)
        return await self._off_loop(lambda: check(rows, settings))

    async def _off_loop(self, act: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.pools.workers, act)

    async def _store(
        self,
        batch: Batch,
        act: Callable[[Turn, Batch, SealedRows | None], tuple[int, Any]],
        idempotency: Idempotency | None,
        id_at: intake.Place,
    ) -> Written:
        with self.told(id_at):
            if self._is_large(batch):
                count, first = await self._store_directly(batch, act, idempotency)
            else:
                size = int(batch.vectors.nbytes) + sum(len(m) for m in batch.metadata or () if m)
                count, first = await self._patiently(
                    lambda turn: once(turn, idempotency, lambda: act(turn, batch, None)), size
                )
        return Written(count, first)

    def _is_large(self, batch: Batch) -> bool:
        limits = self.limits
        return len(batch) > limits.pending_rows // DIRECT_SHARE or (
            batch.vectors.nbytes > limits.pending_bytes // DIRECT_SHARE
        )

    async def _patiently(self, act: Callable[[Turn], T], size: int) -> T:
        """Waits while the sealer makes room; then PendingFull stands."""
        ends = time.monotonic() + FULL_WAIT_S
        while True:
            try:
                return await self.writer.run(act, size)
            except below.PendingFull:
                if time.monotonic() > ends:
                    raise
            await asyncio.sleep(FULL_POLL_S)

    async def _store_directly(
        self,
        batch: Batch,
        act: Callable[[Turn, Batch, SealedRows | None], tuple[int, Any]],
        idempotency: Idempotency | None,
    ) -> tuple[int, Any]:
        """A segment of its own, written and synced before the transaction that makes it real."""

        def reserve(turn: Turn) -> tuple[int, str, list[Any] | None]:
            return reserve_seq(turn), turn.settings.metric, None if batch.ids else reserve_ids(turn, len(batch))

        seq, metric, assigned = await self.writer.run(reserve)
        full = Batch(batch.vectors, batch.ids or assigned, batch.metadata)
        keys = np.arange(len(batch), dtype=np.uint64)
        written = await self._off_loop(
            lambda: write_sealed(self.folder, seq, keys_rel=keys, ids=full.ids, vectors=full.vectors, metric=metric)
        )
        used = False

        def name_it(turn: Turn) -> Any:
            nonlocal used
            used = False  # the turn may be tried again

            def insert() -> Any:
                nonlocal used
                used = True
                count, first = act(turn, full, SealedRows(seq, written.file, written.bytes, written.xxh3))
                return count, assigned[0] if assigned else first

            return once(turn, idempotency, insert)

        try:
            count, first = await self.writer.run(name_it)
        except asyncio.CancelledError:
            # The catalogue may name the file, or come to name it: a write that was queued goes on without its
            # request. The next start decides.
            raise
        except BaseException as e:
            if below.is_undone(e):  # else the catalogue may come to name it too
                self._forget(written)
            raise
        if not used:
            self._forget(written)  # the answer was given before, to the same Idempotency-Key
        return count, first

    def _forget(self, written: SealedFile) -> None:
        atomic.remove_all([self.folder / SEGMENTS_NAME / written.file])

    # ---------------------------------------------------------------- patch and delete

    async def patch(self, id_: Id, metadata: bytes | None, vector: Vectors | None) -> None:
        settings = self.view().settings
        stored = None
        if vector is not None:
            one = vector if isinstance(vector, SparseRows) else vector.reshape(1, -1)
            stored = intake.check_vectors(one, settings, lambda _: "vector")
        merge = None if metadata is None else merge_patch(metadata)

        with self.told():
            if not await self._patiently(lambda turn: turn.patch(id_, merge, stored), 0):
                raise self.no_such_id(id_)

    async def patch_ids(self, ids: list[Any], metadata: bytes, dry_run: bool, idempotency: Idempotency | None) -> int:
        """Merges into the metadata of those that are there; returns how many were."""
        ids = list(dict.fromkeys(ids))
        if dry_run:
            return len(self.keys_of(ids))
        merge = merge_patch(metadata)

        def act(turn: Turn) -> int:
            keys = [] if turn.settings.id_type == "auto" else list(catalogue.find_keys(turn.db, ids).values())
            turn.patch_metadata(keys, merge)
            return len(keys)

        with self.told():
            patched: int = await self.writer.run(lambda turn: once(turn, idempotency, lambda: act(turn)), 64 * len(ids))
        return patched

    async def delete(self, ids: list[Any], dry_run: bool, idempotency: Idempotency | None) -> int:
        ids = list(dict.fromkeys(ids))
        if dry_run:
            return len(self.keys_of(ids))
        with self.told():
            deleted: int = await self.writer.run(
                lambda turn: once(turn, idempotency, lambda: turn.delete(ids)), 64 * len(ids), frees=True
            )
        return deleted

    async def delete_all(self, idempotency: Idempotency | None) -> int:
        def empty(turn: Turn) -> Any:
            count, gone = turn.delete_all()
            files.extend(gone)
            return count

        files: list[str] = []
        with self.told():
            deleted: int = await self.writer.run(lambda turn: once(turn, idempotency, lambda: empty(turn)), frees=True)
        atomic.remove_all([self.folder / SEGMENTS_NAME / file for file in files])
        return deleted

    async def change(self, act: Callable[[Turn], object]) -> None:
        """A change of settings, in a turn like any other write."""
        with self.told():
            await self.writer.run(act)

    # ---------------------------------------------------------------- reading by id

    def keys_of(self, ids: list[Any]) -> dict[Any, int]:
        """id → key of those that are there, of the present view. Raises IdTypeMismatch."""
        settings = self.view().settings
        if settings.id_type == "auto" or not ids:
            return {}
        intake.check_id_type(ids, settings.id_type, lambda i: f"ids[{i}]" if len(ids) > 1 else "id")
        return self._telling(lambda: catalogue.find_keys(self.follower.db, ids))

    def item_of(self, id_: Any) -> tuple[int, bytes | None] | None:
        """Key and metadata of an item, None where it is not there. Raises IdTypeMismatch."""
        settings = self.view().settings
        if settings.id_type == "auto":
            return None
        intake.check_id_type([id_], settings.id_type, lambda i: "id")
        return self._telling(lambda: find_item(self.follower.db, id_))

    def metadata_of(self, keys: list[int]) -> dict[int, bytes]:
        return self._telling(lambda: read_metadata(self.follower.db, keys))

    def no_such_id(self, id_: Id) -> errors.IdNotFound:
        return errors.IdNotFound(f"collection {self.name} has no id {json.dumps(id_, ensure_ascii=False)}")


def once(turn: Turn, idempotency: Idempotency | None, act: Callable[[], Any]) -> Any:
    if idempotency is None:
        return act()
    return turn.once(idempotency.key, idempotency.request, act)
