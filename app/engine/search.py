"""One search over one view: plan every part, search it, merge by (distance, id)."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.engine.matching import Matching, matching
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


@dataclass(frozen=True, slots=True)
class Took:
    """How one part was searched. exact: every row left in it was compared."""

    step: Step
    ms: float
    exact: bool
    params: dict[str, int]

    @property
    def by(self) -> str:
        return "exact" if self.exact else self.step.index.kind


@dataclass(frozen=True, slots=True)
class Results:
    """One answer a query. exact: they are the true nearest."""

    answers: list[Answer]
    took: tuple[Took, ...]
    exact: bool
    expected_recall: float | None


def plan(view: View, k: int, recall: float, exact: bool, left: Matching | None = None) -> SearchPlan:
    """left: the rows that a filter leaves; None: all that live. Made once a view and filter: it depends on no more."""
    left = left or matching(view, None)
    key = (k, recall, exact, left.key)
    made: SearchPlan | None = view.plans.get(key)
    if made is None:
        made = _plan(view, k, recall, exact, left)
        if len(view.plans) < MAX_PLANS:
            view.plans[key] = made
    return made


def _plan(view: View, k: int, recall: float, exact: bool, left: Matching) -> SearchPlan:
    steps = []
    recalls: list[float | None] = []
    for number, (part, alive) in enumerate(zip(view.parts, left.parts, strict=True)):
        rows = part.segment.row.rows
        live = rows if alive is None else alive.count
        if not live:
            continue
        segment = part.segment
        index = segment.exact if exact or segment.index is None else segment.index
        chosen = index.plan(k, recall)
        if chosen.exact:
            index = segment.exact
        # Under a filter the calibration speaks of other rows than those that are asked for.
        unknown = left.filter is not None or live < rows * (1 - MAX_DROPPED_SHARE)
        recalls.append(1.0 if chosen.exact else None if unknown else chosen.expected_recall)
        steps.append(Step(number, index, chosen, alive))
    pending = len(view.pending.keys) if left.pending is None else left.pending.count
    if pending:
        everything = view.pending.exact
        steps.append(Step(None, everything, everything.plan(k, recall), left.pending))
    all_exact = all(step.plan.exact for step in steps)
    known = [r for r in recalls if r is not None]
    expected = min(known, default=1.0) if len(known) == len(recalls) else None
    return SearchPlan(tuple(steps), all_exact, expected, sum(_cost_us(view, step) for step in steps))


def _cost_us(view: View, step: Step) -> float:
    """About, of one query: an index that some rows are left out of has to look at more of the others."""
    if step.alive is None:
        return step.plan.cost_us
    exact = view.pending.exact if step.part is None else view.parts[step.part].segment.exact
    least = exact.cost_us(step.alive.count)
    if step.plan.exact:
        return least
    return min(least, step.plan.cost_us * len(step.alive.mask) / step.alive.count)


def run(view: View, search: SearchPlan, queries: NDArray[np.float32], k: int) -> Results:
    """queries: (q, d) float32. One answer a query with min(k, rows left) hits."""
    found, took = [], []
    for step in search.steps:
        begun = time.perf_counter()
        hits = step.index.search(queries, k, step.plan, step.alive)
        found.append((step.part, hits))
        took.append(Took(step, (time.perf_counter() - begun) * 1000, hits.exact, dict(hits.params or {})))
    exact = all(t.exact for t in took)
    answers = [_merge(view, found, query, k) for query in range(len(queries))]
    return Results(answers, tuple(took), exact, 1.0 if exact else search.expected_recall)


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
