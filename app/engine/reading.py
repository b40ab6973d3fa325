"""Search, fetch and list over one collection's view: the reading half of the engine, all on one immutable view.

Metadata stands in the catalogue, which may have moved on since the view was taken: where a key's metadata is gone
because the key died meanwhile, the request is answered again from the newer view, and in the end with the catalogue
held still.
"""

import base64
import binascii
import heapq
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from app.engine import errors, intake, plain, planning, search, search_params
from app.engine.collection import Collection
from app.engine.errors import Fault
from app.engine.explain import Watch, explain
from app.engine.matching import Matching, Undescribed, Unusable, is_kept, matching
from app.engine.places import Place, Places, locate
from app.engine.types import Asked, Hits, Id, Include, Items, Page, SearchAnswer, Vectors
from app.engine.view import View
from index.contract import Alive
from seedvec.filters.ast import Filter
from seedvec.filters.row import compile_row, decode
from seedvec.sparse import SparseRows

LOOP_ROWS = 500_000
"""Over so many rows a filter's bitmap takes up to milliseconds."""
TRIES = 4
T = TypeVar("T")


class MovedOn(Exception):
    """What the view shows died before its metadata was read."""


def items_at(c: Collection, places: Places, ids: list[Any], include: Include, filter: Filter | None = None) -> Items:
    """filter: what the metadata that is shown must still match. Raises MovedOn."""
    vectors = places.vectors() if "vector" in include else None
    metadata: list[bytes | None] | None = None
    if "metadata" in include:
        metadata = _metadata(c, places) if places.view.has_metadata else [None] * places.n
        if filter is not None and metadata:
            holds = compile_row(filter)
            if not all(holds(decode(json) if json else None) for json in metadata):
                raise MovedOn
    return Items(ids, vectors, metadata)


def _metadata(c: Collection, places: Places) -> list[bytes | None]:
    keys = places.keys()
    wanted = list(dict.fromkeys(keys))  # several queries may have found the same
    found = c.metadata_of(wanted)
    if len(found) < len(wanted):
        now = c.look_again()
        if now is not places.view and not all(now.is_alive(key) for key in wanted if key not in found):
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


async def find(c: Collection, queries: Vectors, asked: Asked) -> SearchAnswer:
    """queries: q as decoded. Without a filter dense ones join the sample that recall is kept on."""
    prepared = intake.check_query(queries, c.view().settings)
    if asked.filter is None and not isinstance(prepared, SparseRows):
        c.sample.note(prepared)
        found = plain.answer(c.view(), prepared, asked) if len(prepared) == 1 else None
        if found is not None:
            return found
    return await _find(c, prepared, asked, 0)


async def _find(c: Collection, queries: Vectors, asked: Asked, more: int) -> SearchAnswer:
    """more: hits besides k, of a search that is planned for k."""
    for attempt in range(TRIES):
        watch = Watch()
        view, left = await look(c, asked.filter, again=attempt > 0)
        watch.lap()
        plan = _planned(view, left, asked)
        watch.lap()
        found = await _run(c, view, plan, queries, asked.k + more, asked.deadline)
        watch.lap()
        try:
            return _search_answer(c, view, left, plan, found, asked, watch)
        except MovedOn:
            continue
    with c.pinned() as view:
        watch = Watch()
        left = _left_now(c, view, asked.filter)
        watch.lap()
        plan = _planned(view, left, asked)
        watch.lap()
        found = search.run(view, plan, queries, asked.k + more)
        watch.lap()
        return _search_answer(c, view, left, plan, found, asked, watch)


def _planned(view: View, left: Matching, asked: Asked) -> planning.SearchPlan:
    """Raises Invalid's family for params that nothing here takes."""
    if asked.params is not None:
        search_params.refuse(view, asked.params)
    recall = view.settings.recall if asked.recall is None else asked.recall
    return planning.plan(view, asked.k, recall, left, asked.params)


async def _run(
    c: Collection, view: View, plan: planning.SearchPlan, queries: Vectors, k: int, deadline: float
) -> search.Results:
    """Raises DeadlineExceeded, Overloaded."""
    cost_us = plan.cost_us * len(queries)
    if cost_us > planning.LOOP_US and search.is_joinable(plan, queries):

        def all_of(several: Sequence[search.Wanted]) -> list[search.Results]:
            return search.run_together(view, plan, several, k)

        # The plan was made for this view, and stays as long as this function does: no other has its id.
        wanted = search.Wanted(queries, deadline)
        return await c.beside_the_loop_with_others((id(plan), k), wanted, all_of, cost_us, deadline)
    if cost_us > planning.LOOP_US:
        return await c.beside_the_loop(lambda: search.run(view, plan, queries, k, deadline), cost_us, deadline)
    return search.run(view, plan, queries, k, deadline)


def _search_answer(
    c: Collection,
    view: View,
    left: Matching,
    plan: planning.SearchPlan,
    found: search.Results,
    asked: Asked,
    watch: Watch,
) -> SearchAnswer:
    """Raises MovedOn."""
    ranked = found.hits if asked.max_distance is None else found.hits.within(asked.max_distance)
    items = items_at(c, ranked.places, ranked.ids, asked.include, left.filter)
    hits = Hits(items, ranked.distances, ranked.starts)
    watch.lap()
    explained = explain(view, left, asked, plan, found, watch) if asked.explain else None
    stages = watch.stages(found)
    return SearchAnswer(hits, found.exact, found.expected_recall, found.calibrated_on, explained, stages)


async def find_neighbours(c: Collection, id_: Id, asked: Asked) -> SearchAnswer:
    """One more than asked, then the item itself taken out."""
    view, vector = vector_of(c, id_)
    answer = await _find(c, intake.check_query(vector, view.settings), asked, 1)
    hits = answer.hits
    keep = [i for i, other in enumerate(hits.items.ids) if other != id_][: asked.k]
    items = Items(
        [hits.items.ids[i] for i in keep],
        None if hits.items.vectors is None else hits.items.vectors[keep],
        None if hits.items.metadata is None else [hits.items.metadata[i] for i in keep],
    )
    return answer._replace(hits=Hits(items, hits.distances[keep], [0, len(keep)]))


# -------------------------------------------------------------------- filters


async def look(c: Collection, filter: Filter | None, *, again: bool) -> tuple[View, Matching]:
    """The present view, and the rows of it that the filter leaves. again: not the view of this turn of the event loop.

    Raises Busy."""
    for _ in range(TRIES):
        view = c.look_again() if again else c.view()
        if filter is None:
            return view, matching(view, None)
        view = await c.described()
        try:
            return view, await _left_by(c, view, filter)
        except Unusable as e:
            c.follower.distrust(e.segment, str(e))
            again = True
    raise c.too_restless()


async def _left_by(c: Collection, view: View, filter: Filter) -> Matching:
    """A bitmap over very many rows that nobody has asked for lately is made in a thread."""
    if view.state.live > LOOP_ROWS and not is_kept(view, filter):
        return await c.beside_the_loop(lambda: matching(view, filter))
    return matching(view, filter)


def _left_now(c: Collection, view: View, filter: Filter | None) -> Matching:
    try:
        return matching(view, filter)
    except (Undescribed, Unusable) as e:
        raise c.too_restless() from e


async def _with_filter(c: Collection, filter: Filter | None, act: Callable[[View, Matching], T]) -> T:
    """As `_at_one_moment`, with the rows that the filter leaves."""
    for attempt in range(TRIES):
        view, left = await look(c, filter, again=attempt > 0)
        try:
            return act(view, left)
        except MovedOn:
            continue
    with c.pinned() as view:
        return act(view, _left_now(c, view, filter))


async def count(c: Collection, filter: Filter) -> int:
    _, left = await look(c, filter, again=False)
    return left.count


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


def vector_of(c: Collection, id_: Id) -> tuple[View, Vectors]:
    """One vector. Raises IdNotFound."""

    def act(view: View) -> tuple[View, Vectors]:
        found = _located(c, view, [id_])
        if not found:
            raise c.no_such_id(id_)
        return view, Places.of(view, list(found.values())).vectors()

    return _at_one_moment(c, act)


def fetch(c: Collection, ids: list[Any], include: Include) -> tuple[Items, list[Any]]:
    def act(view: View) -> tuple[Items, list[Any]]:
        found = _located(c, view, list(dict.fromkeys(ids)))
        there = [id_ for id_ in ids if id_ in found]
        items = items_at(c, Places.of(view, [found[id_] for id_ in there]), there, include)
        return items, [id_ for id_ in ids if id_ not in found]

    single = plain.item(c, ids[0], include) if len(ids) == 1 else None
    if single is not None:
        return single, []
    return _at_one_moment(c, act)


# -------------------------------------------------------------------- list


async def walk(c: Collection, limit: int, cursor: str | None, include: Include, filter: Filter | None = None) -> Page:
    """The next `limit` live rows that match, in key order."""
    after = _key_of(cursor)

    def act(view: View, left: Matching) -> Page:
        rows = _rows_after(view, left, after, limit + 1)
        page = rows[:limit]
        places = Places.of(view, [place for _, place in page])
        items = items_at(c, places, places.ids(), include, left.filter)
        return Page(items, _cursor_of(page[-1][0]) if len(rows) > limit else None)

    return await _with_filter(c, filter, act)


def _rows_after(view: View, left: Matching, after: int, limit: int) -> list[tuple[int, Place]]:
    """(key, where) of the first rows left with a key above `after`. Key ranges of segments may interleave."""
    sources: list[list[tuple[int, Place]]] = []
    for number, (part, alive) in enumerate(zip(view.parts, left.parts, strict=True)):
        keys = part.segment.file.keys_rel
        base = part.segment.row.base_key
        first = int(np.searchsorted(keys, np.uint64(max(0, after - base)), side="right")) if after >= base else 0
        rows = _live(first, len(keys), alive, limit)
        sources.append([(base + int(keys[row]), (number, row)) for row in rows])
    pending = view.pending
    first = int(np.searchsorted(pending.keys, after, side="right"))
    rows = _live(first, len(pending.keys), left.pending, limit)
    sources.append([(int(pending.keys[row]), (None, row)) for row in rows])
    return list(heapq.merge(*sources, key=lambda entry: entry[0]))[:limit]


def _live(first: int, end: int, alive: Alive | None, limit: int) -> list[int]:
    if alive is None:
        return list(range(first, min(end, first + limit)))
    live = np.flatnonzero(alive.mask[first:])[:limit] + first
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
