"""Delete and patch by filter: the rows that match, in one transaction, whatever their number.

The filter is asked of the view, before the write lock is taken: the lock is held for the writing alone. What was
committed between is asked again under the lock, row by row, so that exactly the rows that match at that moment are
written to.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.engine.collection import Collection, once
from app.engine.filters.parse import parse_value
from app.engine.matching import Matching
from app.engine.merge_patch import merge_patch
from app.engine.places import Group, Places, locate
from app.engine.reading import look
from app.engine.types import Idempotency
from app.engine.view import View
from seedvec.filters.ast import Filter
from seedvec.filters.row import compile_row, decode
from storage import catalogue
from storage.documents import read_metadata, read_patches
from storage.writes import Turn

TRIES = 8
ROW_BYTES = 64
"""What changing one row writes, about."""
EVERYTHING = parse_value({})
ASKED_AGAIN = 20_000
"""Rows written since the view was taken that are asked one by one while the lock is held: about 0.1 s."""


@dataclass(frozen=True, slots=True)
class Rows:
    """ids and keys: of the same rows, in that order."""

    ids: list[Any]
    keys: list[int]


class Overtaken(Exception):
    """More happened since the view was taken than can be asked again row by row."""


async def delete(c: Collection, filter: Filter, idempotency: Idempotency | None) -> int:
    """Returns how many items there were."""
    return await _change(c, filter, idempotency, lambda turn, rows: turn.delete_rows(rows.ids, rows.keys), frees=True)


async def patch(c: Collection, filter: Filter, metadata: bytes, idempotency: Idempotency | None) -> int:
    """metadata: a JSON merge patch (RFC 7396). Returns how many items there were."""
    merge = merge_patch(metadata)

    def act(turn: Turn, rows: Rows) -> int:
        turn.patch_metadata(rows.keys, merge)
        return len(rows.keys)

    return await _change(c, filter, idempotency, act)


async def keep_first(c: Collection, rows: int) -> int:
    """Deletes all but the first so many in key order. Returns how many that were."""

    def act(turn: Turn, found: Rows) -> int:
        behind = np.argsort(np.array(found.keys, np.int64), kind="stable")[rows:].tolist()
        return turn.delete_rows([found.ids[i] for i in behind], [found.keys[i] for i in behind])

    return await _change(c, EVERYTHING, None, act, frees=True)


async def _change(
    c: Collection,
    filter: Filter,
    idempotency: Idempotency | None,
    act: Callable[[Turn, Rows], int],
    *,
    frees: bool = False,
) -> int:
    for attempt in range(TRIES):
        view, left = await look(c, filter, again=attempt > 0)
        rows = await _rows(c, view, left)

        def change(turn: Turn, view: View = view, rows: Rows = rows) -> int:
            return act(turn, _as_of_now(turn, view, filter, rows))

        try:
            with c.told():
                return await c.writer.run(
                    lambda turn: once(turn, idempotency, lambda: change(turn)), ROW_BYTES * len(rows.keys), frees=frees
                )
        except Overtaken:
            continue
    raise c.too_restless()


async def _rows(c: Collection, view: View, left: Matching) -> Rows:
    """All rows left. By part in order of their keys, so that what SQLite deletes lies side by side."""

    def read() -> Rows:
        found = Rows([], [])
        sources = [(number, alive, view.parts[number].segment.row.rows) for number, alive in enumerate(left.parts)]
        for part, alive, n in [*sources, (None, left.pending, len(view.pending.keys))]:
            rows = np.arange(n) if alive is None else np.flatnonzero(alive.mask)
            places = Places(view, len(rows), (Group(part, rows, None),))
            found.ids.extend(places.ids())
            found.keys.extend(places.keys())
        return found

    return await c.beside_the_loop(read)


def _as_of_now(turn: Turn, view: View, filter: Filter, rows: Rows) -> Rows:
    """The rows that match in this transaction: `rows`, as of the view, put right by what was committed since.

    Raises Overtaken.
    """
    since, now = view.state, turn.state
    if (now.log_pos, now.next_key) == (since.log_pos, since.next_key):
        return rows
    if now.trimmed_pos > since.log_pos or _sealed_since(turn, since.next_key):
        raise Overtaken
    patched = read_patches(turn.db, since.log_pos, ASKED_AGAIN).tolist()
    if len(patched) == ASKED_AGAIN:
        raise Overtaken
    still = dict(zip(rows.keys, rows.ids, strict=True))
    for key in catalogue.read_deaths(turn.db, since.log_pos).tolist():
        still.pop(key, None)
    new = catalogue.read_pending_ids(turn.db, since.next_key)
    ids = {**_ids_of(view, [key for key in patched if key not in new]), **new}
    holds = compile_row(filter)
    documents = read_metadata(turn.db, list(ids))
    for key, id_ in ids.items():
        json = documents.get(key)
        if holds(decode(json) if json else None):
            still[key] = id_
        else:
            still.pop(key, None)
    return Rows(list(still.values()), list(still))


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
