"""How well and how fast an index searches with which parameters: measured with queries that are not in it."""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from index.calibration import Calibration, Front, On, Params, Point, front, lower_bound
from index.grid import Place, between
from index.pacing import Progress, within
from index.price import Price, fitted
from index.truth import Group, Groups

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
STEP, BEYOND, STEP_BEYOND = 1.1, 0.996, 1.5
"""Times as much as a point that was left out, the next may cost: nobody is to pay for much more than what was asked
for. They lie farther apart beyond what is sure to be certified for 0.99."""
ASKED_FOR, FARTHER, FARTHER_BY = 0.9925, 7, 1.4
"""0.99 and its margin. Where the dearest point is certified for less, so many more are tried, each by so much: else
the exact search would have to answer."""
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
    chosen = _chosen(index, first, within(progress, 0.0, CHOICE))
    certified = []
    for i, params in enumerate(chosen):
        certified.append(_certified(index, rest, params))
        progress(CHOICE + (1 - CHOICE) * (i + 1) / (len(chosen) + FARTHER))
    certified += _farther(index, rest, certified)
    priced = _priced(index, rest, certified, TIMED_AGAIN * TIMED[group.k])
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


def _chosen(index: Searching, group: Group, progress: Progress) -> list[Params]:
    """What is worth certifying, by few queries: of all settings between those that they were asked with."""
    measured = _measured(index, group, progress)
    price = _price(index, group, [point.params for point in measured.values()], TIMED[group.k])
    expected = [Point(params, recall, 0.0, price.of(params)) for params, recall in between(measured)]
    return [point.params for point in thinned(_useful(front(expected)))]


def _measured(index: Searching, group: Group, progress: Progress) -> dict[Place, Point]:
    """A family is left where its recall is `ENOUGH` or stops rising, and the next begins where that one came near its
    best: what lies further down, the earlier family reaches more cheaply. The last is one that finds enough, or hardly
    more with any of its steps than the last but one: few queries may well miss what a single family adds. So not half
    of the settings are measured."""
    families = index.families(group.k)
    grid: dict[Place, Point] = {}
    begin = 0
    for i, family in enumerate(families):
        told = within(progress, i / len(families), (i + 1) / len(families))
        points = dict(enumerate(_family(index, group, family[begin:], told), begin))
        grid |= {(i, step): point for step, point in points.items()}
        most = max(point.recall for point in points.values())
        begin = next(step for step, point in points.items() if point.recall >= FAMILY_FROM * most)
        before = {step: grid[i - 2, step] for step in points if (i - 2, step) in grid}
        deeper = not before or any(_rises(point.recall, points[step].recall) for step, point in before.items())
        if most >= ENOUGH or not deeper:
            break
    return grid


def _family(index: Searching, group: Group, family: Sequence[Params], progress: Progress) -> list[Point]:
    points: list[Point] = []
    for i, params in enumerate(family):
        progress(i / len(family))
        # A mean that is enough must not miss it by its last bit: the next step may take longer than all before.
        recall = round(float(shares_found(index, group, params).mean()), 6)
        points.append(Point(params, recall, 0.0, 0.0))
        if recall >= ENOUGH or (recall > USEFUL and len(points) > 1 and not _rises(points[-2].recall, recall)):
            break
    return points


def _rises(recall: float, to: float) -> bool:
    return to - recall >= max(0.0005, 0.05 * (1 - to))


def _useful(points: Sequence[Point]) -> list[Point]:
    """Of a front, from the last that is not to the first that is enough; none where nothing is useful."""
    first = next((i for i, p in enumerate(points) if p.recall >= USEFUL), None)
    if first is None:
        return []
    last = next((i for i, p in enumerate(points) if p.recall >= ENOUGH), len(points) - 1)
    return list(points[max(0, first - 1) : last + 1])


def thinned(points: Iterable[Point]) -> list[Point]:
    """Of a front, those worth certifying: whoever would have taken one left out pays at most a step for more. And the
    cheapest, for who asks for little."""
    falling = sorted(points, key=lambda p: -p.cost_us)
    out: list[Point] = []
    for point in falling:
        step = STEP_BEYOND if point.recall >= BEYOND else STEP
        if not out or point is falling[-1] or point.cost_us * step < out[-1].cost_us:
            out.append(point)
    return out[::-1]


def shares_found(index: Searching, group: Group, params: Params) -> NDArray[np.float64]:
    """recall@k of each query; equal distances count as found."""
    found = index.attempt(group.queries, group.k, params)
    return np.asarray(np.minimum((found <= group.kth[:, None]).sum(axis=1), group.k) / group.k)


def _price(index: Searching, group: Group, settings: Sequence[Params], queries: int) -> Price:
    return fitted(settings, costs_us(index, group, settings, queries))


def _priced(index: Searching, group: Group, points: Sequence[Point], queries: int) -> list[Point]:
    if not points:
        return []
    price = _price(index, group, [point.params for point in points], queries)
    return [replace(point, cost_us=price.of(point.params)) for point in points]


def costs_us(index: Searching, group: Group, each: Sequence[Params], queries: int) -> list[float]:
    """The median of single queries on one thread with each of the settings, by its processor time: whoever else wants
    the processor is no cost of ours. But who shares its caches makes all dearer, for a while: so the settings take
    turns. And each at other queries, for what one setting has looked at, the next would find in the cache: with 16
    queries for 43 settings of `ivf` the rows re-ranked on photo-sift seemed to cost half of what they do."""
    asked = group.queries
    took = np.empty((min(queries, len(asked)), len(each)))
    apart = max(1, len(asked) // len(each))
    for turn, times in enumerate(took):
        for i, params in enumerate(each):
            query = asked[(turn + i * apart) % len(asked)]
            start = time.thread_time()
            index.attempt(query[None], group.k, params)
            times[i] = time.thread_time() - start
    costs: list[float] = (np.median(took, axis=0) * 1e6).tolist()
    return costs
