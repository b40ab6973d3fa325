"""How well and how fast an index searches with which parameters: measured on rows that were not in it.

Points of (recall@10, cost) are measured on one half of the queries; those that no other beats on both counts are
measured again on the other half, with the lower bound of the mean that holds in 90 of 100 cases. A request gets the
cheapest point whose bound reaches it.
"""

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

from index import threads
from index.contract import Vectors
from index.distance import distances
from index.halves import as_float32
from index.pacing import Progress, within

K = 10
MAX_QUERIES = 5000
MIN_QUERIES = 1000
TRUTH_PRODUCTS = 2.5e11
"""Multiplications for the exact answers: 2 to 4 s on two cores. 5,000 queries on 1,000,000 × 128 would take longer
than placing the vectors into lists, for a bound that is tighter by 0.001."""
BOOTSTRAPS = 1000
CONFIDENCE = 0.9
SHIFT_MARGIN = 0.15
"""Real queries lie a little farther out than held-out rows, which have siblings in the data: at 0.96 the files' own
test queries found 0.0025 (fashion-mnist) to 0.0076 (photo-sift, pictures that are not in the data) less than
certified. So a point has to be certified for this share of what is missing to 1 more than requested, if any is."""
MEAN_MARGIN = 0.003
"""Where no bound reaches the request, a mean this far above it does (the bound of few queries is loose)."""
ENOUGH = 0.9985
"""No point beyond: nobody is promised more than 0.99 without the exact search being near."""
TIMED_QUERIES = 100
FAMILY_FROM = 0.9
USEFUL = 0.7
"""Nobody asks for less; the cheapest point beyond serves."""
CHOOSING_QUERIES = 1000
"""Choosing wants less certainty than certifying, and looks at many more points."""
TRUTH_ELEMENTS = 1 << 24


@dataclass(frozen=True, slots=True)
class Point:
    """One setting. recall: mean recall@k; lower: the bound it was certified at; cost_us: one query, one thread."""

    params: dict[str, int]
    recall: float
    lower: float
    cost_us: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """points: cheapest first, recall rising. queries: how many certified them."""

    k: int
    points: tuple[Point, ...]
    queries: int
    on: Literal["data", "queries"] = "data"

    def cheapest(self, recall: float) -> Point | None:
        """None: no point serves, the search has to be exact."""
        by_cost = sorted(self.points, key=lambda p: p.cost_us)
        for bound in (recall + SHIFT_MARGIN * (1 - recall), recall):
            for point in by_cost:
                if point.lower >= bound:
                    return point
        return next((p for p in by_cost if p.recall >= recall + MEAN_MARGIN), None)

    def to_json(self) -> dict[str, Any]:
        points = [
            {
                "params": p.params,
                "recall": round(p.recall, 5),
                "lower": round(p.lower, 5),
                "cost_us": round(p.cost_us, 1),
            }
            for p in self.points
        ]
        return {"k": self.k, "points": points, "queries": self.queries, "on": self.on}

    @staticmethod
    def from_json(value: dict[str, Any]) -> "Calibration":
        """Raises KeyError, TypeError or ValueError where the value is not one that `to_json` made."""
        points = tuple(
            Point(
                {str(name): int(number) for name, number in p["params"].items()},
                float(p["recall"]),
                float(p["lower"]),
                float(p["cost_us"]),
            )
            for p in value["points"]
        )
        on = value["on"]
        if on not in ("data", "queries"):
            raise ValueError(f"calibrated on {on!r}")
        return Calibration(int(value["k"]), points, int(value["queries"]), on)


class Searching(Protocol):
    def attempt(self, queries: NDArray[np.float32], k: int, params: dict[str, int]) -> NDArray[np.float32]: ...


def held_out(rows: int, dimension: int, seed: int = 20) -> NDArray[np.int64]:
    """Rows to be the queries, ascending, drawn evenly: a tenth, at most 5,000, and from 1,000 on only as many as the
    truth about them can be had for in reasonable time."""
    affordable = max(MIN_QUERIES, int(TRUTH_PRODUCTS / (rows * dimension)))
    count = min(MAX_QUERIES, affordable, rows // 10)
    return np.sort(np.random.default_rng(seed).choice(rows, count, replace=False)).astype(np.int64)


def true_kth(
    vectors: Vectors, queries: NDArray[np.float32], rows: NDArray[np.int64], progress: Progress
) -> NDArray[np.float32]:
    """Distance of the true k-th nearest among `rows` for each query, (q,) float32.

    Faiss' matrix product finds k and some more, piece by piece; the one distance decides among them."""
    metric = faiss.METRIC_L2 if vectors.metric == "l2" else faiss.METRIC_INNER_PRODUCT
    m = min(len(rows), K + 6)
    found = faiss.ResultHeap(len(queries), m, keep_max=metric == faiss.METRIC_INNER_PRODUCT)
    threads.use(threads.batch_threads())
    step = max(m, TRUTH_ELEMENTS // (queries.shape[1] + len(queries)))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        block = as_float32(vectors.rows[part])
        if vectors.metric == "cosine":
            block /= vectors.norms[part][:, None]
        near, places = faiss.knn(queries, block, min(m, len(part)), metric=metric)
        found.add_result(near, places + start)
        progress((start + len(part)) / len(rows))
    found.finalize()
    out = np.empty(len(queries), dtype=np.float32)
    for i, places in enumerate(found.I):
        measured = distances(vectors.metric, queries[i], vectors.rows[rows[places[places >= 0]]])
        out[i] = np.partition(measured, K - 1)[K - 1]
    return out


def calibrate(
    index: Searching,
    queries: NDArray[np.float32],
    kth: NDArray[np.float32],
    grid: Iterable[list[dict[str, int]]],
    progress: Progress,
) -> Calibration:
    """queries: (q, d), kth: (q,) their true k-th distances among what is in the index.

    grid: families of settings, each from cheap to dear, the next like the last but more thorough in another way. One
    is left where its recall is `ENOUGH` or stops rising, and the next begins where that one came near its best: what
    lies further down, the earlier family reaches more cheaply (half of the points need not be measured).
    """
    half = len(queries) // 2
    choosing = min(half, CHOOSING_QUERIES)
    families = list(grid)
    points: list[Point] = []
    begin = 0
    for i, family in enumerate(families):
        told = within(progress, 0.5 * i / len(families), 0.5 * (i + 1) / len(families))
        more = _family(index, queries[:choosing], kth[:choosing], family[begin:], told)
        best = max(p.recall for p in more)
        begin += next(j for j, p in enumerate(more) if p.recall >= FAMILY_FROM * best)
        points.extend(more)
    certified = []
    chosen = [p for p in front(points) if p.recall >= USEFUL]
    for i, point in enumerate(chosen):
        shares = _shares(index, queries[half:], kth[half:], point.params)
        certified.append(Point(point.params, float(shares.mean()), lower_bound(shares), point.cost_us))
        progress(0.5 + 0.5 * (i + 1) / len(chosen))
    return Calibration(K, tuple(front(certified)), len(queries) - half)


def _family(
    index: Searching,
    queries: NDArray[np.float32],
    kth: NDArray[np.float32],
    family: list[dict[str, int]],
    progress: Progress,
) -> list[Point]:
    points: list[Point] = []
    for i, params in enumerate(family):
        progress(i / len(family))
        mean = float(_shares(index, queries, kth, params).mean())
        points.append(Point(params, mean, 0.0, _cost_us(index, queries, params)))
        rise = mean - points[-2].recall if len(points) > 1 else 1.0
        if mean >= ENOUGH or (mean > USEFUL and rise < max(0.0005, 0.05 * (1 - mean))):
            break
    return points


def front(points: Iterable[Point]) -> list[Point]:
    """Cheapest first; none that a cheaper one equals or beats in recall."""
    out: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost_us, -p.recall)):
        if not out or point.recall > out[-1].recall:
            out.append(point)
    return out


def lower_bound(shares: NDArray[np.float64], seed: int = 21) -> float:
    """The mean's one-sided bound by bootstrap: below it in 1 of 10 resamples. shares: recall of each query."""
    values, counts = np.unique(shares, return_counts=True)
    # A resample of n queries is a multinomial draw over the few values a share can have.
    draws = np.random.default_rng(seed).multinomial(len(shares), counts / len(shares), size=BOOTSTRAPS)
    return float(np.quantile(draws @ values / len(shares), 1 - CONFIDENCE))


def _shares(
    index: Searching, queries: NDArray[np.float32], kth: NDArray[np.float32], params: dict[str, int]
) -> NDArray[np.float64]:
    """recall@k of each query; equal distances count as found."""
    found = index.attempt(queries, K, params)
    return np.asarray(np.minimum((found <= kth[:, None]).sum(axis=1), K) / K)


def _cost_us(index: Searching, queries: NDArray[np.float32], params: dict[str, int]) -> float:
    """Median of single queries on one thread: others on the machine push the mean about."""
    took = []
    for query in queries[:TIMED_QUERIES]:
        start = time.perf_counter()
        index.attempt(query[None], K, params)
        took.append(time.perf_counter() - start)
    return statistics.median(took) * 1e6
