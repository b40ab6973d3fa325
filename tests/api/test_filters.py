"""Filters over HTTP: every route that takes one, by body and by query string, with good ones and bad ones."""

import io
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest

from tests.api.test_bad_input import JSON, NPY, npy, problem_of
from tests.filter_reference import matches
from tests.harness import Server

PATH = "/v1/collections/books"
ITEMS: list[dict[str, Any]] = [
    {"kind": "novel", "pages": 300, "tags": ["sea", "war"], "by": {"name": "Ä"}},
    {"kind": "novel", "pages": 120.5, "tags": [], "by": {"name": "B"}},
    {"kind": "poem", "pages": 2**53 + 1, "tags": ["sea"], "by": None},
    {"kind": None, "pages": True},
    {},
    {"kind": ["novel", "poem"], "pages": "300", "by": {"name": None}},
]
FILTERS: list[dict[str, Any]] = [
    {},
    {"$or": []},
    {"kind": "novel"},
    {"kind": {"$ne": "novel"}},
    {"kind": {"$in": ["poem", None]}},
    {"kind": {"$exists": False}},
    {"pages": {"$gte": 120, "$lt": 301}},
    {"pages": {"$gt": 2.0**53}},
    {"pages": True},
    {"tags": "sea", "$not": {"tags": "war"}},
    {"tags": {"$all": ["war", "sea"]}},
    {"tags": {"$size": 0}},
    {"by.name": {"$prefix": ""}},
    {"by.name": None},
    {"$or": [{"by": None}, {"by.name": "Ä"}]},
    {"kind": {"$contains": "o"}, "pages": {"$not": {"$exists": True}}},
    {"kind": {"$nin": [f"k{i}" for i in range(20_000)]}},
]


def vector(i: int) -> list[float]:
    return [1.0, float(i), 0.0, 0.0]


@pytest.fixture(scope="module")
def client(shared_server: Server) -> Iterator[httpx.Client]:
    yield shared_server.client


@pytest.fixture(autouse=True)
def books(client: httpx.Client) -> Iterator[None]:
    """The collection as above, anew for each test."""
    client.delete(PATH)
    assert client.put(PATH, json={"dimension": 4, "metric": "l2", "id_type": "int"}).status_code == 201
    items = [{"id": i, "vector": vector(i), "metadata": item} for i, item in enumerate(ITEMS)]
    del items[4]["metadata"]
    assert client.post(f"{PATH}/vectors", json={"items": items}).status_code == 201
    yield


def wanted(filter: dict[str, Any]) -> list[int]:
    return [i for i, item in enumerate(ITEMS) if matches(filter, item)]


def found(response: httpx.Response) -> list[int]:
    assert response.status_code == 200, response.text
    return [hit["id"] for hit in response.json()["hits"]]


def text(filter: Any) -> str:
    return quote(filter if isinstance(filter, str) else json.dumps(filter, ensure_ascii=False), safe="")


SHORT = [filter for filter in FILTERS if len(json.dumps(filter)) < 10_000]


@pytest.mark.parametrize("filter", FILTERS, ids=lambda filter: json.dumps(filter)[:40])
def test_every_route_takes_it_in_its_body(client: httpx.Client, filter: dict[str, Any]) -> None:
    ids = wanted(filter)
    query = {"vector": vector(0), "filter": filter}
    assert found(client.post(f"{PATH}/search", json=query)) == ids
    assert found(client.post(f"{PATH}/search", json=query | {"exact": True, "k": 2})) == ids[:2]
    several = client.post(f"{PATH}/search", json={"vectors": [vector(0), vector(9)], "filter": filter}).json()
    assert [[hit["id"] for hit in one["hits"]] for one in several["results"]] == [ids, ids[::-1]]
    assert found(client.post(f"{PATH}/search", json={"id": 0, "filter": filter})) == [i for i in ids if i != 0]
    listed = client.post(f"{PATH}/vectors/list", json={"filter": filter}).json()
    assert [item["id"] for item in listed["items"]] == ids
    assert client.post(f"{PATH}/count", json={"filter": filter}).json() == {"count": len(ids)}
    more = {} if filter else {"all": True}
    dry = client.post(f"{PATH}/vectors/delete", json={"filter": filter, "dry_run": True, **more})
    assert dry.json() == {"deleted": len(ids)}
    dry = client.post(f"{PATH}/vectors/patch", json={"filter": filter, "metadata": {}, "dry_run": True, **more})
    assert dry.json() == {"patched": len(ids)}
    assert client.post(f"{PATH}/count", json={}).json() == {"count": len(ITEMS)}


@pytest.mark.parametrize("filter", SHORT, ids=lambda filter: json.dumps(filter)[:40])
def test_every_route_takes_it_in_its_query_string(client: httpx.Client, filter: dict[str, Any]) -> None:
    ids = wanted(filter)
    assert found(client.get(f"{PATH}/neighbors/0?k=10&filter={text(filter)}")) == [i for i in ids if i != 0]
    listed = client.get(f"{PATH}/vectors?filter={text(filter)}&include=vector").json()
    assert [item["id"] for item in listed["items"]] == ids
    body = npy(np.array(vector(0), np.float32))
    assert found(client.post(f"{PATH}/search?filter={text(filter)}", content=body, headers=NPY)) == ids
    arrays = client.post(
        f"{PATH}/search?k=6&filter={text(filter)}", content=body, headers=NPY | {"accept": "application/x-npz"}
    )
    with np.load(io.BytesIO(arrays.content)) as answer:
        assert answer["ids"].tolist() == [ids + [-1] * (6 - len(ids))]


def test_pages_of_what_matches(client: httpx.Client) -> None:
    filter = {"kind": {"$exists": True}}
    seen: list[int] = []
    cursor: str | None = None
    for _ in range(10):
        body = {"filter": filter, "limit": 2} | ({"cursor": cursor} if cursor else {})
        page = client.post(f"{PATH}/vectors/list", json=body).json()
        seen += [item["id"] for item in page["items"]]
        assert len(page["items"]) <= 2
        cursor = page["next"]
        if cursor is None:
            break
    assert seen == wanted(filter)


def test_explain(client: httpx.Client) -> None:
    query = {"vector": vector(0), "k": 2, "filter": {"kind": "novel"}}
    assert "explain" not in client.post(f"{PATH}/search", json=query).json()
    for response in (
        client.post(f"{PATH}/search", json=query | {"explain": True}),
        client.get(f"{PATH}/neighbors/4?explain=true&filter={text({'kind': 'novel'})}"),
    ):
        explained = response.json()["explain"]
        assert explained["rows"] == len(ITEMS)
        assert explained["matching"] == 3
    assert client.post(f"{PATH}/search", json={"vector": vector(0), "explain": True}).json()["explain"]
    response = client.post(f"{PATH}/search", json=query | {"explain": True}, headers={"accept": "application/x-npz"})
    problem_of(response, 422, "invalid-request", "explain")


def test_delete_what_matches(client: httpx.Client) -> None:
    body = {"filter": {"kind": "novel"}}
    key = {"idempotency-key": "once"}
    assert client.post(f"{PATH}/vectors/delete", json=body, headers=key).json() == {"deleted": 3}
    assert client.post(f"{PATH}/vectors/delete", json=body).json() == {"deleted": 0}
    assert client.post(f"{PATH}/vectors/delete", json=body, headers=key).json() == {"deleted": 3}
    other = client.post(f"{PATH}/vectors/delete", json={"filter": {"kind": "poem"}}, headers=key)
    problem_of(other, 422, "idempotency-mismatch", None)
    assert [item["id"] for item in client.get(f"{PATH}/vectors").json()["items"]] == [2, 3, 4]
    everything = {"filter": {"kind": {"$nin": []}}, "all": True}
    assert client.post(f"{PATH}/vectors/delete", json=everything).json() == {"deleted": 3}


def metadata_of(client: httpx.Client) -> list[Any]:
    answer = client.post(f"{PATH}/vectors/fetch", json={"ids": list(range(6)), "include": ["metadata"]})
    return [item["metadata"] for item in answer.json()["items"]]


def test_patch_what_matches(client: httpx.Client) -> None:
    before = metadata_of(client)
    body = {"filter": {"kind": "novel"}, "metadata": {"pages": None, "by": {"born": 1900}, "read": True}}
    key = {"idempotency-key": "once"}
    for _ in range(2):
        assert client.post(f"{PATH}/vectors/patch", json=body, headers=key).json() == {"patched": 3}
    after = metadata_of(client)
    assert after[0] == {"kind": "novel", "tags": ["sea", "war"], "by": {"name": "Ä", "born": 1900}, "read": True}
    assert after[5] == {"kind": ["novel", "poem"], "by": {"name": None, "born": 1900}, "read": True}
    assert after[2:5] == before[2:5]
    assert client.post(f"{PATH}/count", json={"filter": {"read": True}}).json() == {"count": 3}
    assert client.post(f"{PATH}/count", json={"filter": {"pages": {"$exists": True}}}).json() == {"count": 2}
    assert found(client.post(f"{PATH}/search", json={"vector": vector(0), "filter": {"by.born": 1900}})) == [0, 1, 5]


def test_patch_by_id_and_all(client: httpx.Client) -> None:
    answer = client.post(f"{PATH}/vectors/patch", json={"ids": [4, 99, 3, 4], "metadata": {"kind": "map"}})
    assert answer.json() == {"patched": 2}
    assert metadata_of(client)[3:5] == [{"kind": "map", "pages": True}, {"kind": "map"}]
    body = {"filter": {}, "metadata": {"kind": None}}
    problem_of(client.post(f"{PATH}/vectors/patch", json=body), 422, "invalid-request", "filter")
    assert client.post(f"{PATH}/vectors/patch", json=body | {"all": True}).json() == {"patched": 6}
    assert client.post(f"{PATH}/count", json={"filter": {"kind": {"$exists": True}}}).json() == {"count": 0}
    assert client.post(f"{PATH}/vectors/patch", json=body | {"all": True, "dry_run": True}).json() == {"patched": 6}


def test_a_hundred_thousand_values(client: httpx.Client) -> None:
    values: list[Any] = [f"k{i}" for i in range(99_999)]
    body = {"vector": vector(0), "filter": {"kind": {"$in": [*values, "poem"]}}}
    assert found(client.post(f"{PATH}/search", json=body)) == [2, 5]
    body = {"vector": vector(0), "filter": {"kind": {"$in": [*values, "poem", "novel"]}}}
    problem = problem_of(client.post(f"{PATH}/search", json=body), 422, "invalid-filter", "filter.kind.$in")
    assert "100000" in problem["detail"]


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {"kind": "novel"}
    for _ in range(levels - 1):
        value = {"$or": [value]}
    return value


BAD: dict[str, tuple[Any, str, str | None]] = {
    "unknown operator": ({"kind": {"$regex": "n"}}, "invalid-filter", "filter.kind.$regex"),
    "unknown at the top": ({"$nor": []}, "invalid-filter", "filter.$nor"),
    "operand": ({"$and": [{}, {}, {"pages": {"$gte": [1]}}]}, "invalid-filter", "filter.$and[2].pages.$gte"),
    "object operand": ({"by": {"name": "B"}}, "invalid-filter", "filter.by.name"),
    "array operand": ({"kind": ["novel"]}, "invalid-filter", "filter.kind"),
    "empty operators": ({"kind": {}}, "invalid-filter", "filter.kind"),
    "a value of an array": ({"kind": {"$in": ["a", {}]}}, "invalid-filter", "filter.kind.$in[1]"),
    "too deep": (nested(17), "invalid-filter", "filter" + ".$or[0]" * 16),
    "too large": ({"$or": [{"pages": i} for i in range(1000)]}, "invalid-filter", "filter.$or[999].pages"),
    "no object": ([], "invalid-filter", "filter"),
    "null": (None, "invalid-filter", "filter"),
    "a string": ("kind", "invalid-filter", "filter"),
    "not finite": ('{"pages": {"$gt": 1e400}}', "not-finite", "filter.pages.$gt"),
    "too many digits": ('{"pages": ' + "1" * 5000 + "}", "out-of-range", "filter"),
}
ROUTES: dict[str, tuple[str, dict[str, Any]]] = {
    "search": ("search", {"vector": vector(0)}),
    "search by id": ("search", {"id": 0}),
    "list": ("vectors/list", {}),
    "count": ("count", {}),
    "delete": ("vectors/delete", {}),
    "patch": ("vectors/patch", {"metadata": {"x": 1}}),
}


def written(filter: Any) -> str:
    """As JSON; a text that begins like an object is JSON already, such as `json.dumps` could not make."""
    return filter if isinstance(filter, str) and filter.startswith("{") else json.dumps(filter)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", BAD)
def test_bad_ones_in_a_body(client: httpx.Client, route: str, name: str) -> None:
    filter, code, where = BAD[name]
    path, more = ROUTES[route]
    content = json.dumps(more).removesuffix("}") + (", " if more else "") + f'"filter": {written(filter)}}}'
    response = client.post(f"{PATH}/{path}", content=content, headers=JSON)
    problem_of(response, 422, code, where)
    assert client.post(f"{PATH}/count", json={}).json() == {"count": len(ITEMS)}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "filter", ['{"pages": NaN}', '{"pages": 01}', '{"kind": "\\ud800"}', '{"kind": nul}', '{"kind"}']
)
def test_no_json_in_a_body(client: httpx.Client, route: str, filter: str) -> None:
    path, more = ROUTES[route]
    content = json.dumps(more).removesuffix("}") + (", " if more else "") + f'"filter": {filter}}}'
    problem_of(client.post(f"{PATH}/{path}", content=content, headers=JSON), 400, "malformed-body", None)


def test_far_too_deep(client: httpx.Client) -> None:
    """So deep that no decoder goes there, and as deep as a decoder still does."""
    for levels, statuses in ((100_000, {400}), (1_000, {400, 422}), (300, {422})):
        deep = b'{"$not":' * levels + b"{}" + b"}" * levels
        for path, more in ROUTES.values():
            content = (
                json.dumps(more).encode().removesuffix(b"}") + (b", " if more else b"") + b'"filter": ' + deep + b"}"
            )
            response = client.post(f"{PATH}/{path}", content=content, headers=JSON)
            assert response.status_code in statuses, response.text
    query = text('{"$not":' * 3_000 + "{}" + "}" * 3_000)
    response = client.get(f"{PATH}/vectors?filter={query}")
    problem_of(response, 422, "invalid-filter", "filter")


def test_no_utf8_in_a_body(client: httpx.Client) -> None:
    response = client.post(f"{PATH}/count", content=b'{"filter": {"kind": "\xff"}}', headers=JSON)
    problem_of(response, 400, "malformed-body", None)


@pytest.mark.parametrize("name", BAD)
def test_bad_ones_in_a_query_string(client: httpx.Client, name: str) -> None:
    filter, code, where = BAD[name]
    query = f"filter={text(written(filter))}"
    problem_of(client.get(f"{PATH}/neighbors/0?{query}"), 422, code, where)
    problem_of(client.get(f"{PATH}/vectors?{query}"), 422, code, where)
    body = npy(np.array(vector(0), np.float32))
    problem_of(client.post(f"{PATH}/search?{query}", content=body, headers=NPY), 422, code, where)


@pytest.mark.parametrize("filter", ["", "x", "{", "{'a': 1}", '{"a": NaN}', "null", "[]", '{"a": "\\ud800"}'])
def test_no_json_in_a_query_string(client: httpx.Client, filter: str) -> None:
    for path in (f"{PATH}/neighbors/0", f"{PATH}/vectors"):
        problem_of(client.get(f"{path}?filter={text(filter)}"), 422, "invalid-filter", "filter")


def test_query_strings_that_are_none(client: httpx.Client) -> None:
    one = text({"kind": "novel"})
    problem_of(client.get(f"{PATH}/vectors?filter={one}&filter={one}"), 422, "invalid-request", "filter")
    problem_of(client.get(f"{PATH}/vectors?filter=%7B%22a%22:%22%ff%22%7D"), 422, "invalid-request", "query")
    problem_of(client.get(f"{PATH}/neighbors/0?explain=perhaps"), 422, "invalid-request", "explain")
    response = client.post(f"{PATH}/search?filter={one}", json={"vector": vector(0)})
    problem_of(response, 422, "invalid-request", "query")
    for path in ("count", "vectors/patch", "vectors/delete", "vectors/list"):
        problem_of(client.post(f"{PATH}/{path}?filter={one}", json={}), 422, "unknown-field", "filter")


def test_every_mistake_is_named(client: httpx.Client) -> None:
    filter = {"kind": {"$regex": "n"}, "$or": [{"pages": {"$gt": None}}, {"tags": {"$in": [[]] * 200}}]}
    problem = problem_of(client.post(f"{PATH}/count", json={"filter": filter}), 422, "invalid-filter", None)
    assert [error["where"] for error in problem["errors"][:3]] == [
        "filter.kind.$regex",
        "filter.$or[0].pages.$gt",
        "filter.$or[1].tags.$in[0]",
    ]
    assert (len(problem["errors"]), problem["error_count"]) == (100, 202)


OTHERS: list[tuple[str, Any, str, str]] = [
    ("vectors/patch", {"ids": [1]}, "invalid-request", "metadata"),
    ("vectors/patch", {"metadata": {}}, "invalid-request", "ids"),
    ("vectors/patch", {"metadata": {}, "ids": [1], "filter": {"kind": 1}}, "invalid-request", "ids"),
    ("vectors/patch", {"metadata": {}, "ids": [1], "all": True}, "invalid-request", "all"),
    ("vectors/patch", {"metadata": {}, "filter": {"kind": 1}, "all": True}, "invalid-request", "all"),
    ("vectors/patch", {"metadata": {}, "filter": {"$and": [{}]}}, "invalid-request", "filter"),
    ("vectors/patch", {"metadata": {}, "ids": ["a"]}, "id-type-mismatch", "ids[0]"),
    ("vectors/patch", {"metadata": {}, "ids": [-1]}, "out-of-range", "ids[0]"),
    ("vectors/patch", {"metadata": {}, "ids": list(range(10_001))}, "out-of-range", "ids"),
    ("vectors/patch", {"metadata": None, "ids": [1]}, "invalid-metadata", "metadata"),
    ("vectors/patch", {"metadata": [1], "ids": [1]}, "invalid-metadata", "metadata"),
    ("vectors/patch", {"metadata": {"a": {"$b": 1}}, "ids": [1]}, "invalid-metadata", "metadata.a.$b"),
    ("vectors/patch", {"metadata": {"a.b": 1}, "filter": {"kind": 1}}, "invalid-metadata", "metadata.a.b"),
    ("vectors/patch", {"metadata": {}, "ids": [1], "vector": [1]}, "unknown-field", "vector"),
    ("vectors/patch", {"metadata": {}, "ids": [1], "dry_run": 1}, "invalid-request", "dry_run"),
    ("vectors/delete", {"filter": {"$not": {"$or": []}}}, "invalid-request", "filter"),
    ("count", {"where": {}}, "unknown-field", "where"),
    ("count", [], "invalid-request", "body"),
    ("search", {"vector": [1, 0, 0, 0], "explain": 1}, "invalid-request", "explain"),
]


@pytest.mark.parametrize(("path", "body", "code", "where"), OTHERS, ids=lambda value: str(value)[:60])
def test_bad_bodies(client: httpx.Client, path: str, body: Any, code: str, where: str) -> None:
    before = metadata_of(client)
    problem_of(client.post(f"{PATH}/{path}", json=body), 422, code, where)
    assert metadata_of(client) == before


def test_metadata_that_would_grow_too_large(client: httpx.Client) -> None:
    """One item over the bound refuses the whole patch."""
    before = metadata_of(client)
    assert client.patch(f"{PATH}/vectors/1", json={"metadata": {"long": "x" * 40_000}}).status_code == 200
    body = {"filter": {"kind": "novel"}, "metadata": {"longer": "x" * 40_000}}
    problem_of(client.post(f"{PATH}/vectors/patch", json=body), 422, "out-of-range", None)
    after = metadata_of(client)
    assert after[0] == before[0]
    assert set(after[1]) == {*before[1], "long"}


def test_limits_are_shown(client: httpx.Client) -> None:
    limits = client.get("/v1").json()["limits"]
    assert (limits["filter_depth_max"], limits["filter_nodes_max"], limits["filter_values_max"]) == (16, 1000, 100_000)
    assert limits["patch_ids_max"] == 10_000
