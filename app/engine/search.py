"""One search over one view: plan every part, search it, merge by (distance, id)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.engine.view import View
from index.contract import Alive, Found, Index, Plan

MAX_DROPPED_SHARE = 0.05
"""Above it the calibration speaks of another collection: no recall is claimed."""


@dataclass(frozen=True, slots=True)
class Step:
    """How one part (or the pending rows) is searched. part: its number in the view; None: the pending rows."""

    part: int | None
    index: Index
    plan: Plan
    alive: Alive | None


@dataclass(frozen=True, slots=True)
class SearchPlan:
    steps: tuple[Step, ...]
    exact: bool
    expected_recall: float | None
    cost_us: float
    """Of one query on one thread."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One query's hits, nearest first. ids and keys: n; distances: (n,) float32; where: (part or None, row) of each."""

    ids: list[Any]
    distances: NDArray[np.float32]
    where: list[tuple[int | None, int]]


def plan(view: View, k: int, recall: float, exact: bool) -> SearchPlan:
    steps = []
    recalls: list[float | None] = []
    for number, part in enumerate(view.parts):
        if not part.live:
            continue
        segment = part.segment
        index = segment.exact if exact or segment.index is None else segment.index
        chosen = index.plan(k, recall)
        if chosen.exact:
            index = segment.exact
        stale = part.live < segment.row.rows * (1 - MAX_DROPPED_SHARE)
        recalls.append(1.0 if chosen.exact else None if stale else chosen.expected_recall)
        steps.append(Step(number, index, chosen, part.alive))
    if view.pending.live:
        pending = view.pending.exact
        steps.append(Step(None, pending, pending.plan(k, recall), view.pending.alive))
    all_exact = all(step.plan.exact for step in steps)
    known = [r for r in recalls if r is not None]
    expected = min(known, default=1.0) if len(known) == len(recalls) else None
    return SearchPlan(tuple(steps), all_exact, expected, sum(step.plan.cost_us for step in steps))


def run(view: View, search: SearchPlan, queries: NDArray[np.float32], k: int) -> list[Answer]:
    """queries: (q, d) float32. One answer a query with min(k, live rows) hits."""
    found = [(step, step.index.search(queries, k, step.plan, step.alive)) for step in search.steps]
    return [_merge(view, found, query, k) for query in range(len(queries))]


def _merge(view: View, found: list[tuple[Step, Found]], query: int, k: int) -> Answer:
    rows: list[NDArray[np.int64]] = []
    distances: list[NDArray[np.float32]] = []
    sources: list[int] = []
    for number, (_, f) in enumerate(found):
        there = int(np.count_nonzero(f.rows[query] >= 0))
        if there:
            rows.append(f.rows[query, :there])
            distances.append(f.distances[query, :there])
            sources.append(number)
    if not rows:
        return Answer([], np.empty(0, np.float32), [])
    all_rows, all_distances = np.concatenate(rows), np.concatenate(distances)
    all_sources = np.repeat(sources, [len(r) for r in rows])
    near = _nearest(all_distances, k)
    steps = [found[s][0] for s in all_sources[near].tolist()]
    row_numbers = all_rows[near].tolist()
    where = [(step.part, row) for step, row in zip(steps, row_numbers, strict=True)]
    ids = ids_of(view, where)
    near_distances = all_distances[near]
    # Hits come by (distance, id); `near` is by distance, with all that tie with the k-th.
    if len(near_distances) > 1 and bool((near_distances[1:] == near_distances[:-1]).any()):
        order = sorted(range(len(ids)), key=lambda i: (near_distances[i], ids[i]))[:k]
        return Answer([ids[i] for i in order], near_distances[order], [where[i] for i in order])
    return Answer(ids[:k], near_distances[:k], where[:k])


def _nearest(distances: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Positions of the k nearest in order, and of all that tie with the k-th."""
    order = np.argsort(distances, kind="stable")
    if len(order) > k:
        last = distances[order[k - 1]]
        order = order[: int(np.searchsorted(distances[order], last, side="right"))]
    near: NDArray[np.int64] = order
    return near


def ids_of(view: View, where: list[tuple[int | None, int]]) -> list[Any]:
    """Ids of hits: one look-up a part, not one a hit."""
    ids: list[Any] = [None] * len(where)
    by_part: dict[int | None, list[int]] = {}
    for position, (part, _) in enumerate(where):
        by_part.setdefault(part, []).append(position)
    for part, positions in by_part.items():
        rows = [where[p][1] for p in positions]
        if part is None:
            found = [view.pending.ids[row] for row in rows]
        else:
            found = view.parts[part].segment.ids_at(np.array(rows, np.int64))
        for position, id_ in zip(positions, found, strict=True):
            ids[position] = id_
    return ids


def keys_of(view: View, where: list[tuple[int | None, int]]) -> list[int]:
    return [
        int(view.pending.keys[row]) if part is None else view.parts[part].segment.key_at(row) for part, row in where
    ]


def vectors_of(view: View, where: list[tuple[int | None, int]]) -> NDArray[Any]:
    """(n, d) in the collection's dtype, bit for bit as stored."""
    out = np.empty((len(where), view.settings.dimension), view.settings.vector_dtype)
    for position, (part, row) in enumerate(where):
        source = view.pending.vectors if part is None else view.parts[part].segment.vectors
        out[position] = source.rows[row]
    return out


def locate(view: View, key: int) -> tuple[int | None, int] | None:
    """Where a live key is in the view."""
    row = view.pending.find(key)
    if row >= 0:
        return (None, row) if view.pending.is_alive(row) else None
    for number, part in enumerate(view.parts):
        row = part.segment.find(key)
        if row >= 0:
            return (number, row) if part.is_alive(row) else None
    return None
