"""How well and how fast an index searches with which parameters: measured with queries that are not in it."""

import statistics
import time
from collections.abc import Iterable, Sequence
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
USEFUL = 0.7
"""Nobody asks for less; the cheapest point beyond serves."""
CHOOSING = {1: 500, 10: 250, 100: 100, 1000: 40}
"""Queries that choose, for each k; all others certify. Choosing wants less certainty, looks at many more points, and
asks each of them the same queries."""
TIMED = {1: 24, 10: 24, 100: 16, 1000: 6}
TIMED_AGAIN = 2
"""Times as many queries time a point that was chosen."""
THINNED = 1.08
"""A point is left out where one that costs at most so many times as much finds more."""
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
    chosen = thinned(front(_choose(index, first, within(progress, 0.0, CHOICE))))
    certified = []
    for i, point in enumerate(chosen):
        shares = shares_found(index, rest, point.params)
        cost = _cost_us(index, rest, point.params, TIMED_AGAIN * TIMED[group.k])
        certified.append(Point(point.params, float(shares.mean()), lower_bound(shares), cost))
        progress(CHOICE + (1 - CHOICE) * (i + 1) / len(chosen))
    return Front(group.k, tuple(front(certified)), len(rest.queries))


def _choose(index: Searching, group: Group, progress: Progress) -> list[Point]:
    """A family is left where its recall is `ENOUGH` or stops rising, and the next begins where that one came near its
    best: what lies further down, the earlier family reaches more cheaply (half of the points need not be measured)."""
    families = index.families(group.k)
    points: list[Point] = []
    begin = 0
    for i, family in enumerate(families):
        told = within(progress, i / len(families), (i + 1) / len(families))
        more = _family(index, group, family[begin:], told)
        best = max(p.recall for p in more)
        begin += next(j for j, p in enumerate(more) if p.recall >= FAMILY_FROM * best)
        points.extend(more)
    return [p for p in points if p.recall >= USEFUL]


def _family(index: Searching, group: Group, family: Sequence[Params], progress: Progress) -> list[Point]:
    points: list[Point] = []
    for i, params in enumerate(family):
        progress(i / len(family))
        mean = float(shares_found(index, group, params).mean())
        points.append(Point(params, mean, 0.0, _cost_us(index, group, params, TIMED[group.k])))
        # Over two steps: by chance one alone may find no more.
        rise = mean - points[-3].recall if len(points) > 2 else 1.0
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


def shares_found(index: Searching, group: Group, params: Params) -> NDArray[np.float64]:
    """recall@k of each query; equal distances count as found."""
    found = index.attempt(group.queries, group.k, params)
    return np.asarray(np.minimum((found <= group.kth[:, None]).sum(axis=1), group.k) / group.k)


def _cost_us(index: Searching, group: Group, params: Params, queries: int) -> float:
    """Median of single queries on one thread, by its processor time: whoever else wants the processor is no cost of
    ours, and what is paid once (a first touch of a page) not of each."""
    took = []
    for query in group.queries[:queries]:
        start = time.thread_time()
        index.attempt(query[None], group.k, params)
        took.append(time.thread_time() - start)
    return statistics.median(took) * 1e6
