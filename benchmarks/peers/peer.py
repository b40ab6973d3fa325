"""What every peer gives: its folder opened and filled, searches prepared, and what they found read."""

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.clients import Clients, Timed

Floats = NDArray[np.float32]
Params = dict[str, Any]
"""What a search is asked with, beside k: a peer's own words."""
Ask = Any
"""One request made beforehand: a call without arguments, unless the peer says otherwise."""
NO_LIMIT = sys.maxsize
PROBE_S = 10.0


class Unable(Exception):
    """What a peer cannot do; the message says why."""


class Hits(NamedTuple):
    """Of one query, nearest first. ids: (h,) int64; distances: (h,) float64, Euclidean, of the vectors themselves."""

    ids: NDArray[np.int64]
    distances: NDArray[np.float64]


class Ingested(NamedTuple):
    """Seconds from the beginning until all is stored, and until it is searched by an index."""

    acknowledged_s: float
    indexed_s: float


class Peer(ABC):
    """Metric is L2; ids are row numbers; `bucket` of a row is its number % 100. Searches are made before the clock
    starts, as a load generator makes its requests: no client's own work is counted against a peer."""

    threads = len(os.sched_getaffinity(0))
    """That answer clients: as many as cores, where a call computes in the thread that makes it."""

    @abstractmethod
    def open(self, folder: Path, dimension: int) -> int:
        """→ rows that are there; 0 in a folder that is empty or absent."""

    @abstractmethod
    def ingest(self, vectors: Floats, bucket: bool) -> Ingested:
        """All of them (n, d), into what is empty."""

    @abstractmethod
    def ladders(self, buckets: int | None) -> list[list[Params]]:
        """Parameters to try, from cheap to dear in each ladder."""

    @abstractmethod
    def searches(self, queries: Floats, k: int, params: Params, buckets: int | None) -> list[Ask]:
        """One for each of the queries (q, d), among rows of the first buckets alone where they are given. They hold
        until the next are made: parameters may be the collection's."""

    def probe(self, queries: Floats, k: int, params: Params, buckets: int | None) -> Timed:
        """All queries once, one after the other, as long as PROBE_S last: what recall is measured on."""
        return self.run(self.searches(queries, k, params, buckets), 1, PROBE_S, most=len(queries))

    @abstractmethod
    def hits(self, answer: Any) -> Hits: ...

    @abstractmethod
    def batch(self, queries: Floats, k: int, params: Params) -> Ask:
        """All of them at once."""

    @abstractmethod
    def batch_hits(self, answer: Any) -> Sequence[Hits]: ...

    @abstractmethod
    def fetches(self, ids: NDArray[np.int64]) -> list[Ask]:
        """Each one item with its vector."""

    def run(
        self, asks: Sequence[Ask], clients: int, seconds: float, *, warm_s: float = 0, most: int = NO_LIMIT
    ) -> Timed:
        """The first `warm_s` do not count."""
        if warm_s:
            Clients(asks, clients, warm_s, NO_LIMIT).run(self.threads, self.in_each_thread)
        return Clients(asks, clients, seconds, most).run(self.threads, self.in_each_thread)

    def in_each_thread(self) -> None:  # noqa: B027
        """What a client's thread does first."""

    def pids(self) -> list[int]:
        """The processes that hold its memory."""
        return [os.getpid()]

    def close(self) -> None:  # noqa: B027
        """Once, at the end; also where nothing was opened."""


def near(ids: Any, distances: Any) -> Hits:
    """distances: Euclidean."""
    return Hits(np.asarray(ids, np.int64), np.asarray(distances, np.float64))


def near_squared(ids: Any, squares: Any) -> Hits:
    """squares: of Euclidean distances; a little below 0 where a library subtracted large numbers."""
    return near(ids, np.sqrt(np.maximum(np.asarray(squares, np.float64), 0)))
