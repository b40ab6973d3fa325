"""The client for asyncio: `Client` and its collections, each call in a thread of its own with a connection of its own.

Threads, not streams: what a call does is wait for the network, encode and decode, and this way there is one client to
get right. A call that is cancelled ends unheard, within its timeout.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from seedvec.client import RETRY_S, TIMEOUT_S, Client
from seedvec.collection import Collection, Filter
from seedvec.exchange import Exchange
from seedvec.server import default_key, default_url

P = ParamSpec("P")
R = TypeVar("R")
CONNECTIONS = 8


def _of_client(
    method: Callable[Concatenate[Client, P], R],
) -> "Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, R]]":
    async def call(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._run(lambda client: method(client, *args, **kwargs))

    call.__doc__ = method.__doc__
    return call


def _of_collection(
    method: Callable[Concatenate[Collection, P], R],
) -> "Callable[Concatenate[AsyncCollection, P], Coroutine[Any, Any, R]]":
    async def call(self: "AsyncCollection", /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._db._run(lambda client: method(client._of(self.name), *args, **kwargs))

    call.__doc__ = method.__doc__
    return call


class AsyncCollection:
    """As `Collection`, every method awaited."""

    def __init__(self, db: "AsyncClient", name: str) -> None:
        self.name = name
        self._db = db

    describe = _of_collection(Collection.describe)
    wait_ready = _of_collection(Collection.wait_ready)
    change = _of_collection(Collection.change)
    rebuild = _of_collection(Collection.rebuild)
    drop = _of_collection(Collection.drop)
    add = _of_collection(Collection.add)
    upsert = _of_collection(Collection.upsert)
    delete = _of_collection(Collection.delete)
    patch = _of_collection(Collection.patch)
    copy_from = _of_collection(Collection.copy_from)
    truncate = _of_collection(Collection.truncate)
    count = _of_collection(Collection.count)
    fetch = _of_collection(Collection.fetch)
    page = _of_collection(Collection.page)
    search = _of_collection(Collection.search)
    neighbors = _of_collection(Collection.neighbors)
    recall = _of_collection(Collection.recall)
    calibration = _of_collection(Collection.calibration)
    import_file = _of_collection(Collection.import_file)
    export_file = _of_collection(Collection.export_file)

    async def items(
        self, filter: Filter | None = None, include: Sequence[str] = ("metadata",)
    ) -> AsyncIterator[dict[str, Any]]:
        """As `Collection.items`."""
        cursor: str | None = None
        while True:
            found, cursor = await self.page(cursor, filter, include)
            for item in found:
                yield item
            if cursor is None:
                return


class AsyncClient:
    """As `Client`, every method awaited. connections: so many calls go on at a time; further ones wait."""

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retry_s: float = RETRY_S,
        connections: int = CONNECTIONS,
    ) -> None:
        """Raises ValueError where that is no address."""
        self._settings = (url or default_url(), key or default_key(), timeout_s, retry_s)
        Exchange(*self._settings)  # it opens nothing: an address that is none is refused here
        self._idle: list[Client] = []
        self._threads = ThreadPoolExecutor(connections, "seedvec")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Waits for calls that go on."""
        await asyncio.to_thread(self._threads.shutdown)
        for client in self._idle:
            client.close()

    ready = _of_client(Client.ready)
    wait_ready = _of_client(Client.wait_ready)
    info = _of_client(Client.info)
    collections = _of_client(Client.collections)
    drop = _of_client(Client.drop)
    aliases = _of_client(Client.aliases)
    alias = _of_client(Client.alias)
    drop_alias = _of_client(Client.drop_alias)
    snapshots = _of_client(Client.snapshots)
    take_snapshot = _of_client(Client.take_snapshot)
    restore = _of_client(Client.restore)
    drop_snapshot = _of_client(Client.drop_snapshot)

    async def collection(self, name: str, dimension: int | None = None, **settings: Any) -> AsyncCollection:
        """As `Client.collection`."""
        await self._run(lambda client: client.collection(name, dimension, **settings))
        return AsyncCollection(self, name)

    async def _run(self, call: Callable[[Client], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._with_a_client, call)

    def _with_a_client(self, call: Callable[[Client], R]) -> R:
        # A list's pop and append are one step each: at most one thread has a client.
        try:
            client = self._idle.pop()
        except IndexError:
            client = Client(*self._settings)
        try:
            return call(client)
        finally:
            self._idle.append(client)
