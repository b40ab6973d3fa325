"""How a search found its answer, as `"explain": true` shows it."""

import time
from typing import Any

from app.engine import search
from app.engine.matching import Matching
from app.engine.planning import SearchPlan
from app.engine.types import Asked
from app.engine.view import View


class Watch:
    """Milliseconds of each step of one search."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = (now - self._last) * 1000
        self._last = now


class NotWatched(Watch):
    """Of the searches that nobody wants explained: a clock is read in a third of a microsecond."""

    def lap(self, name: str) -> None:
        pass


NOT_WATCHED = NotWatched()


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
        **{name: round(ms, 3) for name, ms in watch.laps.items()},
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
