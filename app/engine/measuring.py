"""Measures what searches of one view find of the true nearest, and how long they take: one at a time, in pieces.

A search is planned and run as any other (`planning.plan`, `search.run`). Between pieces the thread sleeps as long as
it has worked, so that searches beside it keep their pace.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.engine import search
from app.engine.judging import ByDistance, ByIds, Judge, Queries, Truth, exact_distances
from app.engine.places import Place
from app.engine.planning import SearchPlan
from app.engine.ranking import Ranked
from app.engine.types import RecallRow
from app.engine.view import View
from index.calibration import interval

PIECE_S = 0.005
"""As long as a thread may hold on to the interpreter before another one asks for it."""
BUDGET_S = 30.0
"""Of searching, for all rows of an answer together: a dear search is measured on fewer queries than were given."""
LEAST_SEARCHED = 10
TIMED = 50
EXACT_SHARE = 0.1
"""Of the budget, for the times of the exact search."""
SEED = 22


class Stopped(Exception):
    """Nobody waits for the measurement any more."""


class Pace:
    """Held by the measuring thread. stop: set by whoever no longer wants to know."""

    def __init__(self, stop: Event) -> None:
        self._stop = stop
        self._since = time.perf_counter()

    def breathe(self) -> None:
        """To be called between pieces of work. Raises Stopped."""
        worked = time.perf_counter() - self._since
        if worked < PIECE_S:
            return
        if self._stop.wait(worked):
            raise Stopped
        self._since = time.perf_counter()


@dataclass(slots=True)
class Searched:
    """Of each query that was searched: its recall, and how long it took."""

    shares: list[float] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)
    exact: bool = True
    """Every answer was."""


Plans = Mapping[tuple[int, float], SearchPlan]
"""By k and the recall that was asked for."""


def measure(
    view: View, queries: Queries, truth: Truth | None, plans: Plans, exact: SearchPlan, pace: Pace
) -> list[RecallRow]:
    """A row for every plan, of which there is at least one. exact: the plan that compares every row, of which at least
    one is no query's own; truth: None: what that finds. Raises Stopped."""
    if truth is None:
        most = max(k for k, _ in plans)
        judge: Judge = ByDistance(exact_distances(exact, queries, most, pace.breathe))
    else:
        judge = ByIds(view, queries, truth)
    return _Measurement(view, queries, judge, pace).rows(plans, exact)


class _Measurement:
    """Rows that are answered by the same plan are searched once."""

    def __init__(self, view: View, queries: Queries, judge: Judge, pace: Pace) -> None:
        self._view, self._queries, self._judge, self._pace = view, queries, judge, pace
        self._searched: dict[object, Searched] = {}

    def rows(self, plans: Plans, exact: SearchPlan) -> list[RecallRow]:
        ks = {k for k, _ in plans}
        distinct = {_way(k, plan) for (k, _), plan in plans.items()}
        each_s = BUDGET_S * (1 - EXACT_SHARE) / len(distinct)
        for (k, _), plan in plans.items():
            self._search(k, plan, len(self._queries.vectors), each_s)
        for k in ks:
            self._search(k, exact, TIMED, BUDGET_S * EXACT_SHARE / len(ks))
        return [
            _row(k, recall, plan, self._searched[_way(k, plan)], self._searched[_way(k, exact)])
            for (k, recall), plan in plans.items()
        ]

    def _search(self, k: int, plan: SearchPlan, most: int, budget_s: float) -> None:
        """One query after the other, as many as the budget allows."""
        way = _way(k, plan)
        if way in self._searched:
            return
        done = self._searched[way] = Searched()
        spent_s = 0.0
        for query in range(min(most, len(self._queries.vectors))):
            if query >= LEAST_SEARCHED and spent_s > budget_s:
                return
            began = time.perf_counter()
            found = self._one(query, k, plan)
            took_s = time.perf_counter() - began
            spent_s += took_s
            done.ms.append(took_s * 1000)
            ids, far = self._others(query, k, found.hits)
            done.shares.append(self._judge(query, k, ids, far))
            done.exact &= found.exact
            self._pace.breathe()

    def _one(self, query: int, k: int, plan: SearchPlan) -> search.Results:
        wanted = k if self._queries.own_ids is None else k + 1
        return search.run(self._view, plan, self._queries.vectors[query : query + 1], wanted)

    def _others(self, query: int, k: int, answer: Ranked) -> tuple[list[Any], NDArray[np.float32]]:
        """The hits without the query's own row."""
        own_ids = self._queries.own_ids
        if own_ids is None:
            return answer.ids, answer.distances
        keep = [i for i, id_ in enumerate(answer.ids) if id_ != own_ids[query]][:k]
        return [answer.ids[i] for i in keep], answer.distances[keep]


def _way(k: int, plan: SearchPlan) -> object:
    """What two plans have in common that search alike."""
    steps = tuple((step.part, step.plan.exact, tuple(sorted(step.plan.params.items()))) for step in plan.steps)
    return k, steps


def _row(k: int, recall: float, plan: SearchPlan, found: Searched, exact: Searched) -> RecallRow:
    shares = np.array(found.shares)
    p50, p95, p99 = np.percentile(found.ms, (50, 95, 99)).tolist()
    return RecallRow(
        k=k,
        requested=recall,
        measured=float(shares.mean()),
        interval=interval(shares),
        p10_recall=float(np.percentile(shares, 10)),
        expected_recall=1.0 if found.exact else plan.expected_recall,
        exact=found.exact,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        exact_p50_ms=float(np.median(exact.ms)),
        queries=len(shares),
    )


def stored(view: View, n: int) -> list[Place]:
    """n live rows, or as many as there are, drawn evenly; the same ones of the same view."""
    lives = [part.live for part in view.parts] + [view.pending.live]
    total = sum(lives)
    drawn = np.random.default_rng(SEED).choice(total, min(n, total), replace=False)
    firsts = np.cumsum([0, *lives])
    places: list[Place] = []
    for one in drawn.tolist():
        source = int(np.searchsorted(firsts, one, side="right")) - 1
        part = None if source == len(view.parts) else source
        alive = view.pending.alive if part is None else view.parts[part].alive
        nth = one - int(firsts[source])
        places.append((part, nth if alive is None else int(alive.rows[nth])))
    return places
