"""Snapshots as requests ask for them: `storage/snapshots.py` in threads, what must be judged in its own process."""

import asyncio
import json
import logging
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from app.children import start_child
from app.engine import errors
from app.engine.collection import Pools
from app.engine.errors import Fault
from app.engine.translate import FULL, translated
from storage import errors as below
from storage import manifest, snapshot_files, snapshot_tar, snapshots
from storage.ballast import Ballast
from storage.manifest import Manifest
from storage.registry import NameTaken, NoSuchName, Registered, Registry, SnapshotRow
from storage.snapshot_tar import Unpacker

log = logging.getLogger(__name__)
CHUNK_BYTES = 1 << 20
"""Of an upload, written at once."""
T = TypeVar("T")


class Snapshots:
    """Implements `app.engine.types.Snapshots`, of one data folder in one worker."""

    def __init__(self, data: Path, pools: Pools, ballast: Ballast) -> None:
        self._data = data
        self._pools = pools
        self._ballast = ballast

    async def all(self) -> list[dict[str, Any]]:
        def described(registry: Registry) -> list[dict[str, Any]]:
            return [_described(registry, row) for row in registry.snapshots()]

        return await self._in_registry(described)

    async def describe(self, name: str) -> dict[str, Any]:
        return await self._in_registry(lambda registry: _described(registry, snapshots.find(registry, name)))

    async def take(self, name: str, entries: list[Registered]) -> dict[str, Any]:
        self._require_room()
        await self._in_registry(lambda registry: snapshots.take(registry, name, entries))
        return await self.describe(name)

    async def delete(self, name: str) -> None:
        def attempt(registry: Registry) -> None:
            snapshots.delete(registry, name)

        try:
            await self._in_registry(attempt)
        except errors.DiskFull:
            # It frees room, and may use what was kept back for that.
            if not (self._ballast.give_up() or self._ballast.given_up()):
                raise
            await self._in_registry(attempt)

    # ---------------------------------------------------------------- out and in

    async def download(self, name: str) -> tuple[int, AsyncIterator[bytes]]:
        folder, size = await self._in_registry(partial(_opened, name))
        return size, self._chunks(name, snapshot_tar.stream(folder))

    async def _chunks(self, name: str, chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
        try:
            while chunk := await self._in_thread(lambda: next(chunks, b"")):
                yield chunk
        except (below.Damaged, OSError) as e:
            # The head has gone out: that the body is shorter than it said is all that can be told.
            log.error("snapshot %s is not sent to its end: %s", name, e)

    async def upload(self, name: str, chunks: AsyncIterable[bytes]) -> dict[str, Any]:
        self._require_room()
        await self._in_registry(lambda registry: snapshots.require_free(registry, name))
        with translated("the snapshot"):
            stage = await self._in_thread(lambda: snapshot_files.make_stage(self._data))
        try:
            whole = await self._unpack(stage, chunks)
            wanted = {content.name: content.name for content in whole.collections}
            judged = await self._judged(stage, wanted, trusted=False)
            await self._in_thread(lambda: snapshot_files.take_away(judged))
            await self._in_registry(lambda registry: snapshots.keep(registry, name, stage, whole, uploaded=True))
        except BaseException:
            # Not awaited: the request may be gone.
            self._pools.workers.submit(snapshot_files.take_away, stage)
            raise
        return await self.describe(name)

    async def _unpack(self, stage: Path, chunks: AsyncIterable[bytes]) -> Manifest:
        unpacker, waiting = Unpacker(stage), bytearray()

        async def write() -> None:
            part = bytes(waiting)
            waiting.clear()
            await self._in_thread(lambda: unpacker.feed(part))

        try:
            with _translated_bad("the upload"):
                async for chunk in chunks:
                    waiting += chunk
                    if len(waiting) >= CHUNK_BYTES:
                        await write()
                await write()
                return await self._in_thread(unpacker.finish)
        finally:
            unpacker.close()

    # ---------------------------------------------------------------- restoring

    async def restore(self, name: str, collections: list[str] | None, as_: str | None, replace: bool) -> dict[str, Any]:
        self._require_room()
        row, folder, whole = await self._in_registry(partial(_read, name))
        wanted = wanted_of(name, whole, collections, as_)
        await self._in_registry(lambda registry: require_names(registry, list(wanted), replace))
        root = await self._judged(folder, wanted, trusted=not row.uploaded)
        names = await self._in_registry(lambda registry: snapshots.restore(registry, root, replace))
        log.info("restored %s from snapshot %s", ", ".join(names), name)
        counts = {content.name: content.live for content in whole.collections}
        restored = [{"name": new, "from": wanted[new], "count": counts[wanted[new]]} for new in names]
        return {"snapshot": name, "collections": restored}

    async def _judged(self, snapshot: Path, wanted: dict[str, str], trusted: bool) -> Path:
        """A folder to restore from, every byte of it verified: see `app/engine/restoring.py`."""
        order = {"data": str(self._data), "snapshot": str(snapshot), "wanted": wanted, "trusted": trusted}
        answer = await _asked_child(order)
        if "stage" in answer:
            return Path(answer["stage"])
        if "full" in answer:
            raise errors.DiskFull(FULL)
        if "damaged" in answer:
            raise errors.BadSnapshot(f"the snapshot is not sound: {answer['damaged']}; nothing was changed")
        raise errors.Unavailable(f"the snapshot could not be read: {answer['failed']}; nothing was changed")

    # ---------------------------------------------------------------- threads

    def _require_room(self) -> None:
        if self._ballast.given_up():
            raise errors.DiskFull(FULL)

    async def _in_thread(self, act: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pools.workers, act)

    async def _in_registry(self, act: Callable[[Registry], T]) -> T:
        """In a thread, with a connection of its own."""

        def run() -> T:
            with closing(Registry(self._data)) as registry, translated_names():
                return act(registry)

        with translated("the snapshot"):
            return await self._in_thread(run)


@contextmanager
def translated_names() -> Iterator[None]:
    try:
        yield
    except NoSuchName as e:
        raise errors.SnapshotNotFound(f"there is no snapshot {e}: GET /v1/snapshots lists them") from e
    except NameTaken as e:
        raise errors.NameTaken(f"the name {e} is taken: nothing was changed") from e


@contextmanager
def _translated_bad(what: str) -> Iterator[None]:
    try:
        with translated(what):
            yield
    except errors.CollectionClosed as e:
        raise errors.BadSnapshot(f"{what} is no sound snapshot: {e.__cause__}; nothing was stored") from e


def _described(registry: Registry, row: SnapshotRow) -> dict[str, Any]:
    answer: dict[str, Any] = {"name": row.name, "created": row.created, "uploaded": row.uploaded}
    try:
        whole = manifest.read(snapshots.folder_of(registry, row))
    except below.Damaged as e:
        return {**answer, "collections": [], "bytes": 0, "damage": str(e)}
    contents = [{"name": content.name, "count": content.live} for content in whole.collections]
    return {**answer, "collections": contents, "bytes": whole.total_bytes, "damage": None}


def _opened(name: str, registry: Registry) -> tuple[Path, int]:
    _, folder, _ = _read(name, registry)
    return folder, snapshot_tar.length(folder)


def _read(name: str, registry: Registry) -> tuple[SnapshotRow, Path, Manifest]:
    row = snapshots.find(registry, name)
    folder = snapshots.folder_of(registry, row)
    try:
        return row, folder, manifest.read(folder)
    except below.Damaged as e:
        raise errors.BadSnapshot(f"snapshot {name} is not sound: {e}") from e


def wanted_of(name: str, whole: Manifest, collections: list[str] | None, as_: str | None) -> dict[str, str]:
    """New name → name in the snapshot. Raises Invalid's family."""
    there = [content.name for content in whole.collections]
    for i, collection in enumerate(collections or []):
        if collection not in there:
            message = f"snapshot {name} holds no collection {collection!r}: it holds {', '.join(there) or 'none'}"
            raise errors.Invalid(f"collections[{i}]: {message}", [Fault(f"collections[{i}]", message)])
    chosen = list(dict.fromkeys(collections)) if collections is not None else there
    if as_ is None:
        return {collection: collection for collection in chosen}
    if len(chosen) != 1:
        message = f"goes with exactly one collection, and {len(chosen)} are restored: name one in collections"
        raise errors.Invalid(f"as: {message}", [Fault("as", message)])
    return {as_: chosen[0]}


def require_names(registry: Registry, names: list[str], replace: bool) -> None:
    """Raises NameTaken, before any work is done for nothing. It is the transaction that counts."""
    there, aliases = registry.read_names()
    taken = set(aliases) | (set() if replace else {entry.name for entry in there})
    for name in names:
        if name in aliases:
            detail = f"{name} is an alias of {aliases[name]}: restore under another name, and switch the alias then"
            raise errors.NameTaken(detail)
        if name in taken:
            raise errors.NameTaken(f'there is a collection {name}: give "as" another name, or "replace": true')


async def _asked_child(order: dict[str, Any]) -> dict[str, str]:
    with start_child("app.restoring", piped=True) as process:  # here, on the main thread
        try:
            raw, _ = await asyncio.to_thread(process.communicate, json.dumps(order).encode())
        finally:
            process.kill()  # nothing, where it has ended
    if process.returncode or not raw:
        log.error("a snapshot was not judged: exit status %s", process.returncode)
        if order["trusted"]:
            return {"failed": f"its reader ended with status {process.returncode}, the server's log says why"}
        return {"damaged": "reading it ended the process that did"}
    answer: dict[str, str] = json.loads(raw)
    return answer
