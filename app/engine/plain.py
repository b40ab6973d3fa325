"""The plainest search and the plainest fetch, on ways of their own: one query, no filter, of a view in which one index
knows every row; and one item.

It is what nearly all requests are. The general way (`reading.py`, `search.py`) brings several parts, queries and wishes
together; around a single index its steps were a fifth of what a search costs.
"""

import time

import numpy as np
from numpy.typing import NDArray

from app.engine import planning
from app.engine.collection import Collection
from app.engine.places import locate
from app.engine.search import FEW_HITS, are_unlike, merged
from app.engine.search_queue import too_late
from app.engine.types import Asked, Hits, Id, Include, Items, SearchAnswer
from app.engine.view import View


def answer(view: View, query: NDArray[np.float32], asked: Asked) -> SearchAnswer | None:
    """As `reading.find` answers. query: (1, d) float32. None: it is none of these. Raises DeadlineExceeded."""
    k, recall, params, max_distance, include, filter, explain, deadline = asked
    if not (filter is None and params is None and max_distance is None) or explain or not _is_bare(view, include):
        return None
    began = time.perf_counter()
    search = planning.plan(view, k, view.settings.recall if recall is None else recall)
    if len(search.steps) != 1 or search.cost_us > planning.LOOP_US:
        return None
    step = search.steps[0]
    if step.part is None:
        return None
    if time.monotonic() > deadline:
        raise too_late()
    planned = time.perf_counter()
    found = step.index.search(query, k, step.plan, step.alive)
    searched = time.perf_counter()
    rows, distances = found.rows[0], found.distances[0]
    n = len(rows)
    if n == 0 or n > FEW_HITS or rows.item(n - 1) < 0 or len(set(distances.tolist())) < n:
        ids, distances = merged(view, [(step.part, found)], k)[:2]
    else:
        ids = view.parts[step.part].segment.ids_at(rows)
    hits = Hits(Items(ids, None, [None] * len(ids) if include else None), distances, [0, len(ids)])
    stages = (0.0, planned - began, 0.0, searched - planned, time.perf_counter() - searched, 0.0)
    if found.exact:
        return SearchAnswer(hits, True, 1.0, None, None, stages)
    expected = search.expected_recall
    if expected is not None and are_unlike(step, found, query):
        expected = None
    return SearchAnswer(hits, False, expected, search.calibrated_on, None, stages)


def item(c: Collection, id_: Id, include: Include) -> Items | None:
    """As `reading.fetch` answers for one id. None: it is not there, or not in the view. Raises IdTypeMismatch."""
    view = c.view()
    found = None if view.settings.sparse else c.item_of(id_)
    place = None if found is None else locate(view, found[0])
    if found is None or place is None:
        return None
    part, row = place
    vectors = (view.pending if part is None else view.parts[part].segment).vectors.rows
    return Items(
        [id_], vectors[row : row + 1] if "vector" in include else None, [found[1]] if "metadata" in include else None
    )


def _is_bare(view: View, include: Include) -> bool:
    """Whether nothing has to be read for the hits besides their ids."""
    return not include or (not view.has_metadata and "vector" not in include)
