"""Settings between those that were measured: families are rows of a grid, their steps its columns, and what a setting
inside a cell finds follows from what the corners find."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

from index.calibration import Params, Point

Place = tuple[int, int]
"""(family, step in it)."""
FINE = 2**0.25
"""Times as much of a parameter, from one setting to the next."""
ROUNDING = 1e-9
"""Of a logarithm: whole numbers of steps come out whole."""
LEAST_MISSED = 0.0005
"""Of the nearest. Who misses none, by few queries, is taken to miss so many: there is no logarithm of 0."""
CELLS = ((0, 0), (0, 1), (1, 0), (1, 1))
"""How many families and steps one reaches: along an edge alone too, where a family began later or ended sooner."""


def between(measured: Mapping[Place, Point]) -> Iterator[tuple[Params, float]]:
    """Every setting that was measured, and those between neighbours in the grid, each once, with the recall to be
    expected of it. What is missed falls with effort about geometrically: in logarithms all is interpolated linearly."""
    seen = set()
    for (family, step), (down, along) in itertools.product(sorted(measured), CELLS):
        places = list(itertools.product((family, family + down), (step, step + along)))
        if not all(place in measured for place in places):
            continue
        for params, recall in _inside([measured[place] for place in places]):
            key = tuple(params.items())
            if key not in seen:
                seen.add(key)
                yield params, recall


def _inside(corners: Sequence[Point]) -> Iterator[tuple[Params, float]]:
    """corners: of a cell, in order; some of them the same where it is an edge or a single setting."""
    first, along, down, _ = corners
    for y, x in itertools.product(_shares(first.params, down.params), _shares(first.params, along.params)):
        weights = ((1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x)
        params = {name: round(_mean(weights, [corner.params[name] for corner in corners])) for name in first.params}
        yield params, 1 - _mean(weights, [max(1 - corner.recall, LEAST_MISSED) for corner in corners])


def _shares(params: Params, others: Params) -> list[float]:
    """How far on the way from these to the others the fine steps are, both ends among them."""
    apart = max(abs(math.log(value / params[name], FINE)) for name, value in others.items())
    steps = math.ceil(apart - ROUNDING)
    return [step / steps for step in range(steps + 1)] if steps else [0.0]


def _mean(weights: Sequence[float], values: Sequence[float]) -> float:
    """The geometric one."""
    return math.exp(sum(weight * math.log(value) for weight, value in zip(weights, values, strict=True)))
