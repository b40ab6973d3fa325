"""docs/api.md is true: its lines are sent in order, its answers come back, no operation and no problem is left out."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.api.problems import TABLE
from tests.harness import ROOT, SMALL, Server
from tests.project import pages

PAGE = (ROOT / "docs" / "api.md").read_text("utf-8")
KEY = "of-the-page-alone"
HEADED = re.compile(r"^### `([A-Z]+) (/\S*)`$", re.MULTILINE)
LISTED = re.compile(r"^\| (\d{3}) \| `([a-z-]+)` \| (.*) \|$", re.MULTILINE)


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that wants a key, and logs each request as JSON."""
    logged = {"SEEDVEC_API_KEY": KEY, "SEEDVEC_ACCESS_LOG": "1", "SEEDVEC_LOG_FORMAT": "json"}
    with Server(tmp_path_factory.mktemp("page") / "data", workers=1, env=SMALL | logged) as running:
        yield running


@pytest.fixture(scope="module")
def ran(keyed: Server, tmp_path_factory: pytest.TempPathFactory) -> list[pages.Ran]:
    return pages.run(PAGE, keyed.url, tmp_path_factory.mktemp("shell"), {"KEY": KEY})


def operations(keyed: Server) -> set[tuple[str, str]]:
    paths: dict[str, dict[str, Any]] = keyed.client.get("/openapi.json").json()["paths"]
    return {(method.upper(), path) for path, methods in paths.items() for method in methods}


def requests_logged(keyed: Server) -> list[tuple[str, str, int]]:
    """Method, path and status of each request."""
    told = [json.loads(line) for line in keyed.log_path.read_text("utf-8").splitlines() if line.startswith("{")]
    return [(t["method"], t["path"], t["status"]) for t in told if t["logger"] == "seedvec.access"]


def test_the_answers_are_those_shown(ran: list[pages.Ran]) -> None:
    for block in ran:
        pages.assert_as_shown(block)


def test_every_operation_has_its_heading(keyed: Server) -> None:
    headed = HEADED.findall(PAGE)
    assert len(headed) == len(set(headed))
    assert set(headed) == operations(keyed)


def test_every_operation_is_called(keyed: Server, ran: list[pages.Ran]) -> None:
    """By the server's own log: under each heading's method, some path of its kind was answered with success."""
    succeeded = [(method, path) for method, path, status in requests_logged(keyed) if 200 <= status < 300]
    for method, path in operations(keyed):
        kind = re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)))
        assert any(m == method and kind.fullmatch(p) for m, p in succeeded), (method, path)


def test_every_problem_is_listed() -> None:
    listed = [(int(status), code, title) for status, code, title in LISTED.findall(PAGE)]
    assert sorted(listed) == sorted((kind.status, code, kind.title) for code, kind in TABLE.items())


def test_what_differs_from_the_page_is_found(tmp_path: Path) -> None:
    """The page's judge itself."""
    shown = pages.Block("json", 0, '{"hits": [{"id": 1, "distance": 0.5, …}, …], "took_ms": 0.7}\n')
    block = pages.Block("sh", 0, "curl …\n")
    right = '{"hits": [{"id": 1, "distance": 0.5, "metadata": null}, {"id": 2}], "took_ms": 9}'
    pages.assert_as_shown(pages.Ran(block, right, [200], shown))
    for wrong in (
        right.replace("0.5", "0.25"),
        right.replace('"took_ms": 9', '"took": 9'),
        right.replace("}]", '}], "more": []', 1),
        '{"hits": [], "took_ms": 9}',
        right + right,
        "",
    ):
        with pytest.raises(AssertionError):
            pages.assert_as_shown(pages.Ran(block, wrong, [200], shown))
    with pytest.raises(AssertionError):
        pages.assert_as_shown(pages.Ran(block, right, [404], shown))
    with pytest.raises(AssertionError, match="false"):
        pages.run("```sh\ntrue\n```\n```sh\nfalse\n```\n", pages.URL, tmp_path, {})
