"""`GET /metrics`: what all processes of the server have counted, as Prometheus reads it."""

from fastapi import APIRouter
from starlette.responses import Response

from app.api.openapi import Responses, problems
from app.api.rights import needs
from app.api.strict_route import StrictRoute
from app.engine.types import Engine, Figures
from app.metrics import ours
from app.metrics.kinds import Labels
from app.metrics.processes import processes
from app.metrics.shared import MINE, STARTS, Row
from app.metrics.text import MEDIA_TYPE, Values, exposition
from seedvec import __version__

EXAMPLE = "# TYPE seedvec_http_requests_in_progress gauge\nseedvec_http_requests_in_progress 1\n"
STATES = ("ready", "building", "failed", "closed")


def router(engine: Engine) -> APIRouter:
    routes = APIRouter(tags=["service"], route_class=StrictRoute)
    content = {MEDIA_TYPE.partition(";")[0]: {"schema": {"type": "string"}, "example": EXAMPLE}}
    described: Responses = {200: {"description": "Success", "content": content}}

    @routes.get(
        "/metrics",
        summary="Metrics of all processes, for Prometheus",
        response_class=Response,
        responses=described | problems("unknown-field"),
        openapi_extra=needs("read"),
    )
    async def metrics() -> Response:
        """Text format 0.0.4; docs/metrics.md says what each metric means. Any worker answers for all."""
        rows = MINE.rows()
        looked_up = {**_of_processes(rows), **_of_collections(await engine.figures())}
        return Response(exposition(rows, looked_up), media_type=MEDIA_TYPE)

    return routes


def _of_processes(rows: list[Row]) -> dict[str, Values]:
    running = processes(rows)
    memory: dict[Labels, float] = {(p.name, "private"): float(p.private) for p in running}
    memory |= {(p.name, "mapped"): float(p.mapped) for p in running}
    return {
        ours.INFO.name: {(__version__,): 1.0},
        ours.STARTS.name: {(row.name,): row.slots[STARTS] for row in rows},
        ours.MEMORY.name: memory,
        ours.CPU.name: {(p.name,): p.cpu_s for p in running},
    }


def _of_collections(figures: Figures) -> dict[str, Values]:
    here = figures.collections
    open_ = [c for c in here if c.state != "closed"]
    recall: dict[Labels, float] = {(c.name, "promised"): c.promised for c in open_}
    recall |= {(c.name, "measured"): c.measured for c in open_ if c.measured is not None}
    return {
        ours.DISK_FREE.name: {(): float(figures.disk_free)},
        ours.STATE.name: {(c.name, state): float(c.state == state) for c in here for state in STATES},
        ours.ROWS.name: {(c.name,): float(c.rows) for c in open_},
        ours.PENDING.name: {(c.name,): float(c.pending) for c in open_},
        ours.INDEXED.name: {(c.name,): float(c.indexed) for c in open_},
        ours.SEGMENTS.name: {(c.name,): float(c.segments) for c in open_},
        ours.BYTES.name: {(c.name,): float(c.bytes) for c in open_},
        ours.PROGRESS.name: {(c.name,): c.progress for c in open_ if c.progress is not None},
        ours.RECALL.name: recall,
    }
