"""An alias works wherever a collection's name does, and is switched between two requests: never within one."""

import threading
from typing import Any

import httpx
import numpy as np
import pytest

from tests.harness import Server
from tests.wire import Collection

DIMENSION = 4


@pytest.fixture(scope="module")
def client(shared_server: Server) -> httpx.Client:
    return shared_server.client


def made(server: Server, name: str, first_id: int = 0, n: int = 20) -> Collection:
    collection = server.collection(name)
    collection.create(DIMENSION, metric="l2", id_type="int", index={"kind": "flat"})
    vectors = np.random.default_rng(first_id).standard_normal((n, DIMENSION)).astype(np.float32)
    collection.add(range(first_id, first_id + n), vectors, [{"in": name}] * n)
    return collection


def put(client: httpx.Client, alias: str, collection: str, status: int) -> Any:
    answer = client.put(f"/v1/aliases/{alias}", json={"collection": collection})
    assert answer.status_code == status, answer.text
    return answer.json()


def test_an_alias_stands_for_the_collection(shared_server: Server, client: httpx.Client) -> None:
    real = made(shared_server, "real")
    assert put(client, "led", "real", 201) == {"alias": "led", "collection": "real"}
    assert put(client, "led", "real", 200) == {"alias": "led", "collection": "real"}
    assert {"alias": "led", "collection": "real"} in client.get("/v1/aliases").json()["aliases"]
    assert "led" not in client.get("/v1/collections").json()["collections"]
    led = shared_server.collection("led")
    assert led.describe() == real.describe() and led.describe()["name"] == "real"
    led.add([100], np.ones((1, DIMENSION), np.float32), [{"in": "led"}])
    led.patch(100, metadata={"more": 1})
    led.upsert([101], np.ones((1, DIMENSION), np.float32))
    assert led.delete([101]) == 1
    assert real.get(100)["metadata"] == {"in": "led", "more": 1}
    assert led.everything() == real.everything()
    assert led.neighbors(3)["hits"] == real.neighbors(3)["hits"]
    assert led.fetch([3, 100]) == real.fetch([3, 100])
    client.request("DELETE", "/v1/aliases/led").raise_for_status()
    assert client.get("/v1/collections/led").status_code == 404
    assert real.describe()["count"] == 21


def test_every_route_of_a_collection_takes_an_alias(shared_server: Server, client: httpx.Client) -> None:
    """Walked from the reference: a new route cannot be forgotten. What matters is that none says 404."""
    made(shared_server, "walked")
    put(client, "walking", "walked", 201)
    paths = client.get("/openapi.json").json()["paths"]
    tried = 0
    for path, methods in paths.items():
        for method in methods:
            if "{collection}" not in path or (method, path) == ("delete", "/v1/collections/{collection}"):
                continue
            answers = [
                client.request(method, path.replace("{collection}", name).replace("{id}", "3"), json={})
                for name in ("walking", "not-there")
            ]
            assert "collection-not-found" not in answers[0].text, (method, path)
            tried += 1
    assert tried > 15
    assert client.get("/v1/collections/walked").json()["count"] >= 19


def test_one_namespace(shared_server: Server, client: httpx.Client) -> None:
    made(shared_server, "space")
    put(client, "spaced", "space", 201)
    refused = client.put("/v1/collections/spaced", json={"dimension": DIMENSION})
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/name-taken")
    assert put(client, "space", "space", 409)["type"] == "/problems/name-taken"
    assert put(client, "again", "spaced", 409)["type"] == "/problems/name-taken"
    assert put(client, "again", "nowhere", 404)["type"] == "/problems/collection-not-found"
    assert put(client, "Bad Name", "space", 422)["type"] == "/problems/out-of-range"
    assert client.put("/v1/aliases/x", json={"collection": 3}).status_code == 422
    assert client.put("/v1/aliases/x", json={"collection": "space", "more": 1}).status_code == 422
    for path in ("/v1/aliases/nowhere", "/v1/aliases/%2e%2e", "/v1/aliases/space"):
        assert client.request("DELETE", path).status_code == 404


def test_a_collection_that_an_alias_leads_to_is_not_dropped(shared_server: Server, client: httpx.Client) -> None:
    kept = made(shared_server, "kept")
    put(client, "keeping", "kept", 201)
    by_name, by_alias = (client.request("DELETE", f"/v1/collections/{name}") for name in ("kept", "keeping"))
    assert (by_name.status_code, by_name.json()["type"]) == (409, "/problems/collection-aliased")
    assert "keeping" in by_name.json()["detail"]
    assert (by_alias.status_code, by_alias.json()["type"]) == (409, "/problems/name-taken")
    kept.add([100], np.ones((1, DIMENSION), np.float32))  # nothing was marked
    made(shared_server, "other")
    put(client, "keeping", "other", 200)
    kept.drop()


def test_switched_between_two_requests(shared_server: Server, client: httpx.Client) -> None:
    """Each search is answered wholly by one collection; each that begins after the answer by the new one."""
    for i, name in enumerate(("blue", "green")):
        made(shared_server, name, first_id=1000 * i)
    put(client, "live", "blue", 201)
    stop, faults = threading.Event(), []
    seen: set[str] = set()

    def ask() -> None:
        live = shared_server.collection("live")
        while not stop.is_set():
            hits = live.search(np.zeros(DIMENSION, np.float32), k=20)["hits"]
            of = {hit["metadata"]["in"] for hit in hits}
            if len(hits) != 20 or len(of) != 1:
                faults.append(hits)
            seen.update(of)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    wires = shared_server.wire_to_each()
    for i in range(20):
        name = ("green", "blue")[i % 2]
        put(client, "live", name, 200)
        for wire in wires:
            answer = wire.ok(200, "GET", "/v1/collections/live")
            assert answer["name"] == name, "a worker has not seen the switch"
    stop.set()
    for thread in threads:
        thread.join()
    assert not faults and seen == {"blue", "green"}


def test_a_name_becomes_one_or_the_other(shared_server: Server, client: httpx.Client) -> None:
    made(shared_server, "aim")
    for i in range(6):
        name, answers = f"raced-{i}", {}
        barrier = threading.Barrier(2)

        def send(what: str, path: str, body: Any, at: threading.Barrier = barrier, into: Any = answers) -> None:
            wire = shared_server.wire()
            wire.connect()
            at.wait()
            into[what] = wire.call("PUT", path, body).status

        threads = [
            threading.Thread(target=send, args=("alias", f"/v1/aliases/{name}", {"collection": "aim"})),
            threading.Thread(target=send, args=("collection", f"/v1/collections/{name}", {"dimension": 3})),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answers.values()) == [201, 409], answers
        is_alias = name in {a["alias"] for a in client.get("/v1/aliases").json()["aliases"]}
        assert is_alias == (answers["alias"] == 201)
        assert (name in client.get("/v1/collections").json()["collections"]) != is_alias


def test_an_alias_follows_its_collection_through_a_restore(shared_server: Server, client: httpx.Client) -> None:
    back = made(shared_server, "back")
    put(client, "backed", "back", 201)
    assert client.post("/v1/snapshots", json={"name": "back-1", "collections": ["backed"]}).status_code == 201
    back.delete([1])
    assert client.post("/v1/snapshots/back-1/restore", json={"as": "backed", "replace": True}).status_code == 409
    assert client.post("/v1/snapshots/back-1/restore", json={"replace": True}).status_code == 202
    assert shared_server.collection("backed").describe()["count"] == 20
