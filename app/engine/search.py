"""One search over one view: plan every part, search it, merge by (distance, id)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.engine.places import Group, Places
from app.engine.view import View
from index.contract import Alive, Found, Index, Plan

MAX_DROPPED_SHARE = 0.05
"""Above it the calibration speaks of another collection: no recall is claimed."""
MAX_PLANS = 64
"""Plans kept with a view: clients ask for few different k."""


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
    """One query's hits, nearest first. ids: n; distances: (n,) float32."""

    ids: list[Any]
    distances: NDArray[np.float32]
    places: Places

    def first(self, n: int) -> "Answer":
        return Answer(self.ids[:n], self.distances[:n], self.places.take(np.arange(min(n, len(self.ids)))))


def plan(view: View, k: int, recall: float, exact: bool) -> SearchPlan:
    """Made once a view: it depends on nothing else."""
    key = (k, recall, exact)
    made: SearchPlan | None = view.plans.get(key)
    if made is None:
        made = _plan(view, k, recall, exact)
        if len(view.plans) < MAX_PLANS:
            view.plans[key] = made
    return made


def _plan(view: View, k: int, recall: float, exact: bool) -> SearchPlan:
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
    found = [(step.part, step.index.search(queries, k, step.plan, step.alive)) for step in search.steps]
    return [_merge(view, found, query, k) for query in range(len(queries))]


def _merge(view: View, found: list[tuple[int | None, Found]], query: int, k: int) -> Answer:
    hits = [_there(part, f, query) for part, f in found]
    if len(hits) == 1:
        group, distances = hits[0]
        places = Places(view, len(distances), (group,))
    else:
        places, distances = _merged(view, [h for h in hits if len(h[1])], k)
    ids = places.ids()
    # Hits come by (distance, id). Here they are by distance, with all that tie with the k-th.
    if len(ids) > 1 and bool((distances[1:] == distances[:-1]).any()):
        order = sorted(range(len(ids)), key=lambda i: (distances[i], ids[i]))[:k]
        return Answer([ids[i] for i in order], distances[order], places.take(np.array(order, np.int64)))
    answer = Answer(ids, distances, places)
    return answer if len(ids) <= k else answer.first(k)


def _there(part: int | None, found: Found, query: int) -> tuple[Group, NDArray[np.float32]]:
    """One part's hits of one query, without the padding."""
    rows, distances = found.rows[query], found.distances[query]
    if len(rows) and rows[-1] < 0:
        n = int(np.count_nonzero(rows >= 0))
        rows, distances = rows[:n], distances[:n]
    return Group(part, rows, None), distances


def _merged(view: View, hits: list[tuple[Group, NDArray[np.float32]]], k: int) -> tuple[Places, NDArray[np.float32]]:
    """The k nearest of all parts in order of distance, and all that tie with the k-th."""
    if not hits:
        return Places(view, 0, ()), np.empty(0, np.float32)
    distances = np.concatenate([d for _, d in hits])
    order = np.argsort(distances, kind="stable")
    if len(order) > k:
        last = distances[order[k - 1]]
        order = order[: int(np.searchsorted(distances[order], last, side="right"))]
    groups, begin = [], 0
    for group, d in hits:
        groups.append(Group(group.part, group.rows, np.arange(begin, begin + len(d))))
        begin += len(d)
    everything = Places(view, begin, tuple(groups))
    return everything.take(order), distances[order]
