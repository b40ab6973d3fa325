"""Bad input against the real server: the exact status, type and place of the contract, and nothing stored."""

import io
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from app.settings import Settings
from tests.harness import Server

JSON = {"content-type": "application/json"}
NPY = {"content-type": "application/x-npy"}
INTS = "/v1/collections/ints"
STRS = "/v1/collections/strs"


def npy(array: Any, allow_pickle: bool = False) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=allow_pickle)
    return out.getvalue()


@pytest.fixture(scope="module")
def client(shared_server: Server) -> Iterator[httpx.Client]:
    """A cosine collection of ints (float32) and one of strings (l2, float16), three items each, for all tests here."""
    client = shared_server.client
    ints = {"dimension": 4, "metric": "cosine", "id_type": "int"}
    strs = {"dimension": 4, "metric": "l2", "dtype": "float16", "id_type": "str"}
    for path, settings, ids in ((INTS, ints, [1, 2, 3]), (STRS, strs, ["a", "b", "c"])):
        assert client.put(path, json=settings).status_code == 201
        assert client.post(f"{path}/vectors", json={"ids": ids, "vectors": np.eye(4)[:3].tolist()}).status_code == 201
    yield client


def everything(client: httpx.Client) -> list[Any]:
    include = ["metadata", "vector"]
    return [client.post(f"{path}/vectors/list", json={"include": include}).json() for path in (INTS, STRS)]


def problem_of(response: httpx.Response, status: int, code: str, where: str | None) -> dict[str, Any]:
    """The problem, held to its form."""
    problem: dict[str, Any] = response.json()
    assert (response.status_code, problem["type"]) == (status, f"/problems/{code}"), problem
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["status"] == status and problem["title"] and problem["detail"]
    assert problem["instance"] == response.headers["x-request-id"]
    if where is not None:
        assert problem["errors"][0]["where"] == where, problem
        assert problem["error_count"] >= len(problem["errors"]) > 0
    return problem


def items(*vectors: list[Any], ids: list[Any] | None = None) -> dict[str, Any]:
    given = ids if ids is not None else list(range(10, 10 + len(vectors)))
    return {"items": [{"id": id, "vector": vector} for id, vector in zip(given, vectors, strict=True)]}


JSON_BODY_BYTES_MAX, NPY_BODY_BYTES_MAX = Settings().json_body_bytes, Settings().npy_body_bytes

E4 = [1, 0, 0, 0]
MANY = [E4] * 17

BAD_JSON_WRITES: dict[str, tuple[str, Any, int, str, str | None]] = {
    "NaN": (INTS, b'{"items": [{"id": 9, "vector": [1, 0, 0, NaN]}]}', 400, "malformed-body", None),
    "Infinity": (INTS, b'{"items": [{"id": 9, "vector": [1, 0, 0, Infinity]}]}', 400, "malformed-body", None),
    "1e400": (INTS, b'{"items": [{"id": 9, "vector": [1, 0, 0, 1e400]}]}', 422, "not-finite", "items[0].vector[3]"),
    "no float32": (INTS, items(*MANY, [1e39, 0, 0, 0]), 422, "not-finite", "items[17].vector"),
    "no float16": (STRS, items(E4, [70000, 0, 0, 0], ids=["x", "y"]), 422, "not-finite", "items[1].vector"),
    "columns no float32": (INTS, {"vectors": [E4, [0, -1e39, 0, 0]]}, 422, "not-finite", "vectors[1]"),
    "wrong dimension": (INTS, items(*MANY, [1, 2, 3]), 422, "dimension-mismatch", "items[17].vector"),
    "ragged columns": (INTS, {"vectors": [E4, E4, [1]]}, 422, "dimension-mismatch", "vectors[2]"),
    "zero under cosine": (INTS, items(E4, [0, 0, 0, 0]), 422, "zero-vector", "items[1].vector"),
    "zero in float32": (INTS, items([1e-60, 0, 0, 0]), 422, "zero-vector", "items[0].vector"),
    "str id": (INTS, items(E4, E4, ids=["x", "y"]), 422, "id-type-mismatch", "items[0].id"),
    "int id": (STRS, items(E4, ids=[7]), 422, "id-type-mismatch", "items[0].id"),
    "mixed ids": (INTS, items(E4, E4, ids=[10, "x"]), 422, "id-type-mismatch", "items[1].id"),
    "negative id": (INTS, items(E4, ids=[-1]), 422, "out-of-range", "items[0].id"),
    "id of 64 bits": (INTS, items(E4, ids=[2**63]), 422, "out-of-range", "items[0].id"),
    "float id": (INTS, items(E4, ids=[1.5]), 422, "invalid-request", "items[0].id"),
    "empty id": (STRS, items(E4, ids=[""]), 422, "out-of-range", "items[0].id"),
    "NUL in an id": (STRS, items(E4, ids=["a\0b"]), 422, "out-of-range", "items[0].id"),
    "513 bytes": (STRS, items(E4, ids=["é" * 257]), 422, "out-of-range", "items[0].id"),
    "existing id": (INTS, items(E4, E4, ids=[10, 2]), 409, "id-exists", "items[1].id"),
    "existing str id": (STRS, items(E4, E4, ids=["new", "b"]), 409, "id-exists", "items[1].id"),
    "twice in the body": (INTS, items(E4, E4, E4, ids=[10, 11, 10]), 409, "id-exists", "items[2].id"),
    "twice in columns": (INTS, {"ids": [10, 10], "vectors": [E4, E4]}, 409, "id-exists", "ids[1]"),
    "empty body": (INTS, b"", 400, "malformed-body", None),
    "cut off": (INTS, b'{"items": [{"id": 9, "vector": [1, 0', 400, "malformed-body", None),
    "no UTF-8": (STRS, b'{"ids": ["\xff"], "vectors": [[1, 0, 0, 0]]}', 400, "malformed-body", None),
    "nothing to add": (INTS, {"items": []}, 422, "out-of-range", "items"),
    "unknown field": (INTS, {"items": [{"vector": E4, "meta": {}}]}, 422, "unknown-field", "items[0].meta"),
    "unknown field above": (INTS, {"vectors": [E4], "mode": "upsert"}, 422, "unknown-field", "mode"),
    "text in a vector": (INTS, items(E4, [1, "0", 0, 0]), 422, "invalid-request", "items[1].vector[1]"),
    "bool in a vector": (INTS, items([True, 0, 0, 0]), 422, "invalid-request", "items[0].vector[0]"),
    "metadata no object": (INTS, {"vectors": [E4], "metadata": [7]}, 422, "invalid-metadata", "metadata[0]"),
    "metadata key": (INTS, {"vectors": [E4], "metadata": [{"a.b": 1}]}, 422, "invalid-metadata", "metadata[0].a.b"),
}


BAD_FOR_BOTH = [name for name, case in BAD_JSON_WRITES.items() if case[3] != "id-exists"]
"""An upsert takes an id that exists, and of two the last."""


@pytest.mark.parametrize(
    ("method", "name"), [*(("POST", name) for name in BAD_JSON_WRITES), *(("PUT", name) for name in BAD_FOR_BOTH)]
)
def test_bad_writes(client: httpx.Client, method: str, name: str) -> None:
    path, body, status, code, where = BAD_JSON_WRITES[name]
    before = everything(client)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    problem_of(client.request(method, f"{path}/vectors", content=content, headers=JSON), status, code, where)
    assert everything(client) == before


F = np.float32
BAD_ARRAYS: dict[str, tuple[str, bytes, int, str, str | None]] = {
    "NaN": ("", npy(np.array([E4, [1, 0, np.nan, 0]], F)), 422, "not-finite", "row 1"),
    "infinity": ("", npy(np.array([E4, E4, [np.inf, 0, 0, 0]], F)), 422, "not-finite", "row 2"),
    "float64 too large": ("", npy(np.array([E4, [1e39, 0, 0, 0]])), 422, "not-finite", "row 1"),
    "zero under cosine": ("", npy(np.array([E4, [0, 0, 0, 0]], F)), 422, "zero-vector", "row 1"),
    "wrong dimension": ("", npy(np.ones((2, 3), F)), 422, "dimension-mismatch", "shape"),
    "three dimensions": ("", npy(np.ones((2, 2, 4), F)), 422, "invalid-request", "shape"),
    "no rows": ("", npy(np.ones((0, 4), F)), 422, "invalid-request", "shape"),
    "ints": ("", npy(np.ones((2, 4), np.int32)), 422, "invalid-request", "dtype"),
    "pickle": ("", npy(np.array([[print]]), allow_pickle=True), 400, "malformed-body", None),
    "cut off": ("", npy(np.ones((2, 4), F))[:-3], 400, "malformed-body", None),
    "no npy": ("", b"not an array", 400, "malformed-body", None),
    "empty": ("", b"", 400, "malformed-body", None),
    "first_id no number": ("?first_id=x", npy(np.ones((2, 4), F)), 422, "invalid-request", "first_id"),
    "first_id too large": (f"?first_id={2**63 - 1}", npy(np.ones((2, 4), F)), 422, "out-of-range", "first_id"),
    "unknown parameter": ("?ids=1", npy(np.ones((2, 4), F)), 422, "unknown-field", "ids"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_bad_arrays(client: httpx.Client, name: str) -> None:
    query, body, status, code, where = BAD_ARRAYS[name]
    before = everything(client)
    problem_of(client.post(f"{INTS}/vectors{query}", content=body, headers=NPY), status, code, where)
    assert everything(client) == before


def test_npy_rows_that_exist(client: httpx.Client) -> None:
    before = everything(client)
    response = client.post(f"{INTS}/vectors?first_id=3", content=npy(np.ones((2, 4), F)), headers=NPY)
    problem_of(response, 409, "id-exists", "row 0")
    assert everything(client) == before


BAD_SEARCHES: dict[str, tuple[Any, int, str, str | None]] = {
    "k of 0": ({"vector": E4, "k": 0}, 422, "out-of-range", "k"),
    "k above the limit": ({"vector": E4, "k": 10_001}, 422, "out-of-range", "k"),
    "k no int": ({"vector": E4, "k": 2.5}, 422, "invalid-request", "k"),
    "k a bool": ({"vector": E4, "k": True}, 422, "invalid-request", "k"),
    "nothing": ({}, 422, "invalid-request", "vector"),
    "two of three": ({"vector": E4, "id": 1}, 422, "invalid-request", "vector"),
    "wrong dimension": ({"vector": [1, 2]}, 422, "dimension-mismatch", "vector"),
    "wrong dimension of one": ({"vectors": [E4, [1, 2]]}, 422, "dimension-mismatch", "vectors[1]"),
    "NaN": (b'{"vector": [NaN, 0, 0, 0]}', 400, "malformed-body", None),
    "no float32": ({"vector": [1e39, 0, 0, 0]}, 422, "not-finite", "vector"),
    "no float32 in one": ({"vectors": [[1e39, 0, 0, 0]]}, 422, "not-finite", "vectors[0]"),
    "zero": ({"vectors": [E4, [0, 0, 0, 0]]}, 422, "zero-vector", "vectors[1]"),
    "no query": ({"vectors": []}, 422, "out-of-range", "vectors"),
    "too many queries": ({"vectors": [E4] * 1001, "k": 1}, 422, "out-of-range", "vectors"),
    "too many hits": ({"vectors": [E4] * 101, "k": 10_000}, 422, "out-of-range", "k"),
    "id of the other type": ({"id": "a"}, 422, "id-type-mismatch", "id"),
    "id that is not there": ({"id": 77}, 404, "id-not-found", None),
    "max_distance": (b'{"vector": [1, 0, 0, 0], "max_distance": 1e999}', 422, "not-finite", "max_distance"),
    "include": ({"vector": E4, "include": ["vectors"]}, 422, "invalid-request", "include[0]"),
    "recall below the range": ({"vector": E4, "recall": 0.3}, 422, "out-of-range", "recall"),
    "recall above the range": ({"vector": E4, "recall": 1.2}, 422, "out-of-range", "recall"),
    "recall NaN": (b'{"vector": [1, 0, 0, 0], "recall": NaN}', 400, "malformed-body", None),
    "recall a text": ({"vector": E4, "recall": "0.9"}, 422, "invalid-request", "recall"),
    "recall a bool": ({"vector": E4, "recall": True}, 422, "invalid-request", "recall"),
    "recall null": ({"vector": E4, "recall": None}, 422, "invalid-request", "recall"),
    "recall and exact": ({"vector": E4, "recall": 0.9, "exact": True}, 422, "invalid-request", "recall"),
    "recall and params": ({"vector": E4, "recall": 1, "params": {"nprobe": 4}}, 422, "invalid-request", "recall"),
    "exact and params": ({"id": 1, "exact": True, "params": {"nprobe": 4}}, 422, "invalid-request", "exact"),
    "params no object": ({"vector": E4, "params": [64]}, 422, "invalid-request", "params"),
    "params no ints": ({"vector": E4, "params": {"ef_search": 1.5}}, 422, "invalid-request", "params"),
    "params a text": ({"vector": E4, "params": '{"ef_search": 64}'}, 422, "invalid-request", "params"),
    "malformed": (b'{"vector": [1, 0, 0, 0}', 400, "malformed-body", None),
    "empty": (b"", 400, "malformed-body", None),
}


@pytest.mark.parametrize("name", BAD_SEARCHES)
def test_bad_searches(client: httpx.Client, name: str) -> None:
    body, status, code, where = BAD_SEARCHES[name]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    problem_of(client.post(f"{INTS}/search", content=content, headers=JSON), status, code, where)


@pytest.mark.parametrize(
    ("query", "array", "code", "where"),
    [
        ("?k=0", np.ones((1, 4)), "out-of-range", "k"),
        ("?k=10001", np.ones((1, 4)), "out-of-range", "k"),
        ("?recall=0.3", np.ones((1, 4)), "out-of-range", "recall"),
        ("?recall=nan", np.ones((1, 4)), "out-of-range", "recall"),
        ("?recall=high", np.ones((1, 4)), "invalid-request", "recall"),
        ("?recall=0.9&exact=true", np.ones((1, 4)), "invalid-request", "recall"),
        ("?params={", np.ones((1, 4)), "invalid-request", "params"),
        ("?params=64", np.ones((1, 4)), "invalid-request", "params"),
        ('?params={"ef_search":"64"}', np.ones((1, 4)), "invalid-request", "params"),
        ('?params={"ef_search":64}&exact=true', np.ones((1, 4)), "invalid-request", "exact"),
        ("", np.ones((10_001, 4), np.float16), "out-of-range", "shape"),
        ("?k=101", np.ones((10_000, 4), np.float16), "out-of-range", "k"),
        ("", np.ones((2, 5)), "dimension-mismatch", "shape"),
        ("", np.array([E4, [np.nan] * 4]), "not-finite", "row 1"),
        ("", np.array([np.nan] * 4), "not-finite", "row 0"),
        ("", np.array([E4, [0] * 4], np.float64), "zero-vector", "row 1"),
    ],
)
def test_bad_npy_searches(client: httpx.Client, query: str, array: Any, code: str, where: str) -> None:
    problem_of(client.post(f"{INTS}/search{query}", content=npy(array), headers=NPY), 422, code, where)


BAD_OTHERS: list[tuple[str, str, Any, int, str, str | None]] = [
    ("PUT", "/v1/collections/Bad", {"dimension": 4}, 422, "out-of-range", "collection"),
    ("PUT", "/v1/collections/" + "x" * 64, {"dimension": 4}, 422, "out-of-range", "collection"),
    ("PUT", "/v1/collections/new", {}, 422, "invalid-request", "dimension"),
    ("PUT", "/v1/collections/new", {"dimension": 0}, 422, "out-of-range", "dimension"),
    ("PUT", "/v1/collections/new", {"dimension": 65_537}, 422, "out-of-range", "dimension"),
    ("PUT", "/v1/collections/new", {"dimension": "4"}, 422, "invalid-request", "dimension"),
    ("PUT", "/v1/collections/new", {"dimension": True}, 422, "invalid-request", "dimension"),
    ("PUT", "/v1/collections/new", {"dimension": 4, "metric": "l1"}, 422, "invalid-request", "metric"),
    ("PUT", "/v1/collections/new", {"dimension": 4, "sparsity": True}, 422, "unknown-field", "sparsity"),
    ("PUT", "/v1/collections/new", {"dimension": 4, "recall": 0.49}, 422, "out-of-range", "recall"),
    ("PUT", "/v1/collections/new", {"dimension": 4, "recall": 1.1}, 422, "out-of-range", "recall"),
    ("PUT", "/v1/collections/new", {"dimension": 4, "index": {"kind": "lsh"}}, 422, "invalid-request", "index.kind"),
    ("PUT", "/v1/collections/new", {"dimension": 4, "index": {"ef": 1}}, 422, "unknown-field", "index.ef"),
    ("PUT", "/v1/collections/new", b"[1, 2]", 422, "invalid-request", "body"),
    ("PUT", "/v1/collections/new", b'{"dimension": 4, "recall": NaN}', 400, "malformed-body", None),
    ("PUT", "/v1/collections/new", b"", 400, "malformed-body", None),
    ("PUT", "/v1/collections/new?replace=1", {"dimension": 4}, 422, "unknown-field", "replace"),
    ("PUT", INTS, {"dimension": 5}, 409, "settings-differ", "dimension"),
    ("PUT", INTS, {"dimension": 4, "metric": "dot"}, 409, "settings-differ", "metric"),
    ("PATCH", INTS, {"recall": 2}, 422, "out-of-range", "recall"),
    ("PATCH", INTS, {"recall": 0.3}, 422, "out-of-range", "recall"),
    ("PATCH", INTS, {"metric": "l2", "recall": 0.9}, 422, "unknown-field", "metric"),
    ("PUT", f"{INTS}/index", {"kind": "hnsw", "m": 1.5}, 422, "invalid-request", "m"),
    ("PUT", f"{INTS}/index", {"kind": "hnsw", "m": 1}, 422, "out-of-range", "m"),
    ("PUT", f"{INTS}/index", {"kind": "ivf", "ef_construction": 80}, 422, "out-of-range", "ef_construction"),
    (
        "PUT",
        "/v1/collections/new",
        {"dimension": 4, "index": {"kind": "hnsw", "m": 97}},
        422,
        "out-of-range",
        "index.m",
    ),
    ("PUT", "/v1/collections/new", {"dimension": 4, "index": {"nlist": 8}}, 422, "out-of-range", "index.nlist"),
    ("PATCH", f"{INTS}/vectors/1", {}, 422, "invalid-request", "metadata"),
    ("PATCH", f"{INTS}/vectors/1", {"vector": [1, 2]}, 422, "dimension-mismatch", "vector"),
    ("PATCH", f"{INTS}/vectors/1", {"vector": [0, 0, 0, 0]}, 422, "zero-vector", "vector"),
    ("PATCH", f"{INTS}/vectors/1", {"vector": [1e39, 0, 0, 0]}, 422, "not-finite", "vector"),
    ("PATCH", f"{INTS}/vectors/1", {"metadata": None}, 422, "invalid-metadata", "metadata"),
    ("PATCH", f"{INTS}/vectors/1", {"metadata": {"$a": 1}}, 422, "invalid-metadata", "metadata.$a"),
    ("PATCH", f"{INTS}/vectors/99", {"metadata": {}}, 404, "id-not-found", None),
    ("PATCH", f"{INTS}/vectors/x", {"metadata": {}}, 422, "id-type-mismatch", "id"),
    ("POST", f"{INTS}/vectors/delete", {}, 422, "invalid-request", "ids"),
    ("POST", f"{INTS}/vectors/delete", {"ids": [1], "filter": {}, "all": True}, 422, "invalid-request", "ids"),
    ("POST", f"{INTS}/vectors/delete", {"filter": {}}, 422, "invalid-request", "filter"),
    ("POST", f"{INTS}/vectors/delete", {"filter": {"a": 1}, "all": True}, 422, "invalid-request", "all"),
    ("POST", f"{INTS}/vectors/delete", {"ids": [1], "all": True}, 422, "invalid-request", "all"),
    ("POST", f"{INTS}/vectors/delete", {"ids": [1, "x"]}, 422, "id-type-mismatch", "ids[1]"),
    ("POST", f"{INTS}/vectors/delete", {"ids": list(range(10_001))}, 422, "out-of-range", "ids"),
    ("POST", f"{INTS}/vectors/fetch", {"ids": list(range(10_001))}, 422, "out-of-range", "ids"),
    ("POST", f"{INTS}/vectors/fetch", {"ids": ["x"]}, 422, "id-type-mismatch", "ids[0]"),
    ("POST", f"{INTS}/vectors/fetch", {"ids": [1], "fields": []}, 422, "unknown-field", "fields"),
    ("POST", f"{INTS}/vectors/list", {"limit": 0}, 422, "out-of-range", "limit"),
    ("POST", f"{INTS}/vectors/list", {"limit": 10_001}, 422, "out-of-range", "limit"),
    ("POST", f"{INTS}/vectors/list", {"cursor": "no cursor"}, 422, "invalid-request", "cursor"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "code", "where"), BAD_OTHERS)
def test_bad_bodies_elsewhere(
    client: httpx.Client, method: str, path: str, body: Any, status: int, code: str, where: str | None
) -> None:
    before = everything(client), client.get("/v1/collections").json()
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    problem_of(client.request(method, path, content=content, headers=JSON), status, code, where)
    assert (everything(client), client.get("/v1/collections").json()) == before


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "where"),
    [
        ("GET", "/v1/collections/none", 404, "collection-not-found", None),
        ("GET", "/v1/collections/None", 404, "collection-not-found", None),
        ("DELETE", "/v1/collections/none", 404, "collection-not-found", None),
        ("GET", "/v1/collections/none/vectors/1", 404, "collection-not-found", None),
        ("GET", "/v1/collections/none/vectors", 404, "collection-not-found", None),
        ("DELETE", "/v1/collections/none/vectors/1", 404, "collection-not-found", None),
        ("GET", "/v1/collections/%2e%2e/neighbors/1", 404, "collection-not-found", None),
        ("DELETE", "/v1/collections/none/index/build", 404, "collection-not-found", None),
        ("GET", f"{INTS}/vectors/99", 404, "id-not-found", None),
        ("DELETE", f"{INTS}/vectors/99", 404, "id-not-found", None),
        ("GET", f"{INTS}/neighbors/99", 404, "id-not-found", None),
        ("GET", f"{INTS}/vectors/x", 422, "id-type-mismatch", "id"),
        ("GET", f"{INTS}/neighbors/1?k=0", 422, "out-of-range", "k"),
        ("GET", f"{INTS}/neighbors/1?filter=x", 422, "invalid-filter", "filter"),
        ("GET", f"{INTS}/vectors/1?include=vector", 422, "unknown-field", "include"),
        ("DELETE", f"{INTS}/vectors/1?force=1", 422, "unknown-field", "force"),
        ("GET", f"{INTS}/vectors?limit=10001", 422, "out-of-range", "limit"),
        ("GET", f"{INTS}/vectors?filter=x", 422, "invalid-filter", "filter"),
        ("GET", f"{INTS}?wait=done", 422, "invalid-request", "wait"),
        ("GET", f"{INTS}?wait=ready&timeout_s=-1", 422, "out-of-range", "timeout_s"),
        ("GET", f"{INTS}?verbose=1", 422, "unknown-field", "verbose"),
        ("DELETE", f"{INTS}?force=1", 422, "unknown-field", "force"),
        ("GET", "/livez?x=1", 422, "unknown-field", "x"),
        ("GET", "/readyz?strict=perhaps", 422, "invalid-request", "strict"),
        ("GET", "/v1?x=1", 422, "unknown-field", "x"),
        ("GET", "/v1/collections?x=1", 422, "unknown-field", "x"),
        ("GET", "/v2", 404, "not-found", None),
        ("GET", "/v1/collections/ints/", 404, "not-found", None),
        ("POST", f"{INTS}/count", 415, "unsupported-media-type", None),
        ("GET", "/problems/nothing", 404, "not-found", None),
    ],
)
def test_bad_requests_without_a_body(
    client: httpx.Client, method: str, path: str, status: int, code: str, where: str | None
) -> None:
    before = everything(client)
    problem_of(client.request(method, path), status, code, where)
    assert everything(client) == before


@pytest.mark.parametrize(
    "path", ["/vectors", "/search", "/vectors/fetch", "/vectors/list", "/vectors/delete", "/vectors/patch", "/count"]
)
def test_an_unknown_collection_is_named_whatever_the_body(client: httpx.Client, path: str) -> None:
    problem = problem_of(client.post(f"/v1/collections/none{path}", json={"x": 1}), 404, "collection-not-found", None)
    assert "none" in problem["detail"]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", f"{INTS}/search", {"POST"}),
        ("POST", INTS, {"GET", "PUT", "PATCH", "DELETE"}),
        ("PUT", f"{INTS}/vectors/1", {"GET", "PATCH", "DELETE"}),
        ("PUT", f"{INTS}/vectors/fetch", {"GET", "POST", "PATCH", "DELETE"}),
        ("DELETE", f"{INTS}/vectors", {"GET", "POST", "PUT"}),
        ("GET", f"{INTS}/count", {"POST"}),
        ("PUT", f"{INTS}/vectors/patch", {"GET", "POST", "PATCH", "DELETE"}),
        ("POST", "/livez", {"GET"}),
    ],
)
def test_methods(client: httpx.Client, method: str, path: str, allow: set[str]) -> None:
    response = client.request(method, path)
    problem_of(response, 405, "method-not-allowed", None)
    assert set(response.headers["allow"].split(", ")) == allow


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/json; charset=latin-1"},
        {"content-type": "application/jsonp"},
        {"content-type": "application/json", "content-encoding": "gzip"},
        {},
    ],
)
@pytest.mark.parametrize(("method", "path"), [("POST", f"{INTS}/vectors"), ("POST", f"{INTS}/search"), ("PUT", INTS)])
def test_other_media_types(client: httpx.Client, method: str, path: str, headers: dict[str, str]) -> None:
    problem_of(client.request(method, path, content=b"{}", headers=headers), 415, "unsupported-media-type", None)


def test_npy_where_none_is_taken(client: httpx.Client) -> None:
    response = client.post(f"{INTS}/vectors/fetch", content=npy(np.ones(4)), headers=NPY)
    problem_of(response, 415, "unsupported-media-type", None)


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "é".encode()])
def test_idempotency_keys(client: httpx.Client, key: Any) -> None:
    before = everything(client)
    response = client.post(f"{INTS}/vectors", json=items(E4), headers={"idempotency-key": key})
    problem_of(response, 422, "invalid-request", "Idempotency-Key")
    assert everything(client) == before


@pytest.mark.parametrize(
    ("media", "limit"), [("application/json", JSON_BODY_BYTES_MAX), ("application/x-npy", NPY_BODY_BYTES_MAX)]
)
def test_a_body_said_to_be_oversized_is_refused_before_it_is_sent(
    shared_server: Server, client: httpx.Client, media: str, limit: int
) -> None:
    head = f"POST {INTS}/vectors HTTP/1.1\r\nhost: x\r\ncontent-type: {media}\r\ncontent-length: {limit + 1}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", shared_server.port), timeout=10) as connection:
        connection.sendall(head.encode())
        answer = b""
        while b"}" not in answer:
            part = connection.recv(65536)
            assert part, answer
            answer += part
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"/problems/too-large" in answer and f"{limit >> 20} MiB".encode() in answer


def test_a_body_that_grows_oversized_is_refused_while_it_streams(client: httpx.Client) -> None:
    before = everything(client)
    block = b" " * (1 << 20)
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        for _ in range((JSON_BODY_BYTES_MAX >> 20) + 2):
            sent += len(block)
            yield block

    problem = problem_of(client.post(f"{INTS}/vectors", content=chunks(), headers=JSON), 413, "too-large", None)
    assert "64 MiB" in problem["detail"] and "application/x-npy" in problem["detail"]
    assert sent > JSON_BODY_BYTES_MAX
    assert everything(client) == before


def test_a_body_that_never_ends_stores_nothing(shared_server: Server, client: httpx.Client) -> None:
    before = everything(client)
    body = json.dumps(items(E4)).encode()
    head = f"POST {INTS}/vectors HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", shared_server.port), timeout=10) as connection:
        connection.sendall(f"{head}content-length: {len(body) + 1}\r\n\r\n".encode() + body)
    assert everything(client) == before
    assert client.get("/livez").status_code == 200


def test_bad_and_good_requests_side_by_side(shared_server: Server, client: httpx.Client) -> None:
    """A refusal leaves its connection usable, and its neighbours alone."""
    failures: list[Any] = []

    def bother() -> None:
        with httpx.Client(base_url=shared_server.url, trust_env=False) as own:
            for _ in range(20):
                bad = own.post(f"{INTS}/search", content=b"{", headers=JSON)
                good = own.post(f"{INTS}/search", json={"id": 1, "k": 2})
                if (bad.status_code, good.status_code) != (400, 200):
                    failures.append((bad.text, good.text))

    threads = [threading.Thread(target=bother) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
