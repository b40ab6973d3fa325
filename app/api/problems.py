"""The one error table: every refusal becomes RFC 9457 problem JSON here and nowhere else."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from app.api.refusals import MethodNotAllowed, RouteNotFound, Unauthorized, UnknownField
from app.engine.errors import MAX_FAULTS, Fault, Invalid, Malformed, OutOfRange, Refused, Unavailable
from app.metrics.ours import PROBLEMS

log = logging.getLogger("seedvec.api")

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of the table; `explanation` is served at `/problems/<code>`."""

    status: int
    title: str
    explanation: str


STORED_NOTHING = "Nothing of the request was stored."

TABLE: dict[str, Kind] = {
    "malformed-body": Kind(
        400,
        "The body cannot be read",
        "It is empty, cut off, no JSON (NaN and Infinity are no JSON), or no .npy array of numbers. " + STORED_NOTHING,
    ),
    "malformed-request": Kind(
        400,
        "The request is no HTTP/1.1",
        "It breaks the protocol: an unknown method, a broken header, or characters in the path that must be "
        "percent-encoded. The connection is closed. " + STORED_NOTHING,
    ),
    "unauthorized": Kind(
        401,
        "A key is needed",
        "Send one as `Authorization: Bearer KEY` or `api-key: KEY`. Open to everybody are /livez, /readyz, /docs, "
        "/openapi.json and /problems.",
    ),
    "forbidden": Kind(
        403,
        "The key may not do this",
        "It only reads, or is limited to collections of which this is none. The reference says what each operation "
        "needs (x-rights).",
    ),
    "not-found": Kind(404, "There is no such route", "See /docs for the routes that exist."),
    "collection-not-found": Kind(
        404, "There is no such collection", "GET /v1/collections lists them; PUT /v1/collections/{name} creates one."
    ),
    "snapshot-not-found": Kind(404, "There is no such snapshot", "GET /v1/snapshots lists them."),
    "alias-not-found": Kind(404, "There is no such alias", "GET /v1/aliases lists them."),
    "id-not-found": Kind(404, "There is no such item", "The collection holds no item under this id (any more)."),
    "method-not-allowed": Kind(405, "The route does not take this method", "The Allow header names those it takes."),
    "request-timeout": Kind(
        408,
        "The request took too long to arrive",
        "A head has to be complete, and a body to keep coming, within bounds that the server sets (--header-s, "
        "--body-s). The connection is closed. " + STORED_NOTHING,
    ),
    "conflict": Kind(409, "The request conflicts with what is there", STORED_NOTHING),
    "id-exists": Kind(
        409,
        "An id exists already",
        "Add (POST) never replaces: an id that is in the collection, or twice in the body, refuses the whole request. "
        "Upsert (PUT) replaces. " + STORED_NOTHING,
    ),
    "settings-differ": Kind(
        409,
        "The collection exists with other settings",
        "Creating is idempotent only where every field given agrees. The collection is left as it was.",
    ),
    "name-taken": Kind(
        409,
        "The name is taken",
        "Collections and aliases share one namespace; each name is one or the other. Snapshots have names of their "
        "own, each for one. " + STORED_NOTHING,
    ),
    "collection-aliased": Kind(
        409,
        "Aliases lead to the collection",
        "Dropping it would leave them without a collection. Switch or delete them first; the detail names them. "
        "Nothing was changed.",
    ),
    "too-large": Kind(
        413, "The request is too large", "GET /v1 shows the limits. Split it into several requests. " + STORED_NOTHING
    ),
    "head-too-large": Kind(
        431,
        "The request's head is too large",
        "Path, query string and headers may take 64 KiB together: what is longer goes into a body. The connection is "
        "closed. " + STORED_NOTHING,
    ),
    "unsupported-media-type": Kind(
        415,
        "The body has a media type that is not taken here",
        "Send Content-Type: application/json, or application/x-npy where the route takes arrays, and no "
        "Content-Encoding.",
    ),
    "invalid-request": Kind(
        422, "The request is not acceptable", "It was read, but a value in it is not allowed. " + STORED_NOTHING
    ),
    "unknown-field": Kind(
        422,
        "The request has a field or parameter that is not known",
        "Unknown fields are refused rather than ignored, so that a misspelt one cannot go unnoticed. " + STORED_NOTHING,
    ),
    "bad-file": Kind(
        422,
        "The file cannot be imported",
        "It is not what its format should be, is cut off, or takes more to read than is given to an import. The detail "
        "says what was found and where. Nothing of it was imported.",
    ),
    "dimension-mismatch": Kind(
        422,
        "A vector has the wrong number of dimensions",
        "Every vector has exactly the collection's dimension. " + STORED_NOTHING,
    ),
    "not-finite": Kind(
        422,
        "A number is not finite",
        "NaN and infinities are refused, and so is what becomes one in the collection's dtype: 1e39 is no float32, "
        "70000 no float16. " + STORED_NOTHING,
    ),
    "zero-vector": Kind(
        422,
        "A vector has no direction",
        "Under cosine the norm must not vanish, after conversion to the collection's dtype (1e-8 is 0 in float16). "
        + STORED_NOTHING,
    ),
    "id-type-mismatch": Kind(
        422,
        "An id has the wrong type",
        "A collection has ids of one type: int or str, given at creation as id_type or fixed by the first write. "
        + STORED_NOTHING,
    ),
    "invalid-metadata": Kind(
        422,
        "Metadata is not acceptable",
        "Metadata is a JSON object of at most 64 KiB and 16 levels; no key contains '.' or starts with '$'. "
        + STORED_NOTHING,
    ),
    "invalid-filter": Kind(
        422,
        "The filter is not acceptable",
        "An operator is not known, an operand has the wrong type, or the filter is too deep or too large; `errors` "
        "names each place. " + STORED_NOTHING,
    ),
    "bad-snapshot": Kind(
        422,
        "The snapshot is not sound",
        "Something in it is damaged, missing or not what a snapshot holds; the detail says what. Nothing was changed.",
    ),
    "out-of-range": Kind(422, "A value is out of its range", "GET /v1 shows the limits. " + STORED_NOTHING),
    "idempotency-mismatch": Kind(
        422,
        "The Idempotency-Key was used for another request",
        "Within 24 hours a key belongs to one request: the same operation with the same body. Take a new key.",
    ),
    "too-many-pending": Kind(
        429, "Too many writes are pending", "The collection is sealing what was written. Try again after Retry-After."
    ),
    "rate-limited": Kind(
        429, "The key asks too often", "It may make so many requests a second. Try again after Retry-After."
    ),
    "internal-error": Kind(
        500,
        "The server made a mistake",
        "The instance names this request in the server's log, which holds the rest. Please report it.",
    ),
    "unavailable": Kind(503, "The server cannot do this now", "Try again after Retry-After."),
    "not-ready": Kind(
        503, "The server is not ready", "The detail names what is closed, or says that the server is stopping."
    ),
    "overloaded": Kind(
        503,
        "The server has more to do than it can do in time",
        "The request was not begun. Try again after Retry-After. " + STORED_NOTHING,
    ),
    "collection-closed": Kind(
        503,
        "The collection is closed",
        "Its files are damaged or missing. The detail says what was found; `seedvec check` says more.",
    ),
    "outcome-unknown": Kind(
        503,
        "Whether the write happened is not known",
        "The disk refused to confirm it: it may or may not be stored. It can be repeated without looking: a POST with "
        "the same Idempotency-Key, PUT, PATCH and DELETE as they are.",
    ),
    "deadline-exceeded": Kind(
        504,
        "It took longer than it may",
        "The request's timeout_ms is over, or the server's (--search-timeout-s). A lower recall, a smaller k or fewer "
        "queries take less.",
    ),
    "insufficient-memory": Kind(
        507,
        "The index would not fit into the memory",
        "The detail says what it would take and what there is (--memory-bytes), and what would fit. Nothing was "
        "changed: the index that is there goes on serving.",
    ),
    "disk-full": Kind(
        507,
        "The disk is full",
        STORED_NOTHING + " Reads go on, and so does what frees room: deletes, and dropping a collection. Everything "
        "else is taken again, without a restart, once there is room.",
    ),
}


_COUNTS = {code: PROBLEMS.of(code) for code in TABLE}


def code_of(refused: Refused) -> str:
    """The refusal's code, or that of its nearest base that the table knows: a new subclass is never a 500."""
    for base in type(refused).__mro__:
        code = getattr(base, "code", None)
        if code in TABLE:
            return str(code)
    return "invalid-request"


def _dump(code: str, detail: str, instance: str, faults: tuple[Fault, ...] = (), fault_count: int = 0) -> bytes:
    kind = TABLE[code]
    _COUNTS[code].add()
    problem: dict[str, Any] = {
        "type": f"/problems/{code}",
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
        "instance": instance,
    }
    if faults:
        problem["errors"] = [{"where": f.where, "message": f.message} for f in faults[:MAX_FAULTS]]
        problem["error_count"] = fault_count
    try:
        return orjson.dumps(problem)
    except orjson.JSONEncodeError:
        # A client's own text may hold what is no UTF-8 (lone surrogates from a percent-decoded path).
        problem["detail"] = problem["title"]
        problem.pop("errors", None)
        return orjson.dumps(problem)


def refusal_response(refused: Refused, instance: str) -> Response:
    """The problem answer of one refusal; instance: the request id."""
    code = code_of(refused)
    headers: dict[str, str] = {}
    if isinstance(refused, Unavailable) and refused.retry_after_s is not None:
        headers["retry-after"] = str(refused.retry_after_s)
    if isinstance(refused, MethodNotAllowed):
        headers["allow"] = refused.allow
    if isinstance(refused, Unauthorized):
        headers["www-authenticate"] = 'Bearer realm="seedvec"'
    body = _dump(code, refused.detail, instance, refused.faults, refused.fault_count)
    return Response(body, TABLE[code].status, headers, MEDIA_TYPE)


def problem_json(refused: Refused, instance: str) -> bytes:
    """The same without HTTP: for an answer that has begun."""
    return _dump(code_of(refused), refused.detail, instance, refused.faults, refused.fault_count)


def plain_problem(code: str, instance: str) -> bytes:
    """The body of an answer that no application gives, of MEDIA_TYPE: the connection itself refuses."""
    return _dump(code, TABLE[code].explanation, instance)


def unexpected_response(error: Exception, instance: str) -> Response:
    """500: the client gets the id alone, the log gets the stack under that id."""
    log.error("request %s failed", instance, exc_info=error)
    detail = f"an unexpected error; the server's log has it under the request id {instance}"
    return Response(_dump("internal-error", detail, instance), 500, media_type=MEDIA_TYPE)


def request_id(scope: Mapping[str, Any]) -> str:
    """The id that `RequestIds` gave the request."""
    return str(scope.get("request_id", ""))


_PLAIN = {"extra_forbidden": "unknown field", "missing": "missing"}
_BOUNDS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}


def _where(location: tuple[Any, ...]) -> str:
    text = ""
    for part in location[1:] if location and location[0] in ("body", "query", "path", "header") else location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".") or "body"


def from_pydantic(error: RequestValidationError) -> Refused:
    """A typed route's validation errors in our words: places as `index.m`, unknown fields under their own code."""
    entries = error.errors()
    types = {entry["type"] for entry in entries}
    faults = [Fault(_where(tuple(entry["loc"])), _PLAIN.get(entry["type"]) or str(entry["msg"])) for entry in entries]
    detail = "; ".join(f"{f.where}: {f.message}" for f in faults[:5])
    if "extra_forbidden" in types:
        return UnknownField(detail, faults)
    return (OutOfRange if types <= _BOUNDS else Invalid)(detail, faults)


async def on_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return refusal_response(error, request_id(request.scope))


async def on_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return refusal_response(from_pydantic(error), request_id(request.scope))


def _allowed(request: Request) -> str:
    scope = dict(request.scope)
    allowed = []
    for method in ("GET", "PUT", "POST", "PATCH", "DELETE"):
        scope["method"] = method
        if any(route.matches(scope)[0].name == "FULL" for route in request.app.router.routes):
            allowed.append(method)
    return ", ".join(allowed)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """What the framework itself refuses: no route, no such method; anything else it might raise keeps its status."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == 404:
        return refusal_response(RouteNotFound(f"there is no route {path}: see /docs"), request_id(request.scope))
    if error.status_code == 405:
        allow = _allowed(request)
        detail = f"{path} takes {allow}, not {request.method}"
        return refusal_response(MethodNotAllowed(detail, allow), request_id(request.scope))
    if error.status_code < 500:
        return refusal_response(Malformed(str(error.detail)), request_id(request.scope))
    return unexpected_response(error, request_id(request.scope))
