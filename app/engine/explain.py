"""How a search found its answer, as `"explain": true` shows it."""

import time
from typing import Any

from app.engine import search
from app.engine.matching import Matching
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


def explain(view: View, left: Matching, found: search.Results, watch: Watch) -> dict[str, Any]:
    """JSON-ready."""
    return {
        "rows": view.state.live,
        "matching": left.count,
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
        "ms": round(took.ms, 3),
    }
