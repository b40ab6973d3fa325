"""The error table: every refusal has its row, and what nobody expected shows an id alone."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from starlette.types import Message, Receive, Scope, Send

from app.api import refusals
from app.api.application import create_app
from app.api.problems import TABLE, code_of, refusal_response
from app.api.request_ids import RequestIds
from app.engine import errors
from app.engine.engine import LocalEngine
from app.engine.errors import Fault, Refused
from app.settings import load

EXPECTED = {
    400: {"malformed-body", "malformed-request"},
    401: {"unauthorized"},
    403: {"forbidden"},
    404: {"not-found", "collection-not-found", "id-not-found", "alias-not-found", "snapshot-not-found"},
    405: {"method-not-allowed"},
    408: {"request-timeout"},
    409: {"conflict", "id-exists", "settings-differ", "name-taken", "collection-aliased"},
    413: {"too-large"},
    415: {"unsupported-media-type"},
    422: {
        "invalid-request",
        "unknown-field",
        "dimension-mismatch",
        "not-finite",
        "zero-vector",
        "id-type-mismatch",
        "invalid-filter",
        "invalid-metadata",
        "out-of-range",
        "idempotency-mismatch",
        "bad-file",
        "bad-snapshot",
    },
    429: {"too-many-pending", "rate-limited"},
    431: {"head-too-large"},
    500: {"internal-error"},
    503: {"unavailable", "not-ready", "collection-closed", "outcome-unknown", "overloaded"},
    504: {"deadline-exceeded"},
    507: {"disk-full", "insufficient-memory"},
}


def kinds(base: type[Refused]) -> Iterator[type[Refused]]:
    for kind in base.__subclasses__():
        yield kind
        yield from kinds(kind)


def test_the_table_is_the_contracts() -> None:
    by_status: dict[int, set[str]] = {}
    for code, kind in TABLE.items():
        by_status.setdefault(kind.status, set()).add(code)
    assert by_status == EXPECTED


def test_every_refusal_has_a_row_of_its_own() -> None:
    assert refusals.UnknownField in set(kinds(errors.Refused))
    for kind in kinds(errors.Refused):
        assert kind.code in TABLE, kind
        made = kind("words", "GET") if kind is refusals.MethodNotAllowed else kind("words")  # type: ignore[call-arg]
        assert code_of(made) == kind.code


def test_a_problem() -> None:
    response = refusal_response(errors.IdExists("taken", [Fault("items[0].id", "exists")] * 150, 150), "abc")
    problem = orjson.loads(response.body)
    assert response.status_code == 409 and response.media_type == "application/problem+json"
    assert problem.pop("errors") == [{"where": "items[0].id", "message": "exists"}] * 100
    assert problem == {
        "type": "/problems/id-exists",
        "title": TABLE["id-exists"].title,
        "status": 409,
        "detail": "taken",
        "instance": "abc",
        "error_count": 150,
    }


def test_retry_after() -> None:
    assert refusal_response(errors.Busy("full"), "").headers["retry-after"] == "1"
    assert "retry-after" not in refusal_response(errors.CollectionClosed("damaged"), "").headers


def test_text_that_is_no_utf8_still_answers() -> None:
    assert orjson.loads(refusal_response(errors.IdNotFound("no \ud800"), "").body)["status"] == 404


async def _broken(scope: Scope, receive: Receive, send: Send) -> None:
    raise ZeroDivisionError("secret words")


async def _plain(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def answer(app: Any, headers: list[tuple[bytes, bytes]]) -> tuple[int, dict[bytes, bytes], bytes]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": headers, "query_string": b""}
    asyncio.run(RequestIds(app)(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


def test_the_unexpected_shows_an_id_and_logs_the_stack(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "seedvec.api"):
        status, headers, body = answer(_broken, [(b"x-request-id", b"my-id-1")])
    problem = orjson.loads(body)
    assert (status, problem["type"], problem["instance"]) == (500, "/problems/internal-error", "my-id-1")
    assert headers[b"x-request-id"] == b"my-id-1"
    assert b"secret words" not in body and b"Traceback" not in body
    assert "my-id-1" in caplog.text and "ZeroDivisionError: secret words" in caplog.text


def test_the_unexpected_in_a_route_of_fastapis_is_answered_so_too(tmp_path: Path) -> None:
    settings = load({"data": str(tmp_path)}, {})
    app = create_app(LocalEngine(tmp_path, settings), settings)

    @app.get("/broken")
    async def broken() -> None:
        raise ZeroDivisionError

    async def asked() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
            return await client.get("/broken")

    response = asyncio.run(asked())
    assert (response.status_code, response.json()["type"]) == (500, "/problems/internal-error")


@pytest.mark.parametrize("given", [b"", b"a b", b"a\nb", "é".encode(), b"x" * 129, b'"><script>'])
def test_a_request_id_that_would_spoil_a_log_is_replaced(given: bytes) -> None:
    _, headers, _ = answer(_plain, [(b"x-request-id", given)])
    assert headers[b"x-request-id"] != given and len(headers[b"x-request-id"]) == 16


def test_request_ids_differ() -> None:
    assert answer(_plain, [])[1][b"x-request-id"] != answer(_plain, [])[1][b"x-request-id"]
