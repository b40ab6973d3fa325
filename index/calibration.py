"""What an index was measured at: for some k, which settings find what share of the nearest, and at what price.

Settings are chosen on some queries; those that no other is expected to beat in recall and price are measured on others
(`sweep.py`), with the lower bound of the mean that holds in 90 of 100 cases. `planning.py` takes the cheapest whose
bound reaches what is asked for.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

KS = (1, 10, 100, 1000)
"""Measured, as far as the rows allow."""
ROWS_A_NEIGHBOUR = 10
"""Where k is more than a tenth of the rows, nearly everything has to be looked at anyway."""
BOOTSTRAPS = 1000
CONFIDENCE = 0.9
On = Literal["data", "queries"]
Params = dict[str, int]


@dataclass(frozen=True, slots=True)
class Point:
    """One setting. recall: mean recall@k; lower: the bound it was certified at; cost_us: one query, one thread."""

    params: Params
    recall: float
    lower: float
    cost_us: float


@dataclass(frozen=True, slots=True)
class Front:
    """points: cheapest first, recall rising. queries: how many certified them. reach: how far their k-th neighbours lie
    (`reach.py`), None where too few were asked, or by a version that did not look."""

    k: int
    points: tuple[Point, ...]
    queries: int
    reach: float | None = None


@dataclass(frozen=True, slots=True)
class Calibration:
    """fronts: by rising k, at least one. on: rows of the data that were held out, or real queries."""

    fronts: tuple[Front, ...]
    on: On = "data"

    def front(self, k: int) -> Front | None:
        """The one measured at this very k."""
        return next((front for front in self.fronts if front.k == k), None)

    def reach(self, k: int) -> tuple[int, float] | None:
        """(k', how far the k'-th neighbours lie) for the largest k' up to k of which that is known."""
        known = [(front.k, front.reach) for front in self.fronts if front.k <= k and front.reach is not None]
        return known[-1] if known else None

    def to_json(self) -> dict[str, Any]:
        fronts = [
            {"k": f.k, "queries": f.queries, "reach": f.reach, "points": [_point_to_json(p) for p in f.points]}
            for f in self.fronts
        ]
        return {"on": self.on, "fronts": fronts}

    @staticmethod
    def from_json(value: dict[str, Any]) -> "Calibration":
        """Also takes what version 1 wrote: one front, its fields beside `on`. Raises KeyError, TypeError or ValueError
        where the value is not one that `to_json` made."""
        on = value["on"]
        if on not in ("data", "queries"):
            raise ValueError(f"calibrated on {on!r}")
        fronts = value.get("fronts", [value])
        if not fronts:
            raise ValueError("calibrated for no k")
        return Calibration(tuple(_front_from_json(f) for f in fronts), on)


def _point_to_json(point: Point) -> dict[str, Any]:
    return {
        "params": point.params,
        "recall": round(point.recall, 5),
        "lower": round(point.lower, 5),
        "cost_us": round(point.cost_us, 1),
    }


def _front_from_json(value: dict[str, Any]) -> Front:
    points = tuple(
        Point(
            {str(name): int(number) for name, number in p["params"].items()},
            float(p["recall"]),
            float(p["lower"]),
            float(p["cost_us"]),
        )
        for p in value["points"]
    )
    reach = value.get("reach")
    return Front(int(value["k"]), points, int(value["queries"]), None if reach is None else float(reach))


def ks(rows: int) -> tuple[int, ...]:
    """Those of KS that can be measured among so many rows; the smallest always is."""
    return KS[:1] + tuple(k for k in KS[1:] if k * ROWS_A_NEIGHBOUR <= rows)


def front(points: Iterable[Point]) -> list[Point]:
    """Cheapest first; none that a cheaper one equals or beats in recall."""
    out: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost_us, -p.recall)):
        if not out or point.recall > out[-1].recall:
            out.append(point)
    return out


def lower_bound(shares: NDArray[np.float64], seed: int = 21) -> float:
    """The mean's one-sided bound by bootstrap: below it in 1 of 10 resamples. shares: recall of each query."""
    return float(np.quantile(_means(shares, seed), 1 - CONFIDENCE))


def interval(shares: NDArray[np.float64], seed: int = 21) -> tuple[float, float]:
    """Of the mean, 95 %, both sides, by bootstrap."""
    low, high = np.quantile(_means(shares, seed), (0.025, 0.975)).tolist()
    return low, high


def _means(shares: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    values, counts = np.unique(shares, return_counts=True)
    # A resample of n queries is a multinomial draw over the few values a share can have.
    draws = np.random.default_rng(seed).multinomial(len(shares), counts / len(shares), size=BOOTSTRAPS)
    return np.asarray(draws @ values / len(shares))
