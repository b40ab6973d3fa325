"""How a search is gone about: which part of a view is asked in which way, so that all of them together find the
share of the true nearest that was asked for. Made once a view, k, recall and filter: it depends on no more."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.engine.matching import Matching, matching
from app.engine.search_params import Params, takes
from app.engine.types import EXACTLY, CalibratedOn
from app.engine.view import View
from index.approximate import Approximate
from index.contract import Alive, Plan
from index.planning import choose
from index.stored import ExactSearch, Searcher

MAX_DROPPED_SHARE = 0.05
"""Above it the calibration speaks of another collection: no recall is claimed."""
LOOP_US = 2_000.0
"""Searches cheaper than this run inside the event loop: handing them to a thread costs more than they do."""
MAX_PLANS = 64
"""Plans kept with a view: clients ask for few different k and recalls."""


@dataclass(frozen=True, slots=True)
class Step:
    """How one part is searched. part: its number in the view; None: the pending rows.

    given: by the client's params; expected_recall: None where it was not measured for this; calibrated_on: None where
    it is exact; reach: (k', how far the k'-th neighbours of queries lay that this was measured with), where known."""

    part: int | None
    index: Searcher
    exact: ExactSearch
    plan: Plan
    alive: Alive | None
    given: bool
    expected_recall: float | None
    calibrated_on: CalibratedOn | None
    reach: tuple[int, float] | None

    @property
    def cost_us(self) -> float:
        """About, of one query on one thread."""
        if self.alive is None or self.alive.count == len(self.alive.mask):
            return self.plan.cost_us
        least = self.exact.filtered_us(self.alive)
        if self.plan.exact or not isinstance(self.index, Approximate):
            return least
        return min(least, self.index.among_us(self.plan, self.alive))


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """recall: planned for; None: all goes by the client's params. expected_recall: None where it was not measured for
    this. calibrated_on: None where no part is approximate. cost_us: of one query on one thread."""

    steps: tuple[Step, ...]
    recall: float | None
    expected_recall: float | None
    calibrated_on: CalibratedOn | None
    cost_us: float


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows that are to be searched. live: how many, of so many rows."""

    number: int | None
    index: Searcher
    exact: ExactSearch
    alive: Alive | None
    live: int
    rows: int


def plan(view: View, k: int, recall: float, left: Matching | None = None, params: Params | None = None) -> SearchPlan:
    """left: the rows that a filter leaves; None: all that live.

    params: as `search_params.refuse` lets them pass; what has an index of another kind goes by `recall`.
    """
    left = left or matching(view, None)
    key = (k, recall, left.key) if params is None else (k, recall, left.key, *sorted(params.items()))
    made: SearchPlan | None = view.plans.get(key)
    if made is None:
        made = view.plans[key] = _plan(view, k, recall, left, params)
        while len(view.plans) > MAX_PLANS:
            # A client that asks for ever other recalls must not keep those of others from being remembered.
            view.plans.pop(next(iter(view.plans)), None)
    return made


def _plan(view: View, k: int, recall: float, left: Matching, params: Params | None) -> SearchPlan:
    parts = _parts(view, left, exactly=recall >= EXACTLY and params is None)
    given = [None if params is None or not takes(p.index.kind, params) else p.index.given(params, k) for p in parts]
    others = [(part.index, part.live) for part, plan in zip(parts, given, strict=True) if plan is None]
    chosen = iter(choose(others, k, recall).plans)
    steps = [
        _step(part, plan or next(chosen), k, left, given=plan is not None)
        for part, plan in zip(parts, given, strict=True)
    ]
    return SearchPlan(
        tuple(steps),
        None if parts and not others else recall,
        _mean([(step.expected_recall, part.live) for step, part in zip(steps, parts, strict=True)]),
        _all_on([step.calibrated_on for step in steps if step.calibrated_on is not None]),
        sum(step.cost_us for step in steps),
    )


def _step(part: _Part, plan: Plan, k: int, left: Matching, *, given: bool) -> Step:
    if plan.exact:
        return Step(part.number, part.exact, part.exact, plan, part.alive, given, 1.0, None, None)
    # Under a filter the calibration speaks of other rows than those that are asked for.
    as_measured = left.filter is None and part.live >= part.rows * (1 - MAX_DROPPED_SHARE)
    expected = plan.expected_recall if as_measured else None
    known = part.index.calibration if isinstance(part.index, Approximate) else None
    reach, on = None if known is None else known.reach(k), part.index.options(k).on
    return Step(part.number, part.index, part.exact, plan, part.alive, given, expected, on, reach)


def _mean(recalls: Sequence[tuple[float | None, int]]) -> float | None:
    """Of (recall, rows), weighed by rows; None where one is not known."""
    total, known = 0, 0.0
    for recall, rows in recalls:
        if not rows:
            continue
        if recall is None:
            return None
        total, known = total + rows, known + recall * rows
    return round(known / total, 5) if total else 1.0


def _all_on(measured_on: Sequence[CalibratedOn]) -> CalibratedOn | None:
    if not measured_on:
        return None
    return "queries" if set(measured_on) == {"queries"} else "data"


def _parts(view: View, left: Matching, *, exactly: bool) -> list[_Part]:
    """Those with rows left."""
    found = []
    for number, (part, alive) in enumerate(zip(view.parts, left.parts, strict=True)):
        segment, rows = part.segment, part.segment.row.rows
        index = segment.exact if exactly or segment.index is None else segment.index
        found.append(_Part(number, index, segment.exact, alive, rows if alive is None else alive.count, rows))
    pending, rows = view.pending.exact, len(view.pending.keys)
    live = rows if left.pending is None else left.pending.count
    found.append(_Part(None, pending, pending, left.pending, live, rows))
    return [part for part in found if part.live]
