"""Holds the answers of one worker of a rig against the reference."""

import asyncio
import json
from collections.abc import Coroutine
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from app.engine import reading
from app.engine.collection import Collection
from app.engine.filters.parse import parse
from app.engine.types import EXACTLY, Asked
from seedvec.filters.ast import Filter
from tests.engine.rig import Rig
from tests.filter_reference import matches

T = TypeVar("T")
Json = dict[str, Any]


def parsed(filter: Json) -> Filter:
    return parse(json.dumps(filter).encode())


def at_rest(coroutine: Coroutine[Any, Any, T]) -> T:
    """In an event loop of its own."""
    return asyncio.run(coroutine)


def matching(rig: Rig, filter: Json) -> list[Any]:
    """Ids of the model's items that match, in order."""
    return sorted(id_ for id_, (_, json_) in rig.model.items() if matches(filter, _decoded(json_ or b"null")))


@lru_cache(10_000)
def _decoded(json_: bytes) -> Any:
    return json.loads(json_)


async def judge(rig: Rig, worker: Collection, filter: Json, page: int = 100, k: int | None = None) -> None:
    """count, list and exact search; with a `k` also the search that may use an index."""
    given, wanted = parsed(filter), matching(rig, filter)
    assert await reading.count(worker, given) == len(wanted), filter
    shown = await listed(worker, given, page)
    assert shown == {id_: rig.model[id_][1] for id_ in wanted}, filter
    for recall, n in ((EXACTLY, len(rig.model) + 3), *(((None, k),) if k else ())):
        asked = Asked(n, recall, filter=given)
        hits = (await reading.find(worker, np.ones((1, rig.dimension), np.float32), asked)).hits
        found = hits.items.ids
        assert len(set(found)) == len(found) == min(n, len(wanted)) and set(found) <= set(wanted), filter
        assert hits.items.metadata == [rig.model[id_][1] for id_ in found], filter


async def listed(worker: Collection, filter: Filter, limit: int) -> dict[Any, bytes | None]:
    """All that match, by pages; an id that comes twice is an error."""
    found: dict[Any, bytes | None] = {}
    cursor: str | None = None
    while True:
        page = await reading.walk(worker, limit, cursor, frozenset({"metadata"}), filter)
        assert page.items.metadata is not None and not found.keys() & page.items.ids
        found.update(zip(page.items.ids, page.items.metadata, strict=True))
        cursor = page.next
        if cursor is None:
            return found
