"""How a search found its answer, as `"explain": true` shows it."""

import time
from itertools import pairwise
from typing import Any

from app.engine import search
from app.engine.matching import Matching
from app.engine.planning import SearchPlan
from app.engine.types import Asked
from app.engine.view import View


class Watch:
    """When a search began, and when each of its steps was done: filter, plan, search, items. A clock is read in a
    twentieth of a microsecond: every search is watched."""

    __slots__ = ("at",)

    def __init__(self) -> None:
        self.at = [time.perf_counter()]

    def lap(self) -> None:
        self.at.append(time.perf_counter())

    def stages(self, found: search.Results) -> tuple[float, ...]:
        """As `SearchAnswer` has them. What of the search is neither the index's nor the merge's was spent waiting for
        the search thread."""
        began, filtered, planned, searched, shown = self.at
        index_s = sum(took.ms for took in found.took) / 1000
        merge_s = found.merge_ms / 1000
        wait_s = max(0.0, searched - planned - index_s - merge_s)
        return filtered - began, planned - filtered, wait_s, index_s, merge_s, shown - searched

    def steps_ms(self) -> dict[str, float]:
        ms = [round((after - before) * 1000, 3) for before, after in pairwise(self.at)]
        return dict(zip(("filter_ms", "plan_ms", "search_ms", "items_ms"), ms, strict=True))


def explain(
    view: View, left: Matching, asked: Asked, plan: SearchPlan, found: search.Results, watch: Watch
) -> dict[str, Any]:
    """JSON-ready. `recall` is what was planned for, of the request or else of the collection; `params` of a part are
    what its index was asked with, under a filter the most of any query."""
    return {
        "rows": view.state.live,
        "matching": left.count,
        "recall": plan.recall,
        "recall_from": None if plan.recall is None else "collection" if asked.recall is None else "request",
        "expected_recall": found.expected_recall,
        "cost_us": round(plan.cost_us, 1),
        "parts": [_part(view, took) for took in found.took],
        **watch.steps_ms(),
    }


def _part(view: View, took: search.Took) -> dict[str, Any]:
    step = took.step
    segment = None if step.part is None else view.parts[step.part].segment
    rows = len(view.pending.keys) if segment is None else segment.row.rows
    return {
        "segment": "pending" if segment is None else segment.row.file,
        "rows": rows,
        "matching": rows if step.alive is None else step.alive.count,
        "by": took.by,
        "params": took.params,
        "params_from": None if took.exact else "request" if step.given else "calibration",
        "expected_recall": 1.0 if took.exact else step.expected_recall,
        "calibrated_on": None if took.exact else step.calibrated_on,
        "cost_us": round(step.cost_us, 1),
        "ms": round(took.ms, 3),
    }
