"""…/recall over HTTP on collections that are searched exactly: what is taken, what is refused, what is answered."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from app.api.recall import DRAWN
from tests.api.test_bad_input import JSON, NPY, npy, problem_of
from tests.harness import Server

PATH = "/v1/collections/measured"
ROWS, DIMENSION = 30, 4
VECTORS = np.random.default_rng(5).standard_normal((ROWS, DIMENSION)).astype(np.float32)
QUERIES = np.random.default_rng(6).standard_normal((3, DIMENSION)).astype(np.float32)
ROW = {
    "k",
    "requested",
    "measured",
    "interval",
    "p10_recall",
    "expected_recall",
    "exact",
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "exact_p50_ms",
    "queries",
}


@pytest.fixture(scope="module")
def client(shared_server: Server) -> Iterator[httpx.Client]:
    client = shared_server.client
    settings = {"dimension": DIMENSION, "metric": "l2", "id_type": "int", "recall": 0.9}
    assert client.put(PATH, json=settings).status_code == 201
    items = [{"id": i, "vector": v.tolist(), "metadata": {"even": i % 2 == 0}} for i, v in enumerate(VECTORS)]
    assert client.post(f"{PATH}/vectors", json={"items": items}).status_code == 201
    yield client


def nearest(query: np.ndarray[Any, Any], rows: np.ndarray[Any, Any] = VECTORS) -> list[int]:
    found: list[int] = np.argsort(((rows - query) ** 2).sum(axis=1), kind="stable").tolist()
    return found


def measured(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    return response.json()


def test_every_k_with_every_recall_is_a_row(client: httpx.Client) -> None:
    answer = measured(client.post(f"{PATH}/recall", json={"k": [1, 5], "recall": [0.5, 0.99, 1], "sample": 7}))
    assert answer["on"] == "data" and "calibrating" not in answer
    rows = answer["rows"]
    assert [(row["k"], row["requested"]) for row in rows] == [(k, r) for k in (1, 5) for r in (0.5, 0.99, 1)]
    for row in rows:
        assert row.keys() == ROW
        assert (row["measured"], row["interval"], row["p10_recall"], row["queries"]) == (1, [1, 1], 1, 7)
        assert (row["exact"], row["expected_recall"]) == (True, 1)
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"] and row["exact_p50_ms"] > 0


def test_what_is_left_out_is_the_collections(client: httpx.Client) -> None:
    (row,) = measured(client.post(f"{PATH}/recall", json={}))["rows"]
    assert (row["k"], row["requested"], row["queries"]) == (10, 0.9, ROWS)


def test_truth_is_what_is_compared_with(client: httpx.Client) -> None:
    truth = [nearest(query)[:4] for query in QUERIES]
    body = {"k": [2, 4], "queries": QUERIES.tolist(), "truth": truth}
    answer = measured(client.post(f"{PATH}/recall", json=body))
    assert answer["on"] == "given"
    assert [row["measured"] for row in answer["rows"]] == [1, 1]
    # The farthest are no truth: their share that comes back is what is answered, whatever lies nearer.
    truth[0][1] = nearest(QUERIES[0])[-1]
    truth[2] = nearest(QUERIES[2])[-4:]
    rows = measured(client.post(f"{PATH}/recall", json=body))["rows"]
    for row, shares in zip(rows, ((1 / 2, 1, 0), (3 / 4, 1, 0)), strict=True):
        assert row["measured"] == round(float(np.mean(shares)), 6)
        assert row["p10_recall"] == round(float(np.percentile(shares, 10)), 6)
        low, high = row["interval"]
        assert low < row["measured"] < high


def test_what_is_as_far_is_as_good(client: httpx.Client) -> None:
    path = "/v1/collections/twins"
    client.put(path, json={"dimension": 2, "metric": "cosine", "id_type": "str"})
    items = [{"id": f"{i}", "vector": [1, i // 4]} for i in range(8)]
    client.post(f"{path}/vectors", json={"items": items})
    body: dict[str, Any] = {"k": 2, "queries": [[1, 0]], "truth": [["2", "3"]]}
    assert [hit["id"] for hit in client.post(f"{path}/search", json={"vector": [1, 0], "k": 2}).json()["hits"]] == [
        "0",
        "1",
    ]
    assert measured(client.post(f"{path}/recall", json=body))["rows"][0]["measured"] == 1
    body["truth"] = [["2", "7"]]
    assert measured(client.post(f"{path}/recall", json=body))["rows"][0]["measured"] == 0.5


def test_under_a_filter_its_items_are_the_truth(client: httpx.Client) -> None:
    even = list(range(0, ROWS, 2))
    filter = {"even": True}
    truth = [[even[i] for i in nearest(query, VECTORS[even])[:3]] for query in QUERIES]
    body = {"k": 3, "queries": QUERIES.tolist(), "truth": truth, "filter": filter}
    assert measured(client.post(f"{PATH}/recall", json=body))["rows"][0]["measured"] == 1
    odd = [[id_ + 1 for id_ in ids] for ids in truth]
    assert measured(client.post(f"{PATH}/recall", json=body | {"truth": odd}))["rows"][0]["measured"] == 0
    (row,) = measured(client.post(f"{PATH}/recall", json={"filter": filter, "sample": 20}))["rows"]
    assert (row["measured"], row["queries"]) == (1, 20)


def test_k_beyond_the_rows_asks_for_all_of_them(client: httpx.Client) -> None:
    truth = [nearest(query) for query in QUERIES]
    body = {"k": 10_000, "queries": QUERIES.tolist(), "truth": truth}
    assert measured(client.post(f"{PATH}/recall", json=body))["rows"][0]["measured"] == 1
    assert measured(client.post(f"{PATH}/recall", json={"k": 10_000, "sample": 5}))["rows"][0]["measured"] == 1


def test_queries_as_an_array(client: httpx.Client) -> None:
    url = f"{PATH}/recall?k=1,3&recall=0.9,0.95&filter={json.dumps({'even': True})}"
    answer = measured(client.post(url, content=npy(QUERIES.astype(np.float64)), headers=NPY))
    assert answer["on"] == "given"
    rows = [(row["k"], row["requested"], row["queries"]) for row in answer["rows"]]
    assert rows == [(k, r, 3) for k in (1, 3) for r in (0.9, 0.95)]
    (row,) = measured(client.post(f"{PATH}/recall", content=npy(QUERIES[0]), headers=NPY))["rows"]
    assert (row["k"], row["requested"], row["queries"]) == (10, 0.9, 1)


ONE = [[0.0, 0.0, 0.0, 1.0]]
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"k": 0}, "out-of-range", "k"),
    ({"k": 10_001}, "out-of-range", "k"),
    ({"k": [10, 10_001]}, "out-of-range", "k[1]"),
    ({"k": []}, "out-of-range", "k"),
    ({"k": list(range(1, 12))}, "out-of-range", "k"),
    ({"k": "10"}, "invalid-request", "k"),
    ({"k": [1.5]}, "invalid-request", "k[0]"),
    ({"recall": 0.49}, "out-of-range", "recall"),
    ({"recall": [0.9, 1.01]}, "out-of-range", "recall[1]"),
    ({"recall": "0.9"}, "invalid-request", "recall"),
    ({"recall": None}, "invalid-request", "recall"),
    ({"recall": [0.9] * 11}, "out-of-range", "recall"),
    ({"sample": 0}, "out-of-range", "sample"),
    ({"sample": 1001}, "out-of-range", "sample"),
    ({"sample": 200, "k": 10_000}, "out-of-range", "k"),
    ({"sample": 5, "queries": ONE}, "invalid-request", "sample"),
    ({"truth": [[1]]}, "invalid-request", "truth"),
    ({"queries": []}, "out-of-range", "queries"),
    ({"queries": ONE * 1001}, "out-of-range", "queries"),
    ({"queries": [[1.0, 2.0]]}, "dimension-mismatch", "queries[0]"),
    ({"queries": [*ONE, [1e39, 0, 0, 0]]}, "not-finite", "queries[1]"),
    ({"queries": ONE, "k": 2, "truth": []}, "invalid-request", "truth"),
    ({"queries": ONE, "k": 2, "truth": [[1]]}, "invalid-request", "truth[0]"),
    ({"queries": ONE * 2, "k": 2, "truth": [[1, 2], [1, 99]]}, "invalid-request", "truth[1][1]"),
    ({"queries": ONE, "k": 3, "truth": [[4, 5, 4]]}, "invalid-request", "truth[0][0]"),
    ({"queries": ONE, "k": 2, "truth": [["a", "b"]]}, "id-type-mismatch", "truth[0][0]"),
    ({"queries": ONE, "k": 1, "truth": [[-1]]}, "out-of-range", "truth[0][0]"),
    ({"filter": {"even": {"$is": 1}}}, "invalid-filter", "filter.even.$is"),
    ({"filter": {"even": True}, "calibrate": True}, "invalid-request", "filter"),
    ({"queries": ONE * 300, "calibrate": True}, "invalid-request", "queries"),
    ({"quieries": ONE}, "unknown-field", "quieries"),
]


@pytest.mark.parametrize(("body", "code", "where"), BAD, ids=lambda value: json.dumps(value)[:50])
def test_what_does_not_fit_is_refused(client: httpx.Client, body: dict[str, Any], code: str, where: str) -> None:
    problem_of(client.post(f"{PATH}/recall", json=body), 422, code, where)


BAD_QUERIES = [
    ("k=0", "out-of-range"),
    ("k=", "invalid-request"),
    ("k=1,,2", "invalid-request"),
    ("recall=0.3", "out-of-range"),
    ("recall=nan", "out-of-range"),
    ("recall=0.9&recall=0.8", "invalid-request"),
    ("sample=3", "unknown-field"),
    ("filter={", "invalid-filter"),
]


@pytest.mark.parametrize(("query", "code"), BAD_QUERIES)
def test_what_does_not_fit_beside_an_array(client: httpx.Client, query: str, code: str) -> None:
    problem_of(client.post(f"{PATH}/recall?{query}", content=npy(QUERIES), headers=NPY), 422, code, None)


def test_other_bodies(client: httpx.Client) -> None:
    problem_of(client.post(f"{PATH}/recall", content=b"{", headers=JSON), 400, "malformed-body", None)
    problem_of(client.post(f"{PATH}/recall", content=b"{}"), 415, "unsupported-media-type", None)
    problem_of(client.post(f"{PATH}/recall?k=1", json={}), 422, "invalid-request", None)
    problem_of(client.post("/v1/collections/nowhere/recall", json={}), 404, "collection-not-found", None)
    bad = npy(np.array([[1, 2, np.inf, 4]], np.float32))
    problem_of(client.post(f"{PATH}/recall", content=bad, headers=NPY), 422, "not-finite", "row 0")


def test_where_there_is_nothing_to_measure(client: httpx.Client) -> None:
    path = "/v1/collections/hollow"
    client.put(path, json={"dimension": DIMENSION, "metric": "l2", "id_type": "int"})
    for body in ({}, {"queries": ONE}):
        problem_of(client.post(f"{path}/recall", json=body), 409, "conflict", None)
    client.post(f"{path}/vectors", json={"items": [{"id": 1, "vector": ONE[0]}]})
    assert "neighbour" in problem_of(client.post(f"{path}/recall", json={}), 409, "conflict", None)["detail"]
    assert measured(client.post(f"{path}/recall", json={"queries": ONE}))["rows"][0]["measured"] == 1
    problem_of(client.post(f"{PATH}/recall", json={"filter": {"odd": True}}), 409, "conflict", None)
    body = {"queries": ONE, "truth": [[2]]}
    problem_of(client.post(f"{path}/recall", json=body), 422, "invalid-request", "truth[0][0]")


def test_calibrating_on_what_is_not_there(client: httpx.Client) -> None:
    problem = problem_of(client.post(f"{PATH}/recall", json={"calibrate": True}), 409, "conflict", None)
    assert "100" in problem["detail"]


def test_the_fronts_of_what_is_searched_exactly(client: httpx.Client) -> None:
    assert measured(client.get(f"{PATH}/recall")) == {"requested": 0.9, "fronts": [], "measured": []}
    problem_of(client.get(f"{PATH}/recall?k=10"), 422, "unknown-field", None)
    problem_of(client.get("/v1/collections/nowhere/recall"), 404, "collection-not-found", None)
    for media in DRAWN:
        response = client.get(f"{PATH}/recall", headers={"accept": f"text/html, {media.upper()};q=0.9"})
        assert response.status_code == 200 and response.headers["content-type"] == media
        if media == "image/png":
            assert response.content.startswith(b"\x89PNG\r\n")
        else:
            assert b"Searched exactly" in response.content and b"measured" in response.content
