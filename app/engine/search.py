"""One search over one view: every part searched as planned, and merged by (distance, id)."""

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.engine.places import Group, Places
from app.engine.planning import SearchPlan, Step
from app.engine.ranking import Ranked, ranked
from app.engine.search_queue import too_late
from app.engine.types import CalibratedOn
from app.engine.view import View
from index.contract import Found
from index.reach import beyond
from seedvec.sparse import SparseRows

MAX_UNLIKE_SHARE = 0.01
"""Of the queries of a request: with more of them farther off than what was calibrated on, no recall is claimed."""
FEW_QUERIES = 16
"""A search of more is a batch by itself."""
FEW_HITS = 50
"""Up to so many distances Python compares faster than NumPy (10: 0.5 µs instead of 3)."""


class Took(NamedTuple):
    """How one part was searched. exact: every row left in it was compared."""

    step: Step
    ms: float
    exact: bool
    params: dict[str, int]

    @property
    def by(self) -> str:
        return "exact" if self.exact else self.step.index.kind


class Wanted(NamedTuple):
    """One of several searches that are run together. queries: (q, d) float32, dense; deadline: as `run` takes it."""

    queries: Any
    deadline: float


class Results(NamedTuple):
    """exact: the hits are the true nearest. merge_ms: bringing the parts together. The rest as in `SearchAnswer`."""

    hits: Ranked
    took: tuple[Took, ...]
    exact: bool
    expected_recall: float | None
    calibrated_on: CalibratedOn | None
    merge_ms: float = 0.0


def run(view: View, search: SearchPlan, queries: Any, k: int, deadline: float = math.inf) -> Results:
    """min(k, rows left) hits of each query.

    queries: `Vectors` of the collection's kind, float32 (typed as any: what searches a part takes its one kind);
    deadline: by `time.monotonic`, looked at before each part. Raises DeadlineExceeded.
    """
    found, took = [], []
    for step in search.steps:
        if time.monotonic() > deadline:
            raise too_late()
        begun = time.perf_counter()
        hits = step.index.search(queries, k, step.plan, step.alive)
        found.append((step.part, hits))
        took.append(Took(step, (time.perf_counter() - begun) * 1000, hits.exact, dict(hits.params or {})))
    exact = all(t.exact for t in took)
    begun = time.perf_counter()
    together = merged(view, found, k) if len(queries) == 1 else ranked(view, found, len(queries), k)
    merge_ms = (time.perf_counter() - begun) * 1000
    if exact:
        return Results(together, tuple(took), True, 1.0, None, merge_ms)
    expected = search.expected_recall
    if expected is not None and any(
        are_unlike(step, hits, queries) for step, (_, hits) in zip(search.steps, found, strict=True)
    ):
        expected = None
    return Results(together, tuple(took), False, expected, search.calibrated_on, merge_ms)


def is_joinable(plan: SearchPlan, queries: Any) -> bool:
    """Whether a search costs more alone than with others: exact ones read every row, however many queries there are.
    What an index is asked costs as much together, and what is said of its recall would depend on the others."""
    few = len(queries) <= FEW_QUERIES and not isinstance(queries, SparseRows)
    return few and all(step.plan.exact for step in plan.steps)


def run_together(view: View, search: SearchPlan, wanted: Sequence[Wanted], k: int) -> list[Results]:
    """`run` of several searches at once, to each its own. Raises DeadlineExceeded where none has time left."""
    queries = np.concatenate([one.queries for one in wanted])
    found = run(view, search, queries, k, max(one.deadline for one in wanted))
    ends = np.cumsum([len(one.queries) for one in wanted]).tolist()
    return [
        found._replace(hits=found.hits.of(end - len(one.queries), end)) for one, end in zip(wanted, ends, strict=True)
    ]


def are_unlike(step: Step, hits: Found, queries: NDArray[np.float32]) -> bool:
    """Whether the queries lie farther off than nearly all those that recall was measured with, by what was found."""
    if step.reach is None or hits.exact:
        return False
    place, within = step.reach
    if hits.distances.shape[1] < place:
        return False
    kth = hits.distances[:, place - 1]
    return beyond(step.exact.vectors.metric, queries, kth, within) > MAX_UNLIKE_SHARE * len(queries)


def merged(view: View, found: list[tuple[int | None, Found]], k: int) -> Ranked:
    """As `ranked`, of a single query, with a third of the calls of NumPy."""
    hits = [_there(part, f) for part, f in found]
    if len(hits) == 1:
        group, distances = hits[0]
        places = Places(view, len(distances), (group,))
    else:
        places, distances = _put_in_order(view, [h for h in hits if len(h[1])], k)
    ids = places.ids()
    # Hits come by (distance, id). Here they are by distance, with all that tie with the k-th.
    if _some_tie(distances):
        order = sorted(range(len(ids)), key=lambda i: (distances[i], ids[i]))[:k]
        ids, distances, places = [ids[i] for i in order], distances[order], places.take(np.array(order, np.int64))
    # Where nothing ties there are no more than k.
    return Ranked(ids, distances, places, [0, len(ids)])


def _some_tie(distances: NDArray[np.float32]) -> bool:
    """distances: (n,), ascending."""
    if len(distances) <= FEW_HITS:
        return len(set(distances.tolist())) < len(distances)
    return bool((distances[1:] == distances[:-1]).any())


def _there(part: int | None, found: Found) -> tuple[Group, NDArray[np.float32]]:
    """One part's hits of the one query, without the padding."""
    rows, distances = found.rows[0], found.distances[0]
    if len(rows) and rows[-1] < 0:
        n = int(np.count_nonzero(rows >= 0))
        rows, distances = rows[:n], distances[:n]
    return Group(part, rows, None), distances


def _put_in_order(
    view: View, hits: list[tuple[Group, NDArray[np.float32]]], k: int
) -> tuple[Places, NDArray[np.float32]]:
    """The k nearest of all parts in order of distance, and all that tie with the k-th."""
    if not hits:
        return Places(view, 0, ()), np.empty(0, np.float32)
    distances = np.concatenate([d for _, d in hits])
    order = np.argsort(distances, kind="stable")
    if len(order) > k:
        last = distances[order[k - 1]]
        order = order[: int(np.searchsorted(distances[order], last, side="right"))]
    groups, begin = [], 0
    for group, d in hits:
        groups.append(Group(group.part, group.rows, np.arange(begin, begin + len(d))))
        begin += len(d)
    everything = Places(view, begin, tuple(groups))
    return everything.take(order), distances[order]
