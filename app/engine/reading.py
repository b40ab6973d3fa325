"""Search, fetch and list over one collection's view: the reading half of the engine, all on one immutable view.

Metadata stands in the catalogue, which may have moved on since the view was taken: where a key's metadata is gone
because the key died meanwhile, the request is answered again from the newer view, and in the end with the catalogue
held still.
"""

import asyncio
import base64
import binascii
import heapq
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.engine import errors, intake, search
from app.engine.collection import Collection
from app.engine.errors import Fault
from app.engine.places import Place, Places, locate
from app.engine.types import Hits, Id, Include, Items, Page, SearchAnswer
from app.engine.view import View

LOOP_US = 2_000.0
"""Searches cheaper than this run inside the event loop: handing them to a thread costs more than they do."""
TRIES = 4
T = TypeVar("T")


class MovedOn(Exception):
    """What the view shows died before its metadata was read."""


def items_at(c: Collection, places: Places, ids: list[Any], include: Include) -> Items:
    """Raises MovedOn."""
    vectors = places.vectors() if "vector" in include else None
    metadata: list[bytes | None] | None = None
    if "metadata" in include:
        metadata = _metadata(c, places) if places.view.has_metadata else [None] * places.n
    return Items(ids, vectors, metadata)


def _metadata(c: Collection, places: Places) -> list[bytes | None]:
    keys = places.keys()
    found = c.metadata_of(keys)
    if len(found) < len(keys):
        now = c.look_again()
        if now is not places.view and not all(now.is_alive(key) for key in keys if key not in found):
            raise MovedOn
    return [found.get(key) for key in keys]


def _at_one_moment(c: Collection, act: Callable[[View], T]) -> T:
    """`act` on the present view, on newer ones where it has MovedOn, and at last with the catalogue held still.

    Holding it still always succeeds, but costs a transaction: what is read is rarely replaced at that very moment.
    """
    for view in c.looks(TRIES):
        try:
            return act(view)
        except MovedOn:
            continue
    with c.pinned() as view:
        return act(view)


# -------------------------------------------------------------------- search


async def find(
    c: Collection, queries: NDArray[Any], k: int, exact: bool, max_distance: float | None, include: Include
) -> SearchAnswer:
    for view in c.looks(TRIES):
        asked = intake.check_query(queries, view.settings)
        plan = search.plan(view, k, view.settings.recall, exact)
        if plan.cost_us * len(asked) <= LOOP_US:
            answers = search.run(view, plan, asked, k)
        else:
            answers = await _beside_the_loop(c, view, plan, asked, k)
        try:
            return _search_answer(c, plan, answers, max_distance, include)
        except MovedOn:
            continue
    with c.pinned() as view:
        asked = intake.check_query(queries, view.settings)
        plan = search.plan(view, k, view.settings.recall, exact)
        return _search_answer(c, plan, search.run(view, plan, asked, k), max_distance, include)


def _search_answer(
    c: Collection, plan: search.SearchPlan, answers: list[search.Answer], max_distance: float | None, include: Include
) -> SearchAnswer:
    """Raises MovedOn."""
    hits = [_hits(c, answer, max_distance, include) for answer in answers]
    return SearchAnswer(hits, plan.exact, plan.expected_recall, None if plan.exact else "data")


async def _beside_the_loop(
    c: Collection, view: View, plan: search.SearchPlan, queries: NDArray[np.float32], k: int
) -> list[search.Answer]:
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(c.pools.searchers, search.run, view, plan, queries, k)


def _hits(c: Collection, answer: search.Answer, max_distance: float | None, include: Include) -> Hits:
    if max_distance is not None:
        answer = answer.first(int(np.searchsorted(answer.distances, np.float32(max_distance), side="right")))
    return Hits(items_at(c, answer.places, answer.ids, include), answer.distances)


async def find_neighbours(
    c: Collection, id_: Id, k: int, exact: bool, max_distance: float | None, include: Include
) -> SearchAnswer:
    """One more than asked, then the item itself taken out."""
    _, vector = vector_of(c, id_)
    answer = await find(c, vector.reshape(1, -1), k + 1, exact, max_distance, include)
    hits = answer.results[0]
    keep = [i for i, other in enumerate(hits.items.ids) if other != id_][:k]
    items = Items(
        [hits.items.ids[i] for i in keep],
        None if hits.items.vectors is None else hits.items.vectors[keep],
        None if hits.items.metadata is None else [hits.items.metadata[i] for i in keep],
    )
    return SearchAnswer([Hits(items, hits.distances[keep])], answer.exact, answer.expected_recall, answer.calibrated_on)


# -------------------------------------------------------------------- by id


def _located(c: Collection, view: View, ids: list[Any]) -> dict[Any, Place]:
    """Where those of the ids are that exist. Raises MovedOn: the catalogue knows of keys that the view does not."""
    found: dict[Any, Place] = {}
    for id_, key in c.keys_of(ids).items():
        where = locate(view, key)
        if where is None:
            raise MovedOn
        found[id_] = where
    return found


def vector_of(c: Collection, id_: Id) -> tuple[View, NDArray[Any]]:
    """Raises IdNotFound."""

    def act(view: View) -> tuple[View, NDArray[Any]]:
        found = _located(c, view, [id_])
        if not found:
            raise c.no_such_id(id_)
        return view, Places.of(view, list(found.values())).vectors()[0]

    return _at_one_moment(c, act)


def fetch(c: Collection, ids: list[Any], include: Include) -> tuple[Items, list[Any]]:
    def act(view: View) -> tuple[Items, list[Any]]:
        found = _located(c, view, list(dict.fromkeys(ids)))
        there = [id_ for id_ in ids if id_ in found]
        items = items_at(c, Places.of(view, [found[id_] for id_ in there]), there, include)
        return items, [id_ for id_ in ids if id_ not in found]

    return _at_one_moment(c, act)


# -------------------------------------------------------------------- list


def walk(c: Collection, limit: int, cursor: str | None, include: Include) -> Page:
    """The next `limit` live rows in key order."""
    after = _key_of(cursor)

    def act(view: View) -> Page:
        rows = _rows_after(view, after, limit + 1)
        page = rows[:limit]
        places = Places.of(view, [place for _, place in page])
        items = items_at(c, places, places.ids(), include)
        return Page(items, _cursor_of(page[-1][0]) if len(rows) > limit else None)

    return _at_one_moment(c, act)


def _rows_after(view: View, after: int, limit: int) -> list[tuple[int, Place]]:
    """(key, where) of the first live rows with a key above `after`. Key ranges of segments may interleave."""
    sources: list[list[tuple[int, Place]]] = []
    for number, part in enumerate(view.parts):
        keys = part.segment.file.keys_rel
        base = part.segment.row.base_key
        first = int(np.searchsorted(keys, np.uint64(max(0, after - base)), side="right")) if after >= base else 0
        rows = _live(first, len(keys), None if part.alive is None else part.alive.mask, limit)
        sources.append([(base + int(keys[row]), (number, row)) for row in rows])
    pending = view.pending
    first = int(np.searchsorted(pending.keys, after, side="right"))
    rows = _live(first, len(pending.keys), None if pending.alive is None else pending.alive.mask, limit)
    sources.append([(int(pending.keys[row]), (None, row)) for row in rows])
    return list(heapq.merge(*sources, key=lambda entry: entry[0]))[:limit]


def _live(first: int, end: int, mask: NDArray[np.bool_] | None, limit: int) -> list[int]:
    if mask is None:
        return list(range(first, min(end, first + limit)))
    live = np.flatnonzero(mask[first:])[:limit] + first
    rows: list[int] = live.tolist()
    return rows


def _cursor_of(key: int) -> str:
    return base64.urlsafe_b64encode(key.to_bytes(8, "big")).decode().rstrip("=")


def _key_of(cursor: str | None) -> int:
    if cursor is None:
        return 0
    try:
        raw = base64.b64decode(cursor + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 8:
        raise errors.Invalid("cursor: not one that this server gave", [Fault("cursor", "is not one of ours")])
    return int.from_bytes(raw, "big")
