"""What is seen of every request: metrics, the access log, the slow log, and a trace."""

import logging
import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.resource import Resource
from app.engine.filters.shape import shape
from app.engine.types import SearchAnswer
from app.logs import FIELDS
from app.metrics.kinds import Counter, Histogram
from app.metrics.ours import (
    EXPECTED_RECALL,
    IN_PROGRESS,
    OTHER,
    REQUEST_SECONDS,
    REQUESTS,
    SEARCH_QUERIES,
    SEARCH_SECONDS,
    SEARCHES,
    STAGE_S,
    STAGES,
)
from app.metrics.shared import MINE
from seedvec.filters.ast import Filter

access = logging.getLogger("seedvec.access")
slow = logging.getLogger("seedvec.slow")

_STATUSES: Final = ("gone", "1xx", "2xx", "3xx", "4xx", "5xx")
_METHODS: Final = ("GET", "PUT", "POST", "PATCH", "DELETE", "HEAD", "OPTIONS")
_STAGES: Final = tuple(SEARCH_SECONDS.at(stage).slot for stage in STAGES)
_SINGLE: Final = SEARCH_QUERIES.bucket(1)
_EXACT, _EXPECTED, _UNKNOWN = (SEARCHES.at(known) for known in ("exact", "expected", "unknown"))


@dataclass(slots=True)
class Note:
    """What a handler says of its query, for the logs and the trace: no vectors, no values of filters.

    stages: seconds, once a search was answered."""

    collection: str
    filter: Filter | None = None
    asked: dict[str, Any] = field(default_factory=dict)
    stages: tuple[float, ...] = ()

    def fields(self) -> dict[str, Any]:
        """JSON-ready; times in ms."""
        found = {"collection": self.collection, **self.asked}
        if self.filter is not None:
            found["filter"] = shape(self.filter)
        stages = zip(STAGES, self.stages, strict=False)
        return found | {f"{stage}_ms": round(seconds * 1000, 3) for stage, seconds in stages}


def note(scope: Scope, collection: str, filter: Filter | None, **asked: Any) -> Note:
    """To be called before the query is run: one that fails is slow too."""
    made: Note = Note(collection, filter, asked)
    scope["note"] = made
    return made


def count_search(queries: int, answer: SearchAnswer) -> None:
    """A search that was answered. One turn of the lock for all that is counted of it."""
    expected = answer.expected_recall
    known = _EXACT if answer.exact else _UNKNOWN if expected is None else _EXPECTED
    size = _SINGLE if queries == 1 else SEARCH_QUERIES.bucket(queries)
    with MINE.lock:
        slots = MINE.slots
        for slot, seconds in zip(_STAGES, answer.stages, strict=True):
            if seconds:
                slots[slot] += seconds
                slots[slot + 1 + bisect_left(STAGE_S, seconds)] += 1.0
            else:  # half of them
                slots[slot + 1] += 1.0
        slots[SEARCH_QUERIES.slot] += queries
        slots[size] += 1.0
        slots[known.slot] += 1.0
        if known is _EXPECTED and expected is not None:
            slots[EXPECTED_RECALL.slot] += expected
            slots[EXPECTED_RECALL.slot + 1] += 1.0


@dataclass(frozen=True, slots=True)
class RouteSeries:
    """path: as in the OpenAPI, `/v1/collections/{collection}`."""

    method: str
    path: str
    seconds: Histogram
    statuses: tuple[Counter, ...]
    """By the status's first digit."""

    @classmethod
    def of(cls, method: str, path: str) -> "RouteSeries":
        statuses = tuple(REQUESTS.of(method, path, status) for status in _STATUSES)
        return cls(method, path, REQUEST_SECONDS.of(method, path), statuses)


class Traces(Protocol):
    def record(self, route: RouteSeries, scope: Scope, took_s: float) -> None:
        """One request that has been answered; scope: with `status`, `request_id` and perhaps a `note`."""
        ...

    def close(self) -> None:
        """What was recorded and not yet sent is sent, or given up after a moment."""
        ...


class Seen:
    """Middleware within `RequestIds`, which puts the answer's `status` into the scope. Measured around an application
    that does nothing: 2 µs a request without access log and traces."""

    def __init__(
        self, app: ASGIApp, routes: Mapping[str, RouteSeries], access_log: bool, slow_ms: float, traces: Traces | None
    ) -> None:
        """routes: by operation; slow_ms: 0: none is slow."""
        self.app = app
        self._routes = routes
        self._others = {method: RouteSeries.of(method, OTHER) for method in (*_METHODS, OTHER)}
        self._access_log = access_log
        self._slow_s = slow_ms / 1000 or float("inf")
        self._traces = traces
        self._in_progress = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        self._in_progress += 1
        IN_PROGRESS.set(self._in_progress)
        try:
            await self.app(scope, receive, send)
        except Exception:
            scope.setdefault("status", 500)  # what it will be answered with
            raise
        finally:
            self._in_progress -= 1
            IN_PROGRESS.set(self._in_progress)
            self._saw(scope, time.perf_counter() - started)

    def _saw(self, scope: Scope, took_s: float) -> None:
        route = scope.get("route")
        seen = self._routes.get(route.name) if route is not None else None
        if seen is None:
            method = scope["method"]
            seen = self._others[method if method in self._others else OTHER]
        answered, seconds = seen.statuses[scope.get("status", 0) // 100], seen.seconds
        with MINE.lock:  # once for all of them: 0.3 µs less
            slots = MINE.slots
            slots[answered.slot] += 1.0
            slots[seconds.slot] += took_s
            slots[seconds.bucket(took_s)] += 1.0
        if self._access_log:
            _log_access(scope, took_s)
        if took_s >= self._slow_s and "note" in scope:
            _log_slow(seen, scope, took_s)
        if self._traces is not None:
            self._traces.record(seen, scope, took_s)


def _log_access(scope: Scope, took_s: float) -> None:
    path = (scope.get("raw_path") or scope["path"].encode()).decode("ascii", "backslashreplace")
    client = (scope.get("client") or ("-",))[0]
    status, ms = scope.get("status", 0), round(took_s * 1000, 3)
    fields = {"method": scope["method"], "path": path, "status": status, "ms": ms, "client": client}
    access.info("%s %s %d %.3f ms %s", *fields.values(), extra={FIELDS: fields})


def _log_slow(seen: RouteSeries, scope: Scope, took_s: float) -> None:
    found: Note = scope["note"]
    fields = {"route": f"{seen.method} {seen.path}", "ms": round(took_s * 1000, 3), **found.fields()}
    words = " ".join(f"{name}={value}" for name, value in fields.items())
    slow.warning("slow: %s", words, extra={FIELDS: {"status": scope.get("status", 0), **fields}})


def route_series(resources: Iterable[Resource], routers: Iterable[APIRouter]) -> dict[str, RouteSeries]:
    """By operation id: what is counted of each route."""
    found: dict[str, RouteSeries] = {}
    for resource in resources:
        for operation in resource.operations.values():
            found[operation.name] = RouteSeries.of(operation.method, resource.path_format)
    for route in (route for router in routers for route in router.routes if isinstance(route, APIRoute)):
        for method in sorted(route.methods or ()):
            found[route.name] = RouteSeries.of(method, route.path_format)
    return found
