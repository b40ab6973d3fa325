"""What being seen costs a request: `python -m benchmarks.sight`. Prints µs a request, the least of some rounds.

Around an application that does nothing, so that a microsecond shows; the rest of a small search takes some 200.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from starlette.types import ASGIApp

from app.api.application import HotPath
from app.api.seen import RouteSeries, Seen, count_search, note
from app.engine.explain import Watch
from app.engine.search import Results
from app.engine.types import Hits, Items, SearchAnswer
from app.metrics.ours import STAGES
from app.metrics.shared import MINE
from app.metrics.text import exposition

ROUNDS, CALLS = 9, 20_000
PATH = "/v1/collections/{collection}/search"


class Route:
    name = "search"


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    scope["route"], scope["status"] = Route, 200


async def of_requests(app: ASGIApp) -> float:
    begun = time.perf_counter()
    for _ in range(CALLS):
        await app({"type": "http", "method": "POST"}, None, None)  # type: ignore[arg-type]
    return (time.perf_counter() - begun) / CALLS * 1e6


def of_calls(act: Callable[[], object], calls: int = CALLS) -> float:
    def once() -> float:
        begun = time.perf_counter()
        for _ in range(calls):
            act()
        return (time.perf_counter() - begun) / calls * 1e6

    return min(once() for _ in range(ROUNDS))


def watched() -> None:
    watch = Watch()
    for _ in range(4):
        watch.lap()
    watch.stages(Results(None, (), True, None, None))  # type: ignore[arg-type]


def main() -> None:
    routes = {Route.name: RouteSeries.of("POST", PATH)}
    seen = Seen(HotPath(nothing, []), routes, False, 1000.0, None)
    bare = min(asyncio.run(of_requests(HotPath(nothing, []))) for _ in range(ROUNDS))
    around = min(asyncio.run(of_requests(seen)) for _ in range(ROUNDS))
    answer = SearchAnswer(
        Hits(Items([]), np.empty(0, np.float32), [0, 0]), False, 0.95, "data", None, (1e-4,) * len(STAGES)
    )
    print(f"every request   {around - bare:6.2f} µs")
    print(f"a search more   {of_calls(lambda: count_search(1, answer)):6.2f} µs counted")
    print(f"                {of_calls(watched):6.2f} µs watched, stage by stage")
    print(f"                {of_calls(lambda: note({}, 'c', None, k=10, queries=1, recall=None)):6.2f} µs noted")
    print(f"the text        {of_calls(lambda: exposition(MINE.rows(), {}), 20):6.0f} µs a scrape, collections aside")


if __name__ == "__main__":
    main()
