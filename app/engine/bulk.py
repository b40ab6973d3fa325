"""Delete and patch by filter: the rows that match, in one transaction, whatever their number.

The filter is asked of the view, before the write lock is taken: the lock is held for the writing alone. What was
committed between is asked again under the lock, row by row, so that exactly the rows that match at that moment are
written to.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from app.engine.collection import Collection, once
from app.engine.filters.ast import Filter
from app.engine.filters.row import compile_row, decode
from app.engine.matching import Matching
from app.engine.merge_patch import merge_patch
from app.engine.places import Group, Places, locate
from app.engine.reading import left_by, look
from app.engine.types import Idempotency
from app.engine.view import View
from storage import catalogue
from storage.writes import Turn

TRIES = 8
ROW_BYTES = 64
"""What changing one row writes, about."""
Row = tuple[Any, int]
"""(id, key)."""


class Overtaken(Exception):
    """More happened since the view was taken than can be asked again row by row."""


async def delete(c: Collection, filter: Filter, idempotency: Idempotency | None) -> int:
    """Returns how many items there were."""
    return await _change(c, filter, idempotency, lambda turn, rows: turn.delete_rows(rows), frees=True)


async def patch(c: Collection, filter: Filter, metadata: bytes, idempotency: Idempotency | None) -> int:
    """metadata: a JSON merge patch (RFC 7396). Returns how many items there were."""
    merge = merge_patch(metadata)

    def act(turn: Turn, rows: Iterable[Row]) -> int:
        keys = [key for _, key in rows]
        turn.patch_metadata(keys, merge)
        return len(keys)

    return await _change(c, filter, idempotency, act)


async def _change(
    c: Collection,
    filter: Filter,
    idempotency: Idempotency | None,
    act: Callable[[Turn, Iterable[Row]], int],
    *,
    frees: bool = False,
) -> int:
    for attempt in range(TRIES):
        view = await look(c, filter, again=attempt > 0)
        rows = await _rows(c, view, await left_by(c, view, filter))

        def change(turn: Turn, view: View = view, rows: dict[int, Any] = rows) -> int:
            return act(turn, [(id_, key) for key, id_ in _as_of_now(turn, view, filter, rows).items()])

        try:
            with c.told():
                return await c.writer.run(
                    lambda turn: once(turn, idempotency, lambda: change(turn)), _size(rows), frees=frees
                )
        except Overtaken:
            continue
    raise c.too_restless()


def _size(rows: dict[int, Any]) -> int:
    return ROW_BYTES * len(rows)


async def _rows(c: Collection, view: View, left: Matching) -> dict[int, Any]:
    """key → id of all rows left, by key."""

    def read() -> dict[int, Any]:
        found: dict[int, Any] = {}
        sources = [(number, alive, view.parts[number].segment.row.rows) for number, alive in enumerate(left.parts)]
        for part, alive, n in [*sources, (None, left.pending, len(view.pending.keys))]:
            rows = np.arange(n) if alive is None else np.flatnonzero(alive.mask)
            places = Places(view, len(rows), (Group(part, rows, None),))
            found.update(zip(places.keys(), places.ids(), strict=True))
        return dict(sorted(found.items()))

    return await c.beside_the_loop(read)


def _as_of_now(turn: Turn, view: View, filter: Filter, rows: dict[int, Any]) -> dict[int, Any]:
    """The rows that match in this transaction: `rows`, as of the view, put right by what was committed since.

    Raises Overtaken.
    """
    since, now = view.state, turn.state
    if (now.log_pos, now.next_key) == (since.log_pos, since.next_key):
        return rows
    if now.trimmed_pos > since.log_pos or _sealed_since(turn, since.next_key):
        raise Overtaken
    rows = dict(rows)
    holds = compile_row(filter)
    new = catalogue.read_pending_ids(turn.db, since.next_key)
    for key in catalogue.read_deaths(turn.db, since.log_pos).tolist():
        rows.pop(key, None)
    patched = [key for key in catalogue.read_patches(turn.db, since.log_pos).tolist() if key not in new]
    ids = {**_ids_of(view, patched), **new}
    documents = catalogue.read_metadata(turn.db, list(ids))
    for key, id_ in ids.items():
        json = documents.get(key)
        if holds(decode(json) if json else None):
            rows[key] = id_
        else:
            rows.pop(key, None)
    return rows


def _sealed_since(turn: Turn, next_key: int) -> bool:
    """Rows that the view does not know and that do not pend any more (or never did)."""
    query = "SELECT 1 FROM segments WHERE base_key + span > ? LIMIT 1"
    return turn.db.one(query, (next_key,)) is not None


def _ids_of(view: View, keys: list[int]) -> dict[int, Any]:
    """key → id of rows that the view knows."""
    found: dict[int, Any] = {}
    for key in keys:
        where = locate(view, key)
        if where is not None:
            found[key] = Places.of(view, [where]).ids()[0]
    return found
