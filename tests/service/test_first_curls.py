"""The life of an item through the API, for every metric, dtype and type of id."""

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.harness import Server
from tests.oracle import Oracle
from tests.wire import NPY, Collection, Id, from_npy, npy, plain

DIMENSION = 12
ROWS = 60
STRINGS = ["a/b", "ü", "a b", "100%", "..a", "?x=1", "#", "日本語", "A", "a"]
"""Ids that a path must carry encoded; the rest are made up."""


def ids_of(kind: str, n: int) -> list[Id]:
    if kind == "str":
        return [*STRINGS, *(f"id-{i:03}" for i in range(n - len(STRINGS)))]
    return [3 * i for i in range(n)]


def drawn(n: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, DIMENSION)).astype(np.float32)


@pytest.mark.parametrize("kind", ["int", "str", "auto"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("metric", ["l2", "cosine", "dot"])
def test_life_of_items(shared_server: Server, metric: str, dtype: str, kind: str) -> None:
    words = shared_server.collection(f"life-{metric}-{dtype}-{kind}")
    settings = {"metric": metric, "dtype": dtype, "id_type": kind}
    assert_created(words, settings)
    ids, vectors = ids_of(kind, ROWS), drawn(ROWS)
    metadata = [{"n": i, "tag": "é" * (i % 3)} for i in range(ROWS)]
    oracle = Oracle(DIMENSION, metric, dtype)

    assert words.add(ids, vectors, metadata) == {"count": ROWS}
    oracle.put(ids, vectors, metadata)
    assert words.describe()["count"] == ROWS
    oracle.judge_stored(words.everything())
    assert_fetched(words, oracle, ids)
    assert_searched(words, oracle, ids)

    replaced = drawn(5, seed=2)
    words.upsert(ids[:5], replaced)
    oracle.put(ids[:5], replaced)
    words.patch(ids[7], metadata={"n": None, "new": [1, {"deep": True}]})
    oracle.metadata[ids[7]] = {"tag": "é", "new": [1, {"deep": True}]}
    words.patch(ids[8], vector=plain(replaced[0] * 2))
    oracle.put([ids[8]], replaced[:1] * 2, [metadata[8]])
    oracle.judge_stored(words.everything())

    assert words.wire.call("DELETE", words.item(ids[9])).status == 204
    assert words.wire.call("GET", words.item(ids[9])).status == 404
    assert words.wire.call("DELETE", words.item(ids[9])).status == 404
    assert words.delete([*ids[10:20], ids[9]]) == 10
    oracle.remove(ids[9:20])
    oracle.judge_stored(words.everything())
    assert_searched(words, oracle, ids[20:])
    assert words.describe()["count"] == len(oracle)

    words.drop()
    assert words.wire.call("GET", words.path).status == 404


def assert_created(words: Collection, settings: dict[str, Any]) -> None:
    words.create(DIMENSION, **settings)
    words.create(DIMENSION, status=200, **settings)
    problem = words.wire.ok(409, "PUT", words.path, {"dimension": DIMENSION + 1, **settings})
    assert "dimension" in problem["detail"] or "dimension" in str(problem.get("errors"))
    described = words.describe()
    assert {name: described[name] for name in ("dimension", "metric", "dtype")} == {
        "dimension": DIMENSION,
        "metric": settings["metric"],
        "dtype": settings["dtype"],
    }


def assert_fetched(words: Collection, oracle: Oracle, ids: list[Id]) -> None:
    for id in ids[: len(STRINGS) + 2]:
        item = words.get(id)
        assert item["id"] == id
        oracle_row = oracle.vector(id)
        assert np.array(item["vector"], np.float32).astype(oracle.dtype).tobytes() == oracle_row.tobytes()
        assert item["metadata"] == oracle.metadata[id]
        bare = words.wire.ok(200, "GET", words.item(id), Accept=NPY)
        assert from_npy(bare).dtype == oracle.dtype
        assert from_npy(bare).tobytes() == oracle_row.tobytes()
    absent: Id = "absent" if isinstance(ids[0], str) else 10**15
    several = words.fetch([ids[4], absent, ids[2], ids[4]])
    assert [item["id"] for item in several["items"]] == [ids[4], ids[2], ids[4]]
    assert several["missing"] == [absent]


def assert_searched(words: Collection, oracle: Oracle, ids: list[Id]) -> None:
    for query in drawn(4, seed=3):
        answer = words.search(query, k=10)
        oracle.judge(query, 10, answer["hits"], exact=answer["exact"])
        assert all((hit["metadata"] or {}) == (oracle.metadata[hit["id"]] or {}) for hit in answer["hits"])
        exact = words.search(query, k=1000, exact=True)
        assert exact["exact"] is True
        oracle.judge(query, 1000, exact["hits"], exact=True)
        radius = exact["hits"][5]["distance"]
        within = words.search(query, k=1000, exact=True, max_distance=radius)["hits"]
        assert within == [hit for hit in exact["hits"] if hit["distance"] <= radius]
    queries = drawn(4, seed=4)
    several = words.search(queries, k=5, exact=True, include=["vector"])["results"]
    for query, result in zip(queries, several, strict=True):
        oracle.judge(query, 5, result["hits"], exact=True)
        single = words.search(query, k=5, exact=True)["hits"]
        assert [(hit["id"], hit["distance"]) for hit in single] == [
            (hit["id"], hit["distance"]) for hit in result["hits"]
        ]
    for id in ids[:5]:
        near = words.neighbors(id, k=7)
        oracle.judge(oracle.vector(id), 7, near["hits"], exact=near["exact"], without=id)
        by_id = words.wire.ok(200, "POST", f"{words.path}/search", {"id": id, "k": 7})
        assert by_id["hits"] == near["hits"]


def test_server_assigns_ids(shared_server: Server) -> None:
    """Ids left out: largest so far plus one for int (and for a collection that never saw an id), UUIDv7 for str."""
    numbers = shared_server.collection("assigned-int")
    numbers.create(DIMENSION)
    assert numbers.add(None, drawn(3)) == {"count": 3, "first_id": 0}
    numbers.add([41], drawn(1))
    assert numbers.add_npy(drawn(2)) == {"count": 2, "first_id": 42}
    assert numbers.add_npy(drawn(2), first_id=100) == {"count": 2}
    assert sorted(numbers.everything(), key=int) == [0, 1, 2, 41, 42, 43, 100, 101]
    texts = shared_server.collection("assigned-str")
    texts.create(DIMENSION, id_type="str")
    answer = texts.add(None, drawn(3))
    listed = list(texts.everything())
    assert answer["count"] == len(listed) == 3
    assert answer["first_id"] == listed[0]
    assert all(isinstance(id, str) and len(id) == 36 and id[14] == "7" for id in listed)


def test_npy_search_and_arrays_back(shared_server: Server) -> None:
    words = shared_server.collection("arrays")
    words.create(DIMENSION, metric="l2")
    vectors, queries = drawn(6), drawn(3, seed=5)
    words.add_npy(vectors)
    path = f"{words.path}/search?k=8&exact=true"
    rows = words.wire.ok(200, "POST", path, npy(queries.astype(np.float64)), Content_Type=NPY)
    packed = words.wire.call("POST", path, npy(queries), Content_Type=NPY, Accept="application/x-npz")
    assert packed.status == 200
    arrays = from_npz(packed.body)
    assert arrays["ids"].shape == arrays["distances"].shape == (3, 8)
    for q, result in enumerate(rows["results"]):
        assert arrays["ids"][q].tolist() == [hit["id"] for hit in result["hits"]] + [-1, -1]
        found = [np.float32(hit["distance"]) for hit in result["hits"]]
        assert arrays["distances"][q].tolist() == [*found, np.inf, np.inf]


def from_npz(body: bytes) -> dict[str, NDArray[Any]]:
    with np.load(io.BytesIO(body), allow_pickle=False) as archive:
        return dict(archive)


def test_refused_add_leaves_nothing(shared_server: Server) -> None:
    """One id that exists refuses the whole body, and names the place."""
    words = shared_server.collection("refused")
    words.create(DIMENSION)
    words.add([5], drawn(1))
    body = {"ids": [4, 5, 6], "vectors": plain(drawn(3))}
    problem = words.wire.ok(409, "POST", f"{words.path}/vectors", body)
    assert problem["type"] == "/problems/id-exists"
    assert "ids[1]" in str(problem["errors"])
    assert list(words.everything()) == [5]
