"""A share of what `make fuzz` does: the reference tried by schemathesis, and requests that no library would send."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz import raw
from tests.fuzz.reference import ENV, PATIENT, Tried, attempt, fill
from tests.harness import Server

CASES = 2
"""Of each operation: positive ones, and as many that are none."""
RAW_CASES = 150


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("fuzzed") / "data", env=ENV | PATIENT) as running:
        yield running


def test_the_reference_promises_what_is(server: Server, tmp_path: Path) -> None:
    options = ["--no-shrink", "--phases", "fuzzing", "--max-examples", str(CASES)]
    tried = attempt(server, tmp_path, options)
    assert tried.status == 0, tried.failures
    assert tried.server_errors == 0
    assert len(tried.by_operation) == operations(server) and tried.cases > 60


def test_what_is_no_request_is_no_fault_of_the_server(server: Server) -> None:
    fill(server)
    answered = raw.attempt(server, RAW_CASES)
    assert answered[200] > 0 and sum(n for status, n in answered.items() if 400 <= status < 500) > RAW_CASES // 4
    assert server.client.get("/readyz").status_code == 200


def test_faults_of_the_server_are_seen() -> None:
    """By what this file asserts."""
    tried = Tried({"GET /x": {200: 3, 500: 1, 503: 2}, "PUT /y": {422: 9}}, "", 0, [0])
    assert (tried.cases, tried.server_errors, tried.never_done) == (15, 1, ["PUT /y"])


def operations(server: Server) -> int:
    paths = server.client.get("/openapi.json").json()["paths"]
    return sum(len(methods) for methods in paths.values())
