"""Which settings answer a request: of one index, or of the indexes of several segments together.

The k nearest of all lie in the segments about as their rows do. So what several segments find together is the mean of
what each finds, weighed by its share of the rows, and a segment where recall is cheap may make up for one where it is
dear: the least sum of costs is looked for whose mean recall is certified.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.calibration import On, Point
from index.contract import Index, Options, Plan

SHIFT_MARGIN = 0.15
"""Real queries lie a little farther out than held-out rows, which have siblings in the data: at 0.96 the files' own
test queries found 0.0025 (fashion-mnist) to 0.0076 (photo-sift, pictures that are not in the data) less than
certified. So what was measured on data has to be certified for this share of what is missing to 1 more than requested,
if that can be had."""
MEAN_MARGIN = 0.003
"""Where no bound reaches the request, a mean this far above it does (the bound of few queries is loose)."""
COST_STEP = 1.005
"""Sums of costs that differ by less than this are one: the number of them stays small, however many segments."""
TINY = 1e-9
"""Sums of shares come to 1 but for rounding."""


@dataclass(frozen=True, slots=True)
class Planned:
    """plans: one a part, in order. expected_recall: of all together, None where that of one is not known.
    calibrated_on: "queries" where all that is not exact was measured on real queries; None: all is exact."""

    plans: tuple[Plan, ...]
    expected_recall: float | None
    calibrated_on: On | None


class _Choice(NamedTuple):
    """A way to search one part. value: what it counts for towards the bound of a rung, of at most 1; point: None where
    it is the exact search."""

    value: float
    cost_us: float
    point: Point | None


def choose(parts: Sequence[tuple[Index, int]], k: int, recall: float) -> Planned:
    """parts: (index, live rows), each with one row at least. The cheapest way that keeps the promise.

    First what is certified for the recall and a margin, then what is certified for it, then what found more on
    average, and where nothing serves, the exact search."""
    offers = [index.options(k) for index, _ in parts]
    shares = _shares([rows for _, rows in parts])
    plans = _exact(offers) if recall >= 1 else _cheapest(offers, shares, recall)
    return Planned(plans, _expected(plans, shares), _on(offers, plans))


def _shares(rows: Sequence[int]) -> list[float]:
    total = sum(rows)
    return [n / total for n in rows]


def _exact(offers: Sequence[Options]) -> tuple[Plan, ...]:
    return tuple(offer.exact for offer in offers)


def _cheapest(offers: Sequence[Options], shares: Sequence[float], recall: float) -> tuple[Plan, ...]:
    margin = SHIFT_MARGIN * (1 - recall)
    # The first serves nearly always; after every write a search has to be planned anew.
    for bound, lower, less in ((recall, True, margin), (recall, True, 0.0), (recall + MEAN_MARGIN, False, 0.0)):
        choices = [_choices(offer, lower=lower, less=less if offer.on == "data" else 0.0) for offer in offers]
        chosen = least(choices, shares, bound)
        if chosen is not None:
            return _plans(offers, chosen)
    # Nothing short of the exact search of a part whose points do not reach far enough.
    certified = [
        _choices(offer, lower=True) + ([] if _pays(offer) else [_Choice(1.0, offer.exact.cost_us, None)])
        for offer in offers
    ]
    chosen = least(certified, shares, recall)
    return _exact(offers) if chosen is None else _plans(offers, chosen)


def _choices(offer: Options, *, lower: bool, less: float = 0.0) -> list[_Choice]:
    """less: what a recall counts for less than it is. The exact search, which is as good as can be, is among them only
    where it is no dearer than the dearest point: a margin is not worth many times the cost."""
    points = [_Choice((p.lower if lower else p.recall) - less, p.cost_us, p) for p in offer.points]
    return [*points, _Choice(1.0, offer.exact.cost_us, None)] if _pays(offer) else points


def _pays(offer: Options) -> bool:
    return not offer.points or offer.exact.cost_us <= max(p.cost_us for p in offer.points)


def _plans(offers: Sequence[Options], chosen: Sequence[_Choice]) -> tuple[Plan, ...]:
    return tuple(_plan(offer, choice.point) for offer, choice in zip(offers, chosen, strict=True))


def _plan(offer: Options, point: Point | None) -> Plan:
    if point is None:
        return offer.exact
    return Plan(dict(point.params), point.recall if offer.measured else None, point.cost_us)


def least(choices: Sequence[Sequence[_Choice]], shares: Sequence[float], bound: float) -> tuple[_Choice, ...] | None:
    """One choice a part: the least sum of costs whose mean value, by shares, reaches the bound. None: there is none.

    Parts are taken in one by one; of what they come to together, only sums stay that none cheaper equals."""
    free = [i for i, options in enumerate(choices) if len(options) > 1]
    if len(free) <= 1:
        return _least_of_one(choices, shares, bound, free[0] if free else 0)
    costs, values = np.zeros(1), np.zeros(1)
    taken: list[NDArray[np.int64]] = []
    for options, share in zip(choices, shares, strict=True):
        cost = (costs[:, None] + np.array([c.cost_us for c in options])).ravel()
        value = (values[:, None] + share * np.array([c.value for c in options])).ravel()
        kept = _front(cost, value)
        taken.append(kept)
        costs, values = cost[kept], value[kept]
    good = np.flatnonzero(values >= bound - TINY)
    if not len(good):
        return None
    at, chosen = int(good[np.argmin(costs[good])]), []
    for options, kept in zip(reversed(choices), reversed(taken), strict=True):
        at, option = divmod(int(kept[at]), len(options))
        chosen.append(options[option])
    return tuple(reversed(chosen))


def _least_of_one(
    choices: Sequence[Sequence[_Choice]], shares: Sequence[float], bound: float, free: int
) -> tuple[_Choice, ...] | None:
    """As `least`, where only that part has a choice: the common case, one index beside small parts without."""
    if not choices:
        return ()
    fixed = sum(shares[i] * options[0].value for i, options in enumerate(choices) if i != free)
    good = [c for c in choices[free] if fixed + shares[free] * c.value >= bound - TINY]
    if not good:
        return None
    best = min(good, key=lambda c: c.cost_us)
    return tuple(best if i == free else options[0] for i, options in enumerate(choices))


def _front(costs: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Numbers of those that none at most as dear equals; of those that cost nearly the same, only the best."""
    order = np.lexsort((-values, costs))
    best = np.maximum.accumulate(values[order])
    order = order[np.concatenate([[True], best[1:] > best[:-1]])]
    steps = np.floor(np.log(np.maximum(costs[order], TINY)) / np.log(COST_STEP))
    return np.asarray(order[np.concatenate([steps[1:] > steps[:-1], [True]])], np.int64)


def _expected(plans: Sequence[Plan], shares: Sequence[float]) -> float | None:
    total = 0.0
    for plan, share in zip(plans, shares, strict=True):
        if plan.expected_recall is None:
            return None
        total += share * plan.expected_recall
    return min(1.0, total)


def _on(offers: Sequence[Options], plans: Sequence[Plan]) -> On | None:
    ons = {offer.on for offer, plan in zip(offers, plans, strict=True) if not plan.exact}
    if not ons:
        return None
    return "queries" if ons == {"queries"} else "data"
