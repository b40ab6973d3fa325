"""Every route of a server with keys, walked from its own reference: who comes in, and who does not."""

import base64
import hashlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx  # verify=False: else each client loads all certificates of the machine
import pytest
from fastapi.routing import APIRoute

from app.api.application import create_app
from app.api.gate import OPEN
from app.api.resource import Resource
from app.api.strict_route import StrictRoute
from app.engine.engine import LocalEngine
from app.settings import load
from tests.harness import SMALL, Server

ALL, READ, MINE, MINE_READ, WRONG = "all-of-it", "only-reads", "mine-alone", "mine-read", "no-key-of-ours"
KEYS = f"""
[[keys]]
name = "mine"
key = "{MINE}"
rights = "write"
collections = ["mine-*"]

[[keys]]
name = "mine-read"
key = "{MINE_READ}"
rights = "read"
collections = ["mine-*"]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("keys")
    (folder / "keys.toml").write_text(KEYS)
    env = {"SEEDVEC_API_KEY": ALL, "SEEDVEC_READ_KEY": READ, "SEEDVEC_KEYS_FILE": str(folder / "keys.toml")}
    with Server(folder / "data", env=SMALL | env) as running:
        yield running


@pytest.fixture(scope="module")
def spec(server: Server) -> dict[str, Any]:
    document: dict[str, Any] = server.client.get("/openapi.json").json()
    return document


def asked(server: Server, method: str, path: str, key: str | None, **more: Any) -> httpx.Response:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return server.client.request(method, path, headers=headers, **more)


def outcome(server: Server, method: str, path: str, key: str | None) -> str:
    """The code of 401 and 403; "in" for everything that a request without a body can come to behind the gate."""
    answer = asked(server, method, path, key)
    assert answer.status_code < 500, (method, path, answer.text)
    return answer.json()["type"].rpartition("/")[2] if answer.status_code in (401, 403) else "in"


def routes(spec: dict[str, Any], collection: str) -> Iterator[tuple[str, str, str, bool]]:
    """Method, path, rights, and whether the path names a collection."""
    for template, methods in spec["paths"].items():
        for method, operation in methods.items():
            path = template.replace("{collection}", collection)
            for parameter in operation.get("parameters", []):
                if parameter["in"] == "path":
                    path = path.replace(f"{{{parameter['name']}}}", "absent")
            yield method.upper(), path, operation["x-rights"], "{collection}" in template


def test_what_each_route_wants(server: Server, spec: dict[str, Any]) -> None:
    wanted, found = {}, {}
    for method, path, rights, is_in_collection in routes(spec, "yours"):
        inside, denied = "in", "forbidden"
        key_wanted = "in" if rights == "open" else "unauthorized"
        wanted[method, path] = {
            None: key_wanted,
            WRONG: key_wanted,
            ALL: inside,
            READ: denied if rights == "write" else inside,
            MINE: inside if rights in ("open", "any") else denied,
            MINE_READ: inside if rights in ("open", "any") else denied,
        }
        found[method, path] = {key: outcome(server, method, path, key) for key in wanted[method, path]}
        assert is_in_collection or rights != "read" or path != "/v1/collections"
    assert found == wanted
    assert len(found) >= 26


def test_a_limited_key_in_its_own_collection(server: Server, spec: dict[str, Any]) -> None:
    for method, path, rights, is_in_collection in routes(spec, "mine-absent"):
        if is_in_collection:
            assert outcome(server, method, path, MINE) == "in", (method, path)
            assert outcome(server, method, path, MINE_READ) == ("forbidden" if rights == "write" else "in")


def test_the_rights_are_the_contracts(spec: dict[str, Any]) -> None:
    """What is open and what only reads, by name: the walk above takes the reference's word for it."""
    by_rights: dict[str, set[str]] = {}
    for methods in spec["paths"].values():
        for operation in methods.values():
            by_rights.setdefault(operation["x-rights"], set()).add(operation["operationId"])
    assert by_rights["open"] == {"livez", "readyz", "problem"}
    assert by_rights["any"] <= {"service", "list_collections", "list_aliases"}
    reads = {"search", "neighbors", "fetch", "get_item", "list", "list_body", "count", "measure_recall", "show_recall"}
    assert reads | {"get_collection"} <= by_rights["read"]
    for name in ("add", "upsert", "delete", "patch", "create_collection", "drop_collection", "rebuild_index"):
        assert name in by_rights["write"]


def test_no_route_is_outside_of_the_walk(tmp_path: Path) -> None:
    settings = load({"data": str(tmp_path)}, {})
    app = create_app(LocalEngine(settings.data, settings), settings)
    routes = [inner for route in app.routes for inner in getattr(route, "original_router", app.router).routes]
    assert {"search", "livez"} <= {getattr(route, "name", "") for route in routes} | {
        operation.name for route in routes if isinstance(route, Resource) for operation in route.operations.values()
    }
    for route in routes:
        if not hasattr(route, "original_router"):
            assert isinstance(route, Resource | StrictRoute) or getattr(route, "path", "") in OPEN, route
            assert not isinstance(route, APIRoute) or route.include_in_schema, route


def test_the_list_shows_a_key_its_own(server: Server) -> None:
    for name in ("mine-1", "yours-1"):
        assert asked(server, "PUT", f"/v1/collections/{name}", ALL, json={"dimension": 2}).status_code in (200, 201)
    assert asked(server, "GET", "/v1/collections", MINE).json() == {"collections": ["mine-1"]}
    assert asked(server, "GET", "/v1/collections", READ).json() == {"collections": ["mine-1", "yours-1"]}
    assert asked(server, "PUT", "/v1/collections/yours-2", MINE, json={"dimension": 2}).status_code == 403
    assert asked(server, "PUT", "/v1/collections/mine-2", MINE, json={"dimension": 2}).status_code == 201
    # Needlessly encoded, it is the same name.
    for path in ("/v1/collections/%79ours-1", "/v1/collections/%79ours-1/count", "/v1/collections/yours%2D1/vectors/1"):
        assert asked(server, "GET", path, MINE).status_code in (403, 405)


def test_a_copy_reads_its_source(server: Server) -> None:
    for name in ("mine-a", "mine-b", "yours-a"):
        assert asked(server, "PUT", f"/v1/collections/{name}", ALL, json={"dimension": 2}).status_code in (200, 201)
    path = "/v1/collections/mine-a/copy"
    assert asked(server, "POST", path, MINE, json={"from": "yours-a"}).json()["type"] == "/problems/forbidden"
    assert asked(server, "POST", path, MINE, json={"from": "mine-b"}).is_success


def test_the_docs_page_runs_its_own_script_alone(server: Server) -> None:
    """A key is typed into it: the policy names the script by its digest, which a browser compares."""
    page = asked(server, "GET", "/docs", None)
    script = re.findall("<script>(.*?)</script>", page.text, re.DOTALL)
    assert len(script) == 1 and " on" + "click=" not in page.text
    policy = page.headers["content-security-policy"]
    assert f"'sha256-{base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy
    assert "authorization" in script[0]


def test_a_measurement_that_calibrates_writes(server: Server) -> None:
    assert asked(server, "PUT", "/v1/collections/mine-r", ALL, json={"dimension": 2}).status_code in (200, 201)
    path, body = "/v1/collections/mine-r/recall", {"queries": [[1, 0]], "calibrate": True}
    assert asked(server, "POST", path, READ, json=body).json()["type"] == "/problems/forbidden"
    assert asked(server, "POST", path, READ, json=body | {"calibrate": False}).status_code != 403
    assert asked(server, "POST", path, MINE, json=body).status_code != 403


def test_keys_are_read_again(server: Server, tmp_path: Path) -> None:
    path = Path(server.env["SEEDVEC_KEYS_FILE"])
    before = path.read_text()

    def status(key: str) -> int:
        return asked(server, "GET", "/v1", key).status_code

    def until(key: str, wanted: int) -> None:
        # Of each worker: the client's connection is one, so new ones are opened.
        ends = time.monotonic() + 30
        while True:
            found = set()
            for _ in range(4):
                with httpx.Client(base_url=server.url, verify=False, trust_env=False) as own:
                    found.add(own.get("/v1", headers={"api-key": key}).status_code)
            if found == {wanted}:
                return
            assert time.monotonic() < ends, (key, wanted, found)
            time.sleep(0.05)

    path.write_text(before + '\n[[keys]]\nname = "new"\nkey = "brand-new"\nrights = "read"\n')
    until("brand-new", 200)
    path.write_text("no keys at all")
    assert status(ALL) == 200
    path.write_text(before)
    until("brand-new", 401)
    assert status(MINE) == 200
