"""How well and how fast an index searches with which parameters: measured with queries that are not in it."""

import itertools
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from index.calibration import Calibration, Front, On, Point, front, lower_bound
from index.pacing import Progress, within
from index.truth import Group, Groups

Params = dict[str, int]

ENOUGH = 0.9985
"""No point beyond: nobody is promised more than 0.99 without the exact search being near."""
FAMILY_FROM = 0.9
USEFUL = 0.8
"""Who asks for less gets this."""
CHOOSING = {1: 300, 10: 200, 100: 60, 1000: 20}
"""Queries that choose, for each k; all others certify. Choosing wants less certainty, looks at many more points, and
asks each of them the same queries."""
TIMED = {1: 16, 10: 16, 100: 12, 1000: 5}
TIMED_AGAIN = 2
"""Times as many queries time a point that was chosen."""
MIDDLE, UNDISTURBED = 0.5, 0.25
"""Quantiles of what single queries took: what a price is; and what it is compared by while each is taken at another
time, for disturbances only add."""
STEP, HALVED = 1.4, 2.0
"""Points have others put between them where the second costs more than so many times the first, or misses so many
times less: nobody is to pay for much more than what was asked for."""
THINNED = 1.08
"""A point is left out where one that costs at most so many times as much finds more."""
ASKED_FOR, FARTHER, FARTHER_BY = 0.9925, 5, 1.6
"""0.99 and its margin. Where the dearest point is certified for less, so many more are tried, each by so much: else
the exact search would have to answer. Beyond it points may lie far apart."""
CHOICE = 0.5
"""Share of the work that is choosing, in progress."""


class Searching(Protocol):
    """What can be calibrated."""

    def families(self, k: int) -> Sequence[list[Params]]:
        """Settings to be tried for this k: families, each from cheap to dear, the next like the last but more thorough
        in another way."""
        ...

    def attempt(self, queries: NDArray[np.float32], k: int, params: Params) -> NDArray[np.float32]:
        """Distances (q, > k) of what is found with these settings, ascending, +inf where there is less."""
        ...


def calibrate(index: Searching, groups: Groups, progress: Progress, on: On = "data") -> Calibration:
    """groups: queries that are not in the index, and the truth about them (`truth.grouped`)."""
    fronts = []
    for i, group in enumerate(groups):
        told = within(progress, i / len(groups), (i + 1) / len(groups))
        fronts.append(_front(index, group, told))
    return Calibration(tuple(fronts), on)


def _front(index: Searching, group: Group, progress: Progress) -> Front:
    choosing = min(len(group.queries) // 2, CHOOSING[group.k])
    first = Group(group.k, group.queries[:choosing], group.kth[:choosing])
    rest = Group(group.k, group.queries[choosing:], group.kth[choosing:])
    chosen = between(thinned(_choose(index, first, within(progress, 0.0, CHOICE))))
    certified = []
    for i, params in enumerate(chosen):
        certified.append(_certified(index, rest, params))
        progress(CHOICE + (1 - CHOICE) * (i + 1) / (len(chosen) + FARTHER))
    certified += _farther(index, rest, certified)
    costs = costs_us(index, rest, [p.params for p in certified], TIMED_AGAIN * TIMED[group.k], MIDDLE)
    priced = [replace(point, cost_us=cost) for point, cost in zip(certified, costs, strict=True)]
    progress(1.0)
    return Front(group.k, tuple(front(priced)), len(rest.queries), group.reach)


def _certified(index: Searching, group: Group, params: Params) -> Point:
    shares = shares_found(index, group, params)
    return Point(params, float(shares.mean()), lower_bound(shares), 0.0)


def _farther(index: Searching, group: Group, certified: Sequence[Point]) -> list[Point]:
    """Points beyond the dearest where that is certified for less than what may well be asked for: few queries choose,
    and may all have been lucky."""
    more: list[Point] = []
    most = index.families(group.k)[-1][-1]
    while certified and len(more) < FARTHER:
        last = [*certified, *more][-1]
        if last.lower >= ASKED_FOR:
            break
        params = {name: min(math.ceil(FARTHER_BY * n), most[name]) for name, n in last.params.items()}
        if params == last.params:
            break
        more.append(_certified(index, group, params))
    return more


def _choose(index: Searching, group: Group, progress: Progress) -> list[Point]:
    """The front, by few queries. A family is left where its recall is `ENOUGH` or stops rising, and the next begins
    where that one came near its best: what lies further down, the earlier family reaches more cheaply. One that adds
    nothing to the front is the last. So not half of the points are measured."""
    families = index.families(group.k)
    best: list[Point] = []
    begin = 0
    for i, family in enumerate(families):
        told = within(progress, i / len(families), (i + 1) / len(families))
        points = _family(index, group, family[begin:], told)
        most = max(p.recall for p in points)
        begin += next(j for j, p in enumerate(points) if p.recall >= FAMILY_FROM * most)
        best = front([*best, *points])
        if not any(p in best for p in points):
            break
    return _useful(best)


def _useful(points: Sequence[Point]) -> list[Point]:
    """Of a front, from the last that is not to the first that is enough; none where nothing is useful."""
    first = next((i for i, p in enumerate(points) if p.recall >= USEFUL), None)
    if first is None:
        return []
    last = next((i for i, p in enumerate(points) if p.recall >= ENOUGH), len(points) - 1)
    return list(points[max(0, first - 1) : last + 1])


def _family(index: Searching, group: Group, family: Sequence[Params], progress: Progress) -> list[Point]:
    points: list[Point] = []
    for i, params in enumerate(family):
        progress(i / len(family))
        mean = float(shares_found(index, group, params).mean())
        (cost,) = costs_us(index, group, [params], TIMED[group.k], UNDISTURBED)
        points.append(Point(params, mean, 0.0, cost))
        rise = mean - points[-2].recall if len(points) > 1 else 1.0
        if mean >= ENOUGH or (mean > USEFUL and rise < max(0.0005, 0.05 * (1 - mean))):
            break
    return points


def thinned(points: Iterable[Point]) -> list[Point]:
    """Of a front, those worth certifying: whoever would have taken one left out pays at most `THINNED` for more."""
    out: list[Point] = []
    for point in sorted(points, key=lambda p: -p.cost_us):
        if not out or point.cost_us * THINNED < out[-1].cost_us:
            out.append(point)
    return out[::-1]


def between(points: Sequence[Point]) -> list[Params]:
    """Their settings, and others between two that lie far apart, every one of them once."""
    out: list[Params] = []
    for point, following in itertools.pairwise(points):
        steps = _steps(point, following)
        for step in range(steps):
            share = step / steps
            params = {
                name: round(value ** (1 - share) * following.params[name] ** share)
                for name, value in point.params.items()
            }
            if params not in out:
                out.append(params)
    return out + [p.params for p in points[-1:] if p.params not in out]


def _steps(point: Point, following: Point) -> int:
    if point.recall >= ASKED_FOR:
        return 1
    dearer = following.cost_us / point.cost_us
    fewer_missing = (1 - point.recall) / max(1 - following.recall, 1 - ENOUGH)
    return max(1, math.ceil(math.log(dearer, STEP)), math.floor(math.log(max(1.0, fewer_missing), HALVED)))


def shares_found(index: Searching, group: Group, params: Params) -> NDArray[np.float64]:
    """recall@k of each query; equal distances count as found."""
    found = index.attempt(group.queries, group.k, params)
    return np.asarray(np.minimum((found <= group.kth[:, None]).sum(axis=1), group.k) / group.k)


def costs_us(index: Searching, group: Group, each: Sequence[Params], queries: int, quantile: float) -> list[float]:
    """Of single queries on one thread with each of the settings, by its processor time: whoever else wants the
    processor is no cost of ours. But who shares its caches makes all dearer, for a while: so the settings take turns.
    And each at another query, for what one setting has just looked at, the next would find in the cache."""
    asked = group.queries[:queries]
    took = np.empty((len(asked), len(each)))
    apart = max(1, len(asked) // max(1, len(each)))
    for turn, times in enumerate(took):
        for i, params in enumerate(each):
            query = asked[(turn + i * apart) % len(asked)]
            start = time.thread_time()
            index.attempt(query[None], group.k, params)
            times[i] = time.thread_time() - start
    costs: list[float] = (np.quantile(took, quantile, axis=0) * 1e6).tolist()
    return costs
