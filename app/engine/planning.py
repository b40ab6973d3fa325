"""How a search is gone about: which part of a view is asked in which way, so that all of them together find the
share of the true nearest that was asked for. Made once a view, k, recall and filter: it depends on no more."""

from collections.abc import Mapping
from dataclasses import dataclass

from app.engine.matching import Matching, matching
from app.engine.types import EXACTLY, CalibratedOn
from app.engine.view import View
from index.approximate import Approximate
from index.contract import Alive, Index, Plan
from index.exact import Exact

MAX_DROPPED_SHARE = 0.05
"""Above it the calibration speaks of another collection: no recall is claimed."""
MAX_PLANS = 64
"""Plans kept with a view: clients ask for few different k and recalls."""

Params = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Step:
    """How one part is searched. part: its number in the view; None: the pending rows. given: by the client's params."""

    part: int | None
    index: Index
    exact: Exact
    plan: Plan
    alive: Alive | None
    given: bool = False

    @property
    def on(self) -> CalibratedOn | None:
        """What the plan was measured on; None: it is exact."""
        if self.plan.exact or not isinstance(self.index, Approximate) or self.index.calibration is None:
            return None
        return self.index.calibration.on

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
    """expected_recall: None where it was not measured for this. calibrated_on: None where no part is approximate.
    cost_us: of one query on one thread."""

    steps: tuple[Step, ...]
    recall: float
    expected_recall: float | None
    calibrated_on: CalibratedOn | None
    cost_us: float


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows that are to be searched. live: how many, of so many rows."""

    number: int | None
    index: Index
    exact: Exact
    alive: Alive | None
    live: int
    rows: int


def plan(view: View, k: int, recall: float, left: Matching | None = None, params: Params | None = None) -> SearchPlan:
    """left: the rows that a filter leaves; None: all that live.

    params: of one kind of index, as `search_params.refuse` lets them pass; what is of another kind goes by `recall`.
    """
    left = left or matching(view, None)
    key = (k, recall, left.key) if params is None else (k, recall, left.key, *sorted(params.items()))
    made: SearchPlan | None = view.plans.get(key)
    if made is None:
        made = view.plans[key] = _plan(view, k, recall, left, params)
        if len(view.plans) > MAX_PLANS:
            # A client that asks for ever other recalls must not keep those of others from being remembered.
            view.plans.pop(next(iter(view.plans)), None)
    return made


def _plan(view: View, k: int, recall: float, left: Matching, params: Params | None) -> SearchPlan:
    steps = [
        _step(part, part.index.plan(k, recall), given=False) for part in _parts(view, left, exactly=recall >= EXACTLY)
    ]
    recalls = [step.plan.expected_recall for step in steps]
    known = [r for r in recalls if r is not None]
    expected = min(known, default=1.0) if len(known) == len(recalls) else None
    ons = {step.on for step in steps} - {None}
    on: CalibratedOn | None = None if not ons else "queries" if ons == {"queries"} else "data"
    return SearchPlan(tuple(steps), recall, expected, on, sum(step.cost_us for step in steps))


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


def _step(part: _Part, chosen: Plan, *, given: bool) -> Step:
    return Step(part.number, part.exact if chosen.exact else part.index, part.exact, chosen, part.alive, given)
