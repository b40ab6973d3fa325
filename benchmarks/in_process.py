"""A data folder searched through the engine in this process, as a worker does it but for HTTP.

No server may run on the folder: its builder would change indexes while they are measured.
"""

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.engine.engine import LocalEngine
from app.engine.types import Asked, SearchAnswer
from app.settings import Settings

T = TypeVar("T")
BATCH_HITS = 500_000
"""Queries times k of one batch."""


@dataclass(frozen=True, slots=True)
class Answers:
    """ids: (q, k) int64, -1 where there are fewer; the rest as the engine says it of the whole batch."""

    ids: NDArray[np.int64]
    exact: bool
    expected_recall: float | None
    calibrated_on: str | None


class InProcess:
    """`with InProcess(folder) as engine:` opens what a server has left there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self.engine: LocalEngine

    def __enter__(self) -> "InProcess":
        # What measures must not be kept: the next builder would calibrate on it.
        self.engine = LocalEngine(self._folder, Settings(data=self._folder, keep_queries=0))
        self.run(self.engine.start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run(self.engine.close())
        self._loop.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(coroutine)

    def batch(self, name: str, queries: NDArray[Any], k: int, **asked: Any) -> Answers:
        """All queries at once, by all cores. asked: `recall` or `params`."""
        step = max(1, BATCH_HITS // k)
        return self.run(self._batch(name, queries, k, step, asked))

    async def _batch(self, name: str, queries: NDArray[Any], k: int, step: int, asked: dict[str, Any]) -> Answers:
        found = [
            await self._search(name, queries[begin : begin + step], k, asked) for begin in range(0, len(queries), step)
        ]
        ids = np.concatenate([_ids(answer, k) for answer in found])
        first = found[0]
        return Answers(ids, all(f.exact for f in found), first.expected_recall, first.calibrated_on)

    def each(self, name: str, queries: NDArray[Any], k: int, **asked: Any) -> NDArray[np.float64]:
        """One query at a time. → processor time of each, µs, (q,): others on the machine push the clock about."""
        return self.run(self._each(name, queries, k, asked, time.process_time))

    def latencies(self, name: str, queries: NDArray[Any], k: int, **asked: Any) -> NDArray[np.float64]:
        """The same by the clock, for comparing what runs in turn with it."""
        return self.run(self._each(name, queries, k, asked, time.perf_counter))

    async def _each(
        self, name: str, queries: NDArray[Any], k: int, asked: dict[str, Any], now: Any
    ) -> NDArray[np.float64]:
        took = np.empty(len(queries))
        for i, query in enumerate(queries):
            begun = now()
            await self._search(name, query[None], k, asked)
            took[i] = now() - begun
            # A worker looks at the catalogue once a turn of its loop: so does each query here, in its own time.
            await asyncio.sleep(0)
        return took * 1e6

    def explained(self, name: str, query: NDArray[Any], k: int, **asked: Any) -> dict[str, Any]:
        """How one query (d,) is answered."""
        answer = self.run(self._search(name, query[None], k, asked | {"explain": True}))
        assert answer.explain is not None
        return answer.explain

    async def _search(self, name: str, queries: NDArray[Any], k: int, asked: dict[str, Any]) -> SearchAnswer:
        return await self.engine.search(name, queries, Asked(k, include=frozenset(), **asked))


def _ids(answer: SearchAnswer, k: int) -> NDArray[np.int64]:
    starts = np.array(answer.hits.starts)
    ids = np.full((len(starts) - 1, k), -1, np.int64)
    ids[np.arange(k) < np.diff(starts)[:, None]] = answer.hits.items.ids
    return ids
