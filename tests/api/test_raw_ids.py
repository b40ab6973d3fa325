"""Ids in paths, arrays in and out, and keys of one request repeated: the parts of HTTP that only a server shows."""

import io
import uuid
from typing import Any

import httpx
import numpy as np
import pytest

from tests.harness import Server

IDS = ["a/b", "a%2Fb", "a b", "é", "a\nb", "?x=1#y", "...", "fetch", "list", "delete", "vectors/x", "+", "x" * 512]


@pytest.fixture(scope="module")
def client(shared_server: Server) -> httpx.Client:
    return shared_server.client


def quoted(id: str) -> str:
    return "".join(f"%{byte:02X}" for byte in id.encode())


def made(client: httpx.Client, **settings: Any) -> str:
    path = f"/v1/collections/c{uuid.uuid4().hex}"
    assert client.put(path, json={"metric": "l2", **settings}).status_code == 201
    return path


def raw_get(client: httpx.Client, target: str) -> httpx.Response:
    """httpx would normalise the path: it goes out as it is."""
    url = client.base_url.copy_with(raw_path=target.encode())
    return client.send(httpx.Request("GET", url))


def test_any_id_has_an_address(client: httpx.Client) -> None:
    path = made(client, dimension=1)
    items = [{"id": id, "vector": [i], "metadata": {"i": i}} for i, id in enumerate(IDS)]
    assert client.post(f"{path}/vectors", json={"items": items}).status_code == 201
    for i, id in enumerate(IDS):
        got = raw_get(client, f"{path}/vectors/{quoted(id)}")
        assert got.json() == {"id": id, "vector": [float(i)], "metadata": {"i": i}}
        near = raw_get(client, f"{path}/neighbors/{quoted(id)}?k=1")
        assert near.status_code == 200 and near.json()["hits"][0]["id"] != id
    assert raw_get(client, f"{path}/vectors/a/b").json()["id"] == "a/b"
    assert raw_get(client, f"{path}/vectors/vectors/x").json()["id"] == "vectors/x"
    fetched = client.post(f"{path}/vectors/fetch", json={"ids": [*IDS, "none"]}).json()
    assert [item["id"] for item in fetched["items"]] == IDS and fetched["missing"] == ["none"]
    assert client.delete(f"{path}/vectors/{quoted('a%2Fb')}").status_code == 204
    assert raw_get(client, f"{path}/vectors/a%2Fb").status_code == 200
    assert raw_get(client, f"{path}/vectors/a%252Fb").status_code == 404


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        ("%ff", 422, "invalid-request"),
        ("a%00", 422, "out-of-range"),
        ("%2e", 422, "out-of-range"),
        ("%2E%2e", 422, "out-of-range"),
        ("%zz", 404, "id-not-found"),
    ],
)
def test_addresses_of_no_id(client: httpx.Client, raw: str, status: int, code: str) -> None:
    path = made(client, dimension=1, id_type="str")
    response = raw_get(client, f"{path}/vectors/{raw}")
    assert (response.status_code, response.json()["type"]) == (status, f"/problems/{code}")


def test_nothing_is_there_before_the_first_write(client: httpx.Client) -> None:
    path = made(client, dimension=1)
    for id in ("1", "a"):
        assert client.get(f"{path}/vectors/{id}").json()["type"] == "/problems/id-not-found"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_arrays_in_and_out_bit_for_bit(client: httpx.Client, dtype: str) -> None:
    path = made(client, dimension=7, dtype=dtype)
    sent = np.random.default_rng(5).standard_normal((300, 7)).astype(dtype)
    for part, array in ((0, sent[:100]), (100, np.asfortranarray(sent[100:200])), (200, sent[200:].astype(">f8"))):
        out = io.BytesIO()
        np.save(out, array)
        response = client.post(
            f"{path}/vectors?first_id={part}",
            content=out.getvalue(),
            headers={"content-type": "application/x-npy"},
        )
        assert response.json() == {"count": 100}
    for i in (0, 150, 299):
        bare = client.get(f"{path}/vectors/{i}", headers={"accept": "application/x-npy"})
        got = np.load(io.BytesIO(bare.content), allow_pickle=False)
        assert got.dtype == sent.dtype and got.tobytes() == sent[i].tobytes()
    listed = client.post(f"{path}/vectors/list", json={"limit": 300, "include": ["vector"]}).json()
    assert np.array([item["vector"] for item in listed["items"]]).astype(dtype).tobytes() == sent.tobytes()


def test_npy_search_answers_as_json_does(client: httpx.Client) -> None:
    path = made(client, dimension=3)
    client.post(f"{path}/vectors", json={"vectors": np.eye(3).tolist()})
    queries = np.array([[1, 0, 0], [0, 1, 1]], np.float32)
    out, one = io.BytesIO(), io.BytesIO()
    np.save(out, queries)
    np.save(one, queries[0])
    npy = {"content-type": "application/x-npy"}
    by_json = client.post(f"{path}/search", json={"vectors": queries.tolist(), "k": 5}).json()["results"]
    by_npy = client.post(f"{path}/search?k=5", content=out.getvalue(), headers=npy).json()["results"]
    assert by_json == by_npy
    alone = client.post(f"{path}/search?k=5", content=one.getvalue(), headers=npy).json()
    assert alone["hits"] == by_json[0]["hits"]
    arrays = client.post(f"{path}/search?k=5", content=out.getvalue(), headers=npy | {"accept": "application/x-npz"})
    assert arrays.headers["content-type"] == "application/x-npz"
    got = np.load(io.BytesIO(arrays.content), allow_pickle=False)
    assert got["ids"].tolist() == [[hit["id"] for hit in r["hits"]] + [-1, -1] for r in by_json]
    assert got["distances"][:, 3:].tolist() == [[np.inf, np.inf]] * 2
    assert got["distances"][0, :3].tolist() == np.float32([hit["distance"] for hit in by_json[0]["hits"]]).tolist()


def test_large_json_bodies_are_answered_like_small_ones(client: httpx.Client) -> None:
    """Past 64 KiB the body is decoded in a thread."""
    path = made(client, dimension=100)
    vectors = np.random.default_rng(1).standard_normal((200, 100)).astype(np.float32)
    body = {"vectors": vectors.tolist(), "ids": list(range(200))}
    assert client.post(f"{path}/vectors", json=body).json() == {"count": 200}
    bad = client.post(f"{path}/vectors", json={"vectors": [*vectors.tolist(), [1.0]]})
    assert bad.json()["errors"][0]["where"] == "vectors[200]"
    results = client.post(f"{path}/search", json={"vectors": vectors.tolist(), "k": 1, "exact": True}).json()["results"]
    assert [r["hits"][0]["id"] for r in results] == list(range(200))


def test_put_again_compares_what_is_given(client: httpx.Client) -> None:
    path = made(client, dimension=4, dtype="float16")
    assert client.patch(path, json={"recall": 0.99}).json()["recall"] == 0.99
    assert client.put(path, json={"dimension": 4}).status_code == 200
    assert client.put(path, json={"dimension": 4, "metric": "l2", "dtype": "float16"}).status_code == 200
    differs = client.put(path, json={"dimension": 4, "recall": 0.95})
    assert differs.status_code == 409 and differs.json()["errors"][0]["where"] == "recall"


def test_request_ids(client: httpx.Client) -> None:
    given = client.get("/v1/collections/none", headers={"x-request-id": "run-7:3"})
    assert given.headers["x-request-id"] == given.json()["instance"] == "run-7:3"
    assert client.get("/livez").headers["x-request-id"] != client.get("/livez").headers["x-request-id"]


def test_version_and_limits(client: httpx.Client) -> None:
    answer = client.get("/v1").json()
    assert answer["version"]
    limits = answer["limits"]
    assert limits["k_max"] == 10_000 and limits["k_default"] == 10
    assert limits["json_body_bytes_max"] == 64 * 2**20 and limits["npy_body_bytes_max"] == 256 * 2**20
    assert limits["dimension_max"] == 65_536 and limits["write_items_max"] == 100_000
