"""The reference: every operation has an example and its problems, and the examples work as they stand."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.api import examples
from app.api.problems import TABLE
from tests.harness import Server

METHODS = ("get", "put", "post", "patch", "delete")
FIRST_VISIT = [
    "create_collection",
    "add",
    "upsert",
    "list",
    "list_body",
    "fetch",
    "count",
    "patch_item",
    "patch",
    "get_item",
    "search",
    "neighbors",
    "measure_recall",
    "show_recall",
    "export",
    "import",
    "copy",
    "truncate",
    "delete",
    "rebuild_index",
    "cancel_build",
    "change_collection",
    "get_collection",
    "list_collections",
    "put_alias",
    "list_aliases",
    "delete_alias",
    "take_snapshot",
    "list_snapshots",
    "get_snapshot",
    "restore_snapshot",
    "download_snapshot",
    "delete_snapshot",
    "upload_snapshot",
    "service",
    "problem",
    "livez",
    "readyz",
    "metrics",
    "delete_item",
    "drop_collection",
]
"""The order in which the examples make sense."""


@pytest.fixture(scope="module")
def client(shared_server: Server) -> httpx.Client:
    return shared_server.client


@pytest.fixture(scope="module")
def spec(client: httpx.Client) -> dict[str, Any]:
    document: dict[str, Any] = client.get("/openapi.json").json()
    return document


def operations(spec: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            assert method in METHODS
            yield path, method, operation


def bodies(operation: dict[str, Any]) -> list[Any]:
    if "application/json" not in operation.get("requestBody", {}).get("content", {}):
        return [None]
    return [
        example["value"] for example in operation["requestBody"]["content"]["application/json"]["examples"].values()
    ]


def test_the_operations_are_these(spec: dict[str, Any]) -> None:
    assert sorted(operation["operationId"] for _, _, operation in operations(spec)) == sorted(FIRST_VISIT)


def test_every_operation_has_an_example_and_its_problems(spec: dict[str, Any]) -> None:
    for path, method, operation in operations(spec):
        name = f"{method} {path}"
        assert operation["summary"] and operation["tags"], name
        assert bodies(operation), name
        for parameter in operation.get("parameters", []):
            if parameter["in"] == "path":
                assert "example" in parameter or parameter["schema"].get("examples"), name
        statuses = set(operation["responses"])
        assert any(status.startswith("2") for status in statuses), name
        assert {"422", "500"} <= statuses, name
        for status, response in operation["responses"].items():
            if status.startswith("2"):
                content = response.get("content", {})
                files = "application/x-tar" in content
                assert status == "204" or files or any("example" in media for media in content.values()), name
                continue
            for code, example in response["content"]["application/problem+json"]["examples"].items():
                assert TABLE[code].status == int(status) == example["value"]["status"], name


def test_everything_is_described_and_has_its_place(spec: dict[str, Any]) -> None:
    used = set()
    for path, method, operation in operations(spec):
        name = f"{method} {path}"
        assert operation["description"], name
        assert len(operation["tags"]) == 1, name
        used |= set(operation["tags"])
        for parameter in operation.get("parameters", []):
            assert parameter.get("description") or parameter["schema"].get("description"), (name, parameter["name"])
    assert used == {tag["name"] for tag in spec["tags"]}
    assert all(tag["description"] for tag in spec["tags"])


def test_every_reference_resolves(spec: dict[str, Any]) -> None:
    def walk(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            for child in node.values():
                yield from walk(child)
        elif isinstance(node, list):
            for child in node:
                yield from walk(child)

    references = set(walk(spec))
    assert references
    for reference in references:
        assert reference.removeprefix("#/components/schemas/") in spec["components"]["schemas"]


def same_shape(documented: Any, answered: Any, where: str) -> None:
    """Every field that is documented is answered, and no other; free metadata aside."""
    if isinstance(documented, dict) and isinstance(answered, dict):
        if where.endswith((".metadata", ".wanted", ".limits", ".closed")):
            return
        optional = {"first_id", "explanation"}
        assert set(documented) - optional == set(answered) - optional, where
        for name, value in documented.items():
            same_shape(value, answered.get(name), f"{where}.{name}")
    elif isinstance(documented, list) and isinstance(answered, list) and documented and answered:
        same_shape(documented[0], answered[0], f"{where}[0]")


def test_the_examples_work(client: httpx.Client, spec: dict[str, Any]) -> None:
    by_name = {operation["operationId"]: (path, method, operation) for path, method, operation in operations(spec)}
    files = {"upload_snapshot": b"", "import": b""}
    for name in FIRST_VISIT:
        path, method, operation = by_name[name]
        for parameter in operation.get("parameters", []):
            if parameter["in"] == "path":
                example = parameter.get("example") or parameter["schema"]["examples"][0]
                path = path.replace(f"{{{parameter['name']}}}", str(example))
        for i, body in enumerate(bodies(operation)):
            sent: dict[str, Any] = {} if body is None else {"json": body}
            if name in files:
                sent = {"content": files[name], "params": {"mode": "upsert"} if name == "import" else {}}
            response = client.request(method, path, **sent)
            assert response.is_success, (name, body, response.text)
            documented = operation["responses"][str(response.status_code)]
            if name in ("download_snapshot", "export"):
                files["upload_snapshot" if name == "download_snapshot" else "import"] = response.content
            elif i == 0 and response.headers.get("content-type") == "application/json":
                same_shape(documented["content"]["application/json"]["example"], response.json(), name)
    assert client.get(f"/v1/collections/{examples.COLLECTION}").status_code == 404


def test_the_page_needs_nothing_from_elsewhere(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    text = page.text.lower()
    assert "/openapi.json" in text
    for outside in ("http:", "https:", "src=", "@import", " url("):
        assert outside not in text


def test_every_problem_type_is_explained(client: httpx.Client) -> None:
    for code, kind in TABLE.items():
        explained = client.get(f"/problems/{code}").json()
        assert (explained["status"], explained["title"]) == (kind.status, kind.title)
        assert explained["explanation"]
