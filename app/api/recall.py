"""Recall measured, and the calibrated fronts, as JSON or drawn."""

import asyncio
from collections.abc import Coroutine
from dataclasses import asdict
from typing import Any, Literal, TypeVar

from starlette.responses import Response

from app.api import examples
from app.api.bodies import ClientGone, off_loop_if_large
from app.api.encode import json_response
from app.api.recall_in import RecallBody, RecallQuery, parse
from app.api.resource import Call, Operation, Resource
from app.api.rights import require
from app.engine.types import Engine, RecallAnswer, RecallRow

DRAWN: dict[str, Literal["svg", "png"]] = {"image/svg+xml": "svg", "image/png": "png"}
_SHARE_DIGITS = 6
_MS_DIGITS = 4
T = TypeVar("T")


def resources(engine: Engine) -> list[Resource]:
    return [Resource(engine, "/v1/collections/{collection}/recall", [MEASURE, SHOW])]


async def measure(call: Call) -> Response:
    settings = call.settings()
    query = call.query(RecallQuery) if call.scope["query_string"] else None
    media, body = await call.body(npy=True)
    asked = await off_loop_if_large(len(body), lambda: parse(media, body, query, settings))
    if asked.calibrate:
        require(call.scope, "write", call.name)
    return json_response(_value(await _while_wanted(call, call.engine.measure_recall(call.name, asked))))


async def show(call: Call) -> Response:
    call.no_query()
    for media, format in DRAWN.items():
        if call.accepts(media):
            picture = await call.engine.draw_calibration(call.name, format)
            return Response(picture, media_type=media, headers={"vary": "accept"})
    return json_response(call.engine.calibration(call.name))


async def _while_wanted(call: Call, work: Coroutine[Any, Any, T]) -> T:
    """A measurement may take a minute: it ends with the client that asked for it. Raises ClientGone."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(call.gone())
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


def _value(answer: RecallAnswer) -> dict[str, Any]:
    value: dict[str, Any] = {"rows": [_row(row) for row in answer.rows], "on": answer.on}
    if answer.calibrating_on is not None:
        value |= {"calibrating": True, "calibrating_on": answer.calibrating_on}
    return value


def _row(row: RecallRow) -> dict[str, Any]:
    """asdict's order is the answer's."""
    value = asdict(row)
    for name in ("measured", "p10_recall", "expected_recall"):
        value[name] = None if value[name] is None else round(value[name], _SHARE_DIGITS)
    value["interval"] = [round(bound, _SHARE_DIGITS) for bound in row.interval]
    for name in ("p50_ms", "p95_ms", "p99_ms", "exact_p50_ms"):
        value[name] = round(value[name], _MS_DIGITS)
    return value


_PROBLEMS = ("collection-not-found", "unknown-field", "invalid-request", "collection-closed")

MEASURE = Operation(
    "POST",
    "measure_recall",
    "Measure recall",
    measure,
    200,
    examples.RECALL_MEASURED,
    (
        *_PROBLEMS,
        "conflict",
        "dimension-mismatch",
        "not-finite",
        "zero-vector",
        "id-type-mismatch",
        "out-of-range",
        "invalid-filter",
        "malformed-body",
        "too-large",
        "unsupported-media-type",
        "unavailable",
    ),
    RecallBody,
    {
        "what is promised": examples.RECALL_MEASURE,
        "own queries and truth": examples.RECALL_MEASURE_GIVEN,
    },
    npy=True,
    query=RecallQuery,
    description="Searches are planned and run as any other, one at a time, and held against the answers of the exact "
    "search, or against `truth`. Without `queries`, those are taken that the collection was asked of late (`on`: "
    "`queries`), or stored rows, each left out of its own answer (`data`): an index finds their neighbours more easily "
    "than those of new queries. With `calibrate`, the collection is calibrated on the queries from then on; "
    "`GET /v1/collections/{collection}?wait=ready` waits for that.",
    tag="recall",
    rights="read",
)
SHOW = Operation(
    "GET",
    "show_recall",
    "Calibrated recall and cost",
    show,
    200,
    examples.RECALL_FRONTS,
    (*_PROBLEMS, "unavailable"),
    answers=tuple(DRAWN),
    description="Of each index the points of (recall@k, µs) that searches are planned by, with the parameters behind "
    "them; with `Accept: image/svg+xml` or `image/png` they are drawn.",
    tag="recall",
    rights="read",
)
