"""`LocalEngine`: the collections of one data folder, as one worker process serves them."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypeVar

from app.engine import bulk, errors, reading, recall
from app.engine.agreement import (
    refuse_difference,
    refuse_for_sparse,
    refuse_misfit,
    refuse_params,
    to_store,
)
from app.engine.collection import Collection, Limits, Pools
from app.engine.describe import build_is_due, describe
from app.engine.figures import Gathered, free_bytes
from app.engine.importing import settle_dead
from app.engine.picturing import Picturing
from app.engine.policy import Grounds
from app.engine.recall import Measuring
from app.engine.sample import Keep
from app.engine.search_queue import SearchQueue
from app.engine.snapshots import Snapshots
from app.engine.transfers import Transfers
from app.engine.translate import FULL, translated
from app.engine.turn import at_end_of_turn
from app.engine.types import (
    Asked,
    CollectionSettings,
    ExportAsked,
    Exported,
    Figures,
    Id,
    Idempotency,
    ImportAsked,
    Include,
    IndexSpec,
    Items,
    Page,
    RecallAnswer,
    RecallAsked,
    Rows,
    SearchAnswer,
    Upload,
    Vectors,
    Written,
)
from app.granted import granted_cores
from app.settings import Settings
from index.threads import set_threads
from seedvec.filters.ast import Filter
from storage import errors as below
from storage.ballast import Ballast
from storage.registry import Aliased, NameTaken, NoSuchName, Registered, Registry

log = logging.getLogger(__name__)
REFRESH_S = 1.0
"""An idle worker looks this often, so that it lets old files go."""
READY_POLL_S = 0.1
WRITER_THREADS = 4
WORKER_THREADS = 2
T = TypeVar("T")


class LocalEngine:
    """Implements `app.engine.types.Engine`. Lives on one event loop; start() before the first request."""

    def __init__(self, data: Path, settings: Settings, worker: str = "worker") -> None:
        """worker: what this process is called among those that serve the folder."""
        self._data = data
        self._keep = Keep(worker, settings.keep_queries)
        self._limits = Limits(
            settings.pending_rows, settings.pending_bytes, settings.memory_bytes, settings.writes_waiting
        )
        self._grounds = Grounds(settings.index_min_rows, settings.memory_bytes, settings.workers)
        self._pools = Pools(
            ThreadPoolExecutor(WRITER_THREADS, "writer"),
            ThreadPoolExecutor(1, "loader"),
            ThreadPoolExecutor(WORKER_THREADS, "worker"),
            ThreadPoolExecutor(1, "search"),
            SearchQueue(settings.search_queue_s),
        )
        self._measuring = Measuring()
        self._picturing = Picturing()
        self._ballast = Ballast(data)
        self.snapshots = Snapshots(data, self._pools, self._ballast)
        self._transfers = Transfers(data)
        self._registry: Registry | None = None
        self._version = -1
        self._looked = False
        self._registered: dict[str, Registered] = {}
        self._aliases: dict[str, str] = {}
        self._open: dict[str, Collection] = {}
        """By uuid: a name dropped and made anew is another collection."""
        self._gathered = Gathered()
        self._keeper: asyncio.Task[None] | None = None
        set_threads(granted_cores())

    async def start(self) -> None:
        """Opens every collection with its indexes, so that the first request waits for nothing."""
        self._registry = Registry(self._data)
        self._refresh()
        loop = asyncio.get_running_loop()
        for name in sorted(self._registered):
            try:
                collection = self._collection(name)
                await loop.run_in_executor(None, collection.follower.load_all)
                # A worker that is started in the place of one that died may find what that one was importing.
                await loop.run_in_executor(None, settle_dead, self._data, name, collection.folder)
            except errors.Refused as e:
                log.error("collection %s: %s", name, e.detail)
            except below.Dropped:
                log.warning("collection %s is half dropped: the next start ends that", name)
            except Exception:
                log.exception("collection %s cannot be opened", name)
        self._keeper = loop.create_task(self._keep_up())

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
        self._measuring.close()
        for pool in (self._pools.writers, self._pools.workers, self._pools.searchers, self._pools.loaders):
            pool.shutdown(wait=True, cancel_futures=True)
        for collection in self._open.values():
            collection.close()
        if self._registry is not None:
            self._registry.close()

    async def _keep_up(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            self._look_at_all()

    def _look_at_all(self) -> None:
        """Each by itself: one that is damaged must not keep the others from letting old files go."""
        try:
            self._refresh()
        except errors.Refused as e:
            log.error("the registry cannot be read: %s", e.detail)
        for collection in list(self._open.values()):
            try:
                collection.view()
            except errors.Refused as e:
                log.debug("%s", e.detail)
            except Exception:
                log.exception("while following collection %s", collection.name)
            if collection.damage is not None:
                self._shut(collection.name, collection.folder.name, collection.damage)
            elif collection.sample.is_due() and not self._ballast.given_up():
                self._pools.workers.submit(collection.sample.to_write())

    def _shut(self, name: str, uuid: str, reason: str) -> None:
        """Closes it for every process, until the next start has looked at it."""
        registered = self._registered.get(name)
        if registered is None or registered.uuid != uuid or registered.reason is not None:
            return
        log.error("%s", reason)
        assert self._registry is not None
        try:
            self._registry.set_reason(uuid, reason)
            self._version = -1  # it does not move with one's own commits
        except below.StorageError as e:
            log.error("the registry cannot be written, trying again: %s", e)

    # ---------------------------------------------------------------- the registry

    def _refresh(self) -> None:
        """Follows the registry when any process has changed it. One look serves a turn, as `Collection.view`."""
        if self._looked:
            return
        assert self._registry is not None
        self._looked = at_end_of_turn(self._look_anew)
        try:
            version = self._registry.data_version()
            if version == self._version:
                return
            registered, self._aliases = self._registry.read_names()
        except Exception:
            with translated("registry"):
                raise
        self._registered = {r.name: r for r in registered}
        self._version = version
        there = {r.uuid for r in self._registered.values()}
        for uuid in [u for u in self._open if u not in there]:
            del self._open[uuid]  # requests under way keep it; its files are unlinked, not gone for them

    def _look_anew(self) -> None:
        self._looked = False

    def _found(self, name: str) -> Registered:
        """name: the collection's, or an alias of it. Raises CollectionNotFound."""
        self._refresh()
        registered = self._registered.get(self._aliases.get(name, name))
        if registered is None:
            raise errors.CollectionNotFound(f"there is no collection {name}: PUT /v1/collections/{name} makes it")
        return registered

    def _collection(self, name: str) -> Collection:
        """Raises CollectionNotFound, CollectionClosed."""
        registered = self._found(name)
        if registered.reason is not None:
            raise errors.CollectionClosed(f"collection {registered.name} is closed: {registered.reason}")
        collection = self._open.get(registered.uuid)
        if collection is None:
            assert self._registry is not None
            with translated(name):
                folder = self._registry.folder(registered.uuid)
                collection = Collection(registered.name, folder, self._limits, self._pools, self._keep)
            self._open[registered.uuid] = collection
        return collection

    def names(self) -> list[str]:
        self._refresh()
        return sorted(name for name in self._registered if not self._is_going(name))

    def _is_going(self, name: str) -> bool:
        """Marked as dropped by who then could not tell the registry. The next drop, creation or start does."""
        try:
            self._collection(name).view()
        except errors.CollectionNotFound:
            return True
        except errors.Refused as e:
            log.debug("%s", e.detail)
        return False

    def closed(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for name in self.names():
            try:
                self._collection(name).view()
            except errors.CollectionClosed as e:
                found[name] = self._registered[name].reason or e.detail
            except errors.Refused as e:
                log.debug("%s", e.detail)  # dropped in this very moment
        return found

    def settings(self, name: str) -> CollectionSettings:
        return self._collection(name).settings()

    # ---------------------------------------------------------------- collections

    async def create(self, name: str, settings: CollectionSettings) -> bool:
        refuse_params(settings.index, "index.")
        refuse_for_sparse(settings)
        self._refresh()
        self._refuse_alias(name, "a collection cannot have its name")
        if name in self._registered and self._is_going(name):
            await self.drop(name)
            self._refresh()
        if name not in self._registered:
            if self._ballast.given_up():
                raise errors.DiskFull(FULL)
            try:
                await self._in_registry(lambda registry: registry.create(name, to_store(settings)), name)
                return True
            except NameTaken:
                self._refresh()
                self._refuse_alias(name, "a collection cannot have its name")
        refuse_difference(name, self.settings(name), settings)
        return False

    async def drop(self, name: str) -> None:
        registered = self._found(name)
        # Only by its own name: who deletes an alias most likely means the alias.
        self._refuse_alias(name, f"DELETE /v1/aliases/{name} deletes the alias alone")

        async def attempt() -> None:
            try:
                await self._in_registry(lambda registry: registry.drop(name, registered.uuid), name)
            except Aliased as e:
                advice = "switch them to another collection or delete them first"
                raise errors.Aliased(f"aliases lead to collection {name} ({e}): {advice}; nothing was changed") from e

        try:
            await attempt()
        except errors.DiskFull:
            # Here too what frees room may use what was kept back for it.
            if not (self._ballast.give_up() or self._ballast.given_up()):
                raise
            await attempt()

    async def _in_registry(self, act: Callable[[Registry], T], name: str) -> T:
        """In a thread, with a connection of its own: a connection belongs to one thread. name: the collection."""

        def run() -> T:
            registry = Registry(self._data)
            try:
                return act(registry)
            finally:
                registry.close()

        with translated(name):
            return await asyncio.get_running_loop().run_in_executor(self._pools.workers, run)

    # ---------------------------------------------------------------- aliases and snapshots

    def aliases(self) -> dict[str, str]:
        self._refresh()
        return dict(self._aliases)

    def _refuse_alias(self, name: str, advice: str) -> None:
        if name in self._aliases:
            raise errors.NameTaken(f"{name} is an alias of collection {self._aliases[name]}: {advice}")

    async def point_alias(self, alias: str, collection: str) -> bool:
        self._refresh()
        # A chain of names would make what a name means depend on two switches.
        self._refuse_alias(collection, f"an alias leads to a collection: name {self._aliases.get(collection)}")
        try:
            return await self._in_registry(lambda registry: registry.point(alias, collection), alias)
        except NameTaken as e:
            detail = f"there is a collection {alias}: collections and aliases share one namespace"
            raise errors.NameTaken(detail) from e
        except NoSuchName as e:
            raise errors.CollectionNotFound(f"there is no collection {collection}") from e

    async def remove_alias(self, alias: str) -> None:
        try:
            await self._in_registry(lambda registry: registry.remove_alias(alias), alias)
        except NoSuchName as e:
            raise errors.AliasNotFound(f"there is no alias {alias}: GET /v1/aliases lists them") from e

    async def take_snapshot(self, name: str, collections: list[str] | None) -> dict[str, Any]:
        wanted = self.names() if collections is None else collections
        found = {self._collection(collection).name: self._found(collection) for collection in wanted}
        return await self.snapshots.take(name, list(found.values()))

    async def set_recall(self, name: str, recall: float) -> None:
        await self._collection(name).change(lambda turn: turn.set_recall(recall))

    async def describe(self, name: str) -> dict[str, Any]:
        try:
            collection = self._collection(name)
            collection.view()  # its files may have been damaged since the start
        except errors.CollectionClosed as e:
            return {"name": self._found(name).name, "index": {"state": "closed", "reason": e.detail}}
        with translated(name):
            return describe(collection.name, collection.folder, collection.follower.db, self._grounds)

    async def figures(self) -> Figures:
        return Figures(
            await self._gathered.of_all(self.names(), self._collection, self.describe), free_bytes(self._data)
        )

    async def wait_ready(self, name: str, timeout_s: float) -> dict[str, Any]:
        """Answers when the index is ready and searches of this worker use it, when it failed or is closed, or when the
        time is up."""
        ends = time.monotonic() + timeout_s
        while True:
            answer = await self.describe(name)
            state = answer["index"]["state"]
            waits = state == "building" or (state != "closed" and self._collection(name).is_opening())
            if not waits or time.monotonic() > ends:
                return answer
            await asyncio.sleep(READY_POLL_S)

    async def rebuild_index(self, name: str, spec: IndexSpec) -> None:
        refuse_params(spec, "")
        collection = self._collection(name)
        view = collection.view()
        refuse_misfit(spec, view.settings, view.state.live, self._grounds)
        await collection.change(lambda turn: turn.set_index_spec(asdict(spec)))

    async def cancel_build(self, name: str) -> None:
        collection = self._collection(name)
        with translated(name):
            due = build_is_due(collection.follower.db, self._grounds)
        # What is cancelled stays so until `rebuild_index`: cancelling nothing must not stop the builds to come.
        if due:
            await collection.change(lambda turn: turn.cancel_build())

    # ---------------------------------------------------------------- vectors

    async def add(self, name: str, rows: Rows, idempotency: Idempotency | None = None) -> Written:
        return await self._collection(name).add(rows, idempotency)

    async def upsert(self, name: str, rows: Rows) -> Written:
        return await self._collection(name).upsert(rows)

    async def patch(self, name: str, id: Id, metadata: bytes | None, vector: Vectors | None) -> None:
        await self._collection(name).patch(id, metadata, vector)

    async def delete(
        self, name: str, ids: list[Any], dry_run: bool = False, idempotency: Idempotency | None = None
    ) -> int:
        return await self._collection(name).delete(ids, dry_run, idempotency)

    async def delete_all(self, name: str, dry_run: bool = False, idempotency: Idempotency | None = None) -> int:
        collection = self._collection(name)
        return collection.view().state.live if dry_run else await collection.delete_all(idempotency)

    async def delete_where(
        self, name: str, filter: Filter, dry_run: bool = False, idempotency: Idempotency | None = None
    ) -> int:
        collection = self._collection(name)
        return await (reading.count(collection, filter) if dry_run else bulk.delete(collection, filter, idempotency))

    async def patch_many(
        self,
        name: str,
        ids: "list[Any] | None",
        filter: Filter | None,
        metadata: bytes,
        dry_run: bool = False,
        idempotency: Idempotency | None = None,
    ) -> int:
        collection = self._collection(name)
        if filter is None:
            return await collection.patch_ids(ids or [], metadata, dry_run, idempotency)
        return await (
            reading.count(collection, filter) if dry_run else bulk.patch(collection, filter, metadata, idempotency)
        )

    async def fetch(self, name: str, ids: list[Any], include: Include) -> tuple[Items, list[Any]]:
        return reading.fetch(self._collection(name), ids, include)

    async def list(
        self, name: str, limit: int, cursor: str | None, include: Include, filter: Filter | None = None
    ) -> Page:
        return await reading.walk(self._collection(name), limit, cursor, include, filter)

    async def count(self, name: str, filter: Filter) -> int:
        return await reading.count(self._collection(name), filter)

    async def search(self, name: str, queries: Vectors, asked: Asked) -> SearchAnswer:
        return await reading.find(self._collection(name), queries, asked)

    async def search_id(self, name: str, id: Id, asked: Asked) -> SearchAnswer:
        return await reading.find_neighbours(self._collection(name), id, asked)

    # ---------------------------------------------------------------- whole files

    def import_file(
        self, name: str, asked: ImportAsked, uploads: AsyncIterator[Upload], size: int | None
    ) -> AsyncGenerator[dict[str, Any], None]:
        if self._ballast.given_up():
            raise errors.DiskFull(FULL)
        try:
            folder = self._collection(name).folder
        except errors.CollectionNotFound:
            folder = None
        return self._transfers.import_file(name, folder, asked, uploads, size)

    def copy(
        self, name: str, source: str, mode: Literal["add", "upsert"], once: Idempotency | None
    ) -> AsyncGenerator[dict[str, Any], None]:
        self._collection(source).view()
        return self._transfers.copy(name, self._collection(name).folder, source, mode, once)

    async def export(self, name: str, asked: ExportAsked) -> Exported:
        self._collection(name).view()
        return await self._transfers.export(name, asked)

    async def truncate(self, name: str, rows: int) -> int:
        return await bulk.keep_first(self._collection(name), rows)

    # ---------------------------------------------------------------- recall

    async def measure_recall(self, name: str, asked: RecallAsked) -> RecallAnswer:
        return await recall.measure_recall(self._collection(name), asked, self._measuring)

    def calibration(self, name: str) -> dict[str, Any]:
        return recall.calibration(self._collection(name))

    async def draw_calibration(self, name: str, format: Literal["svg", "png"]) -> bytes:
        return await self._picturing.draw({"title": name, "format": format, **self.calibration(name)})
