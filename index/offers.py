"""From what was measured for a few k to what a search for any k can take."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from index.calibration import Calibration, Front, Point, front
from index.contract import Options, Plan
from index.exact import Exact

Params = dict[str, int]


class Measured(Protocol):
    """An index, as far as its settings go."""

    @property
    def exact(self) -> Exact: ...
    def same_effort(self, params: Params, measured_k: int, k: int) -> Params: ...
    def widened(self, params: Params, factor: float) -> Params: ...


def offered(index: Measured, calibration: Calibration | None, k: int) -> Options:
    """Between two k that were measured, the points of the larger, which is the dearer, held against the smaller; above
    the largest its points widened in proportion, unmeasured."""
    exact = index.exact.plan(k, 1.0)
    if calibration is None:
        return Options((), exact)
    at = calibration.front(k)
    if at is not None:
        return Options(at.points, exact, calibration.on)
    below = [f for f in calibration.fronts if f.k < k]
    above = [f for f in calibration.fronts if f.k > k]
    if above:
        larger, smaller = above[0], below[-1] if below else None
        points = _between(index, larger, smaller, k)
        return Options(tuple(front(points)), exact, calibration.on, measured=smaller is not None)
    largest = below[-1]
    factor = k / largest.k
    points = [Point(index.widened(p.params, factor), p.recall, p.lower, p.cost_us * factor) for p in largest.points]
    return Options(tuple(points), exact, calibration.on, measured=False)


def _between(index: Measured, larger: Front, smaller: Front | None, k: int) -> list[Point]:
    """Looking at as much finds the nearer ones no less often than the farther. As that is not proven, no less is looked
    at than what either k takes to be as sure, and no more is promised than either found."""
    if smaller is None:
        return [replace(p, params=index.same_effort(p.params, larger.k, k)) for p in larger.points]
    out = []
    for sure in sorted({p.lower for p in (*larger.points, *smaller.points)}):
        far, near = _surely(larger, sure), _surely(smaller, sure)
        if far is not None and near is not None:
            params = index.same_effort(far.params, larger.k, k)
            least = index.same_effort(near.params, smaller.k, k)
            params = {name: max(value, least[name]) for name, value in params.items()}
            lower, recall = min(far.lower, near.lower), min(far.recall, near.recall)
            out.append(Point(params, recall, lower, max(far.cost_us, near.cost_us)))
    return out


def _surely(front: Front, lower: float) -> Point | None:
    return next((p for p in front.points if p.lower >= lower), None)


def given(options: Options, params: Params, defaults: Params) -> Plan:
    """params: some or all of what `defaults` names. The others are taken from the cheapest point that looks at as much,
    or from the best there is, and so is the cost."""
    as_much = [p for p in options.points if all(p.params[name] >= value for name, value in params.items())]
    like = as_much[0] if as_much else options.points[-1] if options.points else None
    filled = {name: params.get(name, like.params[name] if like else value) for name, value in defaults.items()}
    measured = [p for p in options.points if p.params == filled]
    if measured:
        return Plan(filled, measured[0].recall if options.measured else None, measured[0].cost_us)
    return Plan(filled, None, _cost_us(filled, like) if like else options.exact.cost_us)


def _cost_us(params: Mapping[str, int], like: Point) -> float:
    """In proportion to what exceeds the point; what falls short of it is not counted off."""
    return like.cost_us * max(1.0, *(value / max(1, like.params[name]) for name, value in params.items()))
