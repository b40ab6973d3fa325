"""What share of the true nearest an answer holds: the truth, and how hits are held against it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from app.engine.places import Place, Places
from app.engine.planning import SearchPlan
from app.engine.types import Id
from app.engine.view import View
from index.contract import Metric
from index.distance import distances
from seedvec.sparse import SparseRows

TRUTH_QUERIES = 32
"""In one matrix product: 1,000,000 × 128 take 50 ms, at three quarters of the pace of larger ones."""


@dataclass(frozen=True, slots=True)
class Queries:
    """vectors: (q, d) float32; own: the stored row that each one is, which is no answer to it (None: they are none);
    own_ids: its id."""

    vectors: NDArray[np.float32]
    on: Literal["given", "queries", "data"]
    own: list[Place] | None = None
    own_ids: list[Id] | None = None


@dataclass(frozen=True, slots=True)
class Truth:
    """What a client says the nearest are. ids: of each query, nearest first; places: where they lie in the view."""

    ids: list[list[Id]]
    places: dict[Id, Place]


class Judge(Protocol):
    def __call__(self, query: int, k: int, ids: list[Any], far: NDArray[np.float32]) -> float:
        """What share of the k nearest of this query these hits are. ids: of at most k; far: their distances."""
        ...


def exact_distances(exact: SearchPlan, queries: Queries, k: int, breathe: Callable[[], None]) -> NDArray[np.float32]:
    """Of the true nearest of each query, (q, k) float32, ascending; +inf where fewer rows are left.

    exact: compares every row; breathe: called between pieces of work."""
    wanted = k + (queries.own is not None)
    out = np.full((len(queries.vectors), k), np.inf, np.float32)
    for begin in range(0, len(out), TRUTH_QUERIES):
        part = slice(begin, begin + TRUTH_QUERIES)
        found = []
        for step in exact.steps:
            hits = step.index.search(queries.vectors[part], wanted, step.plan, step.alive)
            if queries.own is not None:
                own = [row if number == step.part else -1 for number, row in queries.own[part]]
                hits.distances[hits.rows == np.array(own)[:, None]] = np.inf
            found.append(hits.distances)
            breathe()
        together = np.sort(np.concatenate(found, axis=1), axis=1)[:, :k]
        out[part, : together.shape[1]] = together
    return out


class ByDistance:
    """As calibration counts: whatever is no farther than the true k-th is found.

    nearest: (q, at least k), as `exact_distances` gives them; at least one of each is finite."""

    def __init__(self, nearest: NDArray[np.float32]) -> None:
        self._nearest = nearest

    def __call__(self, query: int, k: int, ids: list[Any], far: NDArray[np.float32]) -> float:
        true = self._nearest[query, :k]
        there = int(np.count_nonzero(true < np.inf))
        return min(int(np.count_nonzero(far <= true[there - 1])), there) / there


class ByIds:
    """The ids given that were found. A hit that is not among them stands for a missing one that is exactly as far: of
    rows at the same distance, any is the nearest.

    Not by the k-th distance: held against other ids than the nearest, it would call found whatever is nearer."""

    def __init__(self, view: View, queries: Queries, truth: Truth) -> None:
        self._view, self._queries, self._truth = view, queries, truth

    def __call__(self, query: int, k: int, ids: list[Any], far: NDArray[np.float32]) -> float:
        wanted = self._truth.ids[query][:k]
        hits = set(ids)
        missing = [id_ for id_ in wanted if id_ not in hits]
        if not missing:
            return 1.0
        known = set(wanted)
        others = [distance for id_, distance in zip(ids, far.tolist(), strict=True) if id_ not in known]
        rows = Places.of(self._view, [self._truth.places[id_] for id_ in missing]).vectors()
        assert not isinstance(rows, SparseRows)
        away = distances(cast(Metric, self._view.settings.metric), self._queries.vectors[query], rows)
        as_far = (Counter(others) & Counter(away.tolist())).total()
        return (len(wanted) - len(missing) + as_far) / len(wanted)
