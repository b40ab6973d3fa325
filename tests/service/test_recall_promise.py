"""What `recall` in a search promises, measured over HTTP by brute force on queries of its own, and what is refused."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.harness import Server
from tests.wire import NPY, Answer, Collection, npy, plain

ROWS, D, LATENT, QUERIES = 20_000, 64, 12, 300
FOLDING = np.random.default_rng(0).normal(size=(LATENT, D))
BELOW = 0.01
"""How far the mean of so few queries may lie below what was promised for many."""


def drawn(seed: int, n: int) -> NDArray[np.float32]:
    """Of few dimensions within many, as data are."""
    rng = np.random.default_rng(seed)
    return (np.tanh(rng.normal(size=(n, LATENT)) @ FOLDING / 2) + 0.1 * rng.normal(size=(n, D))).astype(np.float32)


DATA, ASKED = drawn(1, ROWS), drawn(2, QUERIES)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("promise") / "data", env={"SEEDVEC_SEAL_QUIET_S": "0.3"}) as running:
        yield running


@pytest.fixture(scope="module")
def lists(server: Server) -> Collection:
    return filled(server, "lists", {"kind": "ivf"})


@pytest.fixture(scope="module")
def graph(server: Server) -> Collection:
    return filled(server, "graph", {"kind": "hnsw", "m": 8, "ef_construction": 40})


def filled(server: Server, name: str, index: dict[str, Any]) -> Collection:
    collection = server.collection(name)
    collection.create(D, metric="l2", index=index, recall=0.9)
    collection.add_npy(DATA, first_id=0)
    collection.wait_ready(120)
    return collection


def searched(c: Collection, status: int = 200, **asked: Any) -> Any:
    """All queries in one `.npy` body, what is asked in the query string."""
    return c.wire.ok(status, "POST", f"{c.path}/search?{urlencode(asked)}", npy(ASKED), Content_Type=NPY)


def recall_of(answer: Any, k: int) -> float:
    """By distance, against brute force in float64."""
    squares = (DATA.astype(np.float64) ** 2).sum(axis=1)
    shares = []
    for query, result in zip(ASKED.astype(np.float64), answer["results"], strict=True):
        true = np.sqrt(np.maximum(squares - 2 * (DATA @ query) + query @ query, 0))
        kth = np.partition(true, k - 1)[k - 1]
        found = [hit["id"] for hit in result["hits"]]
        assert len(set(found)) == k
        shares.append(np.count_nonzero(true[found] <= kth * (1 + 1e-6)) / k)
    return float(np.mean(shares))


@pytest.mark.parametrize("kind", ["lists", "graph"])
@pytest.mark.parametrize(("recall", "k"), [(0.9, 10), (0.99, 10), (0.95, 1), (0.9, 40), (0.95, 100)])
def test_what_is_asked_for_is_found(kind: str, recall: float, k: int, request: pytest.FixtureRequest) -> None:
    answer = searched(request.getfixturevalue(kind), recall=recall, k=k, include="")
    found = recall_of(answer, k)
    assert found >= recall - BELOW
    assert recall <= answer["expected_recall"] <= found + 2 * BELOW
    if k in (1, 10, 100):
        assert answer["expected_recall"] >= found - 2 * BELOW, "measured at this very k, it is no guess"
    assert answer["calibrated_on"] == (None if answer["exact"] else "data")


def test_who_asks_for_less_gets_no_more(lists: Collection) -> None:
    some, most = (searched(lists, recall=recall, k=10, include="") for recall in (0.8, 0.99))
    assert recall_of(some, 10) <= recall_of(most, 10) >= 0.98
    costs = [
        lists.search(ASKED[0], recall=recall, explain=True)["explain"]["cost_us"] for recall in (0.8, 0.9, 0.99, 1)
    ]
    assert costs == sorted(costs) and costs[0] < costs[-1]


def test_recall_one_and_exact_are_the_same(lists: Collection) -> None:
    one, exact = searched(lists, recall=1, k=10, include=""), searched(lists, exact="true", k=10, include="")
    assert one["results"] == exact["results"] and one["exact"] is exact["exact"] is True
    assert (one["expected_recall"], one["calibrated_on"]) == (1.0, None)
    assert recall_of(one, 10) == 1.0


def test_the_collections_own_recall_can_be_changed(lists: Collection) -> None:
    before = lists.search(ASKED[0], explain=True)["explain"]
    assert (before["recall"], before["recall_from"]) == (0.9, "collection")
    lists.wire.ok(200, "PATCH", lists.path, {"recall": 0.97})
    try:
        after = lists.search(ASKED[0], explain=True)["explain"]
        asked = lists.search(ASKED[0], recall=0.97, explain=True)["explain"]
        assert (after["recall"], after["recall_from"]) == (0.97, "collection")
        assert after["parts"][0]["params"] == asked["parts"][0]["params"]
        assert after["expected_recall"] == asked["expected_recall"] >= 0.97
    finally:
        lists.wire.ok(200, "PATCH", lists.path, {"recall": 0.9})


def test_neighbours_take_what_searches_take(lists: Collection) -> None:
    path = f"{lists.path}/neighbors/7?"
    answer = lists.wire.ok(200, "GET", path + urlencode({"recall": 0.95, "k": 10, "explain": "true"}))
    assert len(answer["hits"]) == 10 and 7 not in [hit["id"] for hit in answer["hits"]]
    same = lists.search(ASKED[0], recall=0.95, explain=True)
    assert answer["explain"]["parts"][0]["params"] == same["explain"]["parts"][0]["params"]
    assert answer["expected_recall"] == same["expected_recall"] >= 0.95
    given = lists.wire.ok(200, "GET", path + urlencode({"params": '{"nprobe": 2, "rerank": 3}', "explain": "true"}))
    assert given["explain"]["parts"][0]["params"] == {"nprobe": 2, "rerank": 3}


def test_parameters_are_taken_as_given(lists: Collection, graph: Collection) -> None:
    recalls = [
        recall_of(searched(c, params=params, k=10, include=""), 10)
        for c, params in (
            (lists, '{"nprobe": 1, "rerank": 4}'),
            (lists, '{"nprobe": 60, "rerank": 16}'),
            (graph, '{"ef_search": 10}'),
            (graph, '{"ef_search": 300}'),
        )
    ]
    assert recalls[0] < 0.8 and recalls[1] > 0.98 and recalls[2] < recalls[3] > 0.98
    answer = graph.search(ASKED[0], params={"ef_search": 77}, explain=True)
    part = answer["explain"]["parts"][0]
    assert (part["by"], part["params"], part["params_from"]) == ("hnsw", {"ef_search": 77}, "request")
    assert answer["expected_recall"] is None and answer["calibrated_on"] == "data"


@pytest.mark.parametrize(
    ("kind", "params", "code", "where", "words"),
    [
        ("lists", {"ef_search": 40}, "invalid-request", "params.ef_search", "ivf: it takes nprobe and rerank"),
        ("graph", {"nprobe": 4}, "invalid-request", "params.nprobe", "hnsw: it takes ef_search"),
        ("graph", {"ef_search": 4, "rerank": 2}, "invalid-request", "params.rerank", "hnsw"),
        ("lists", {"nprobe": 100_000}, "out-of-range", "params.nprobe", "between 1 and"),
        ("lists", {"nprobe": 5_000}, "out-of-range", "params.nprobe", "lists greater than"),
        ("lists", {"rerank": 0}, "out-of-range", "params.rerank", "between 1 and"),
        ("graph", {"ef_search": 0}, "out-of-range", "params.ef_search", "between 1 and"),
        ("lists", {}, "invalid-request", "params", "is empty"),
    ],
)
def test_parameters_that_the_index_does_not_take(
    kind: str, params: dict[str, int], code: str, where: str, words: str, request: pytest.FixtureRequest
) -> None:
    c: Collection = request.getfixturevalue(kind)
    body = {"vector": plain(ASKED[0]), "params": params}
    refused(c.wire.call("POST", f"{c.path}/search", body), code, where, words)


def test_parameters_on_a_collection_that_is_searched_exactly(server: Server) -> None:
    flat = server.collection("flat")
    flat.create(D, metric="l2", index={"kind": "flat"})
    flat.add([1], DATA[:1])
    body = {"vector": plain(ASKED[0]), "params": {"nprobe": 4}}
    refused(flat.wire.call("POST", f"{flat.path}/search", body), "invalid-request", "params", "searched exactly")
    answer = flat.search(ASKED[0], recall=0.5)
    assert answer["exact"] and answer["expected_recall"] == 1.0, "more than was asked for, where that is cheaper"


def refused(answer: Answer, code: str, where: str, words: str) -> None:
    problem = answer.json()
    assert (answer.status, problem["type"]) == (422, f"/problems/{code}"), problem
    assert problem["errors"][0]["where"] == where and words in problem["detail"], problem
