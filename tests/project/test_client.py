"""The Python client against a real server."""

import asyncio
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch

from seedvec import AsyncClient, Client, SeedvecError, errors
from tests.harness import Server

VECTORS = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]


@pytest.fixture(scope="module")
def client(shared_server: Server) -> Iterator[Client]:
    with Client(shared_server.url) as client:
        yield client


def test_a_collection_from_creation_to_its_end(client: Client) -> None:
    c = client.collection("lists", 2, metric="l2")
    assert c.describe()["dimension"] == 2
    assert client.collection("lists", 2).name == client.collection("lists").name == "lists"
    assert c.add(VECTORS, [1, 2, 3], [{"a": 1}, None, {"ä": "ö"}])["count"] == len(c) == 3
    assert c.upsert([[0.0, 2.0]], [2])["count"] == 1
    fetched = c.fetch([3, 2, 9])
    assert (fetched.ids, fetched.missing, fetched.metadata) == ([3, 2], [9], [{"ä": "ö"}, None])
    assert fetched.vectors.tolist() == [[1, 1], [0, 2]]
    assert c.search([1.0, 0.1], k=2)[0].ids == [1, 3]
    several = c.search([[1.0, 0.1], [0.0, 3.0]], k=1, exact=True)
    assert [hits.ids for hits in several] == [[1], [2]]
    assert several.exact
    assert c.neighbors(1, k=1)[0].ids == [3]
    assert c.delete([1, 9]) == 1
    assert sorted(item["id"] for item in c.items()) == [2, 3]
    c.drop()
    assert "lists" not in [found["name"] for found in client.collections()]


def test_arrays_and_tensors_travel_bit_for_bit(client: Client) -> None:
    vectors = np.random.default_rng(7).standard_normal((50, 8)).astype(np.float32)
    c = client.collection("arrays", 8)
    c.add(vectors, range(100, 150))
    c.add(vectors, [int(i) for i in range(50)], [{"row": i} for i in range(50)])
    c.add(torch.from_numpy(vectors).requires_grad_(), torch.arange(200, 250))
    c.add((row for row in vectors), iter(range(300, 350)), ({"row": i} for i in range(50)))
    for ids in (range(100, 150), range(50), range(200, 250), range(300, 350)):
        assert c.fetch(ids).vectors.tobytes() == vectors.tobytes()
    rounded = torch.from_numpy(vectors).to(torch.bfloat16)  # which NumPy has not
    c.upsert(rounded, np.arange(50))
    assert np.array_equal(c.fetch(range(50)).vectors, rounded.float().numpy())
    c.upsert(vectors, np.arange(50)[::-1], [{"row": 49 - i} for i in range(50)][::-1])
    assert np.array_equal(c.fetch(range(50)).vectors, vectors[::-1])
    c.upsert(vectors, range(50))
    assert c.fetch([307]).metadata == [{"row": 7}]
    assert c.wait_ready(30)["count"] == 200
    for queries in (vectors[3], torch.from_numpy(vectors[3]), vectors[3].tolist()):
        assert c.search(queries, k=4)[0].hits[3]["distance"] == pytest.approx(0, abs=1e-6)


def test_answers_are_matrices(client: Client) -> None:
    c = client.collection("matrices", 2, metric="l2")
    c.add(np.array(VECTORS, np.float32), [5, 6, 7], [{"x": 1}, {"x": 1}, None])
    r = c.search(np.array(VECTORS, np.float32), k=3, filter={"x": 1})
    assert r.ids.dtype == np.int64
    assert r.ids.shape == r.distances.shape == (3, 2)  # no query has a third
    assert (r.ids[0].tolist(), r.distances[0, 0], r.distances.dtype) == ([5, 6], 0, np.float32)
    assert r[0].hits[0] == {"id": 5, "distance": 0.0, "metadata": {"x": 1}}
    near = c.search(np.array(VECTORS), k=3, max_distance=1.1)
    assert near.ids.tolist() == [[5, 7, -1], [6, 7, -1], [7, 5, 6]]
    assert np.isinf(near.distances[0, 2])
    assert len(c.search(np.empty((0, 2), np.float32).tolist() or [VECTORS[0]], k=1)) == 1


def test_many_queries_and_rows_are_several_requests(client: Client) -> None:
    c = client.collection("many", 2, metric="l2")
    grid = np.arange(2500, dtype=np.float32).repeat(2).reshape(-1, 2)
    assert c.add(grid)["count"] == 2500
    assert c.search(grid, k=1, exact=True).ids.shape == (2500, 1)
    assert [hits.ids[0] for hits in c.search(grid[::-1].tolist(), k=1, exact=True)] == list(range(2499, -1, -1))
    assert len(c.fetch(range(12_000)).missing) == 9500
    assert len(list(c.items())) == 2500
    with pytest.raises(ValueError, match="2 ids for 3 vectors"):
        c.add(VECTORS, [1, 2])


def test_filters(client: Client) -> None:
    c = client.collection("filtered", 2, metric="l2")
    c.add(VECTORS, [1, 2, 3], [{"a": 1}, {"a": "ä+&"}, None])
    assert c.count() == 3
    assert c.count({"a": {"$exists": True}}) == 2
    found = c.search([1.0, 0.0], filter={"a": {"$ne": 1}}, explain=True)
    assert found[0].ids == [3, 2]
    assert found.answers[0]["explain"]["matching"] == 2
    assert c.neighbors(1, filter={"a": "ä+&"})[0].ids == [2]
    assert c.patch({"b": True}, filter={"a": 1}) == 1
    assert c.patch({"b": None, "c": 1}, ids=[1, 9]) == 1
    assert c.fetch([1]).metadata == [{"a": 1, "c": 1}]
    assert [item["id"] for item in c.items({"c": 1})] == [1]
    assert c.delete(filter={"c": 1}, dry_run=True) == c.delete(filter={"c": 1}) == 1
    with pytest.raises(SeedvecError, match="all"):
        c.delete(filter={})
    assert c.delete(filter={}, all=True) == 2


def test_ids_with_slashes_and_spaces(client: Client) -> None:
    c = client.collection("texts", 2)
    c.add(VECTORS, ["a/b", "c d?", "é%2F"])
    assert set(c.neighbors("a/b")[0].ids) == {"c d?", "é%2F"}
    assert set(c.search(id="é%2F", k=2).ids[0]) == {"a/b", "c d?"}


def test_sparse_rows_go_in(client: Client) -> None:
    c = client.collection("sparse", 9, metric="dot", sparse=True)
    rows = [{"indices": [1, 4], "values": [2.0, 1.0]}, {"indices": [8], "values": [3.0]}]
    c.add(rows, [1, 2])
    assert c.search({"indices": [8], "values": [1.0]}, k=1).ids.tolist() == [[2]]
    assert c.search([{"indices": [8]}, {"indices": [4]}], k=1).ids.tolist() == [[2], [1]]
    matrix = scipy.sparse.csr_array(np.array([[0, 0, 5, 0, 0, 0, 0, 0, 1], [7, 0, 0, 0, 0, 0, 0, 0, 0]], np.float32))
    assert c.add(matrix, [3, 4])["count"] == 2
    assert c.search(matrix, k=1).ids.tolist() == [[3], [4]]


def test_refusals_have_a_type_each(client: Client) -> None:
    with pytest.raises(errors.NotFound) as refused:
        client.collection("absent")
    assert (refused.value.status, refused.value.code) == (404, "collection-not-found")
    assert refused.value.problem["title"]
    c = client.collection("narrow", 2)
    with pytest.raises(errors.Invalid, match="dimension-mismatch"):
        c.add([[1.0, 2.0, 3.0]])
    with pytest.raises(errors.Conflict, match="settings-differ"):
        client.collection("narrow", 3)
    c.add(VECTORS[:1], [1])
    with pytest.raises(errors.Conflict, match="id-exists"):
        c.add(VECTORS[:1], [1])
    assert len(c) == 1


def test_a_file_goes_in_and_comes_out(client: Client, tmp_path: Path) -> None:
    vectors = np.random.default_rng(3).standard_normal((30, 4)).astype(np.float32)
    np.save(tmp_path / "in.npy", vectors)
    np.save(tmp_path / "in.ids.npy", np.arange(30) * 3)
    c = client.collection("files", 4)
    assert c.import_file(tmp_path / "in.npy")["imported"] == 30
    c.export_file(tmp_path / "out.npy")
    assert np.load(tmp_path / "out.npy").tobytes() == vectors.tobytes()
    with pytest.raises(errors.Conflict):
        c.import_file(tmp_path / "in.npy")
    twin = client.collection("twin", 4)
    assert twin.copy_from(c)["imported"] == 30
    assert (twin.truncate(10), [item["id"] for item in twin.items()]) == (20, list(range(0, 30, 3)))


def test_aliases_and_snapshots(client: Client) -> None:
    c = client.collection("aliased", 2)
    c.add(VECTORS, [1, 2, 3])
    client.alias("led", "aliased")
    assert client.aliases()["led"] == "aliased"
    assert client.collection("led").count() == 3
    client.drop_alias("led")
    client.take_snapshot("kept", ["aliased"])
    c.delete([1])
    client.restore("kept", as_="back")
    assert client.collection("back").count() == 3
    assert [taken["name"] for taken in client.snapshots()] == ["kept"]
    client.drop_snapshot("kept")


def test_many_calls_at_a_time(shared_server: Server) -> None:
    async def all_at_once() -> list[int]:
        async with AsyncClient(shared_server.url, connections=3) as db:
            c = await db.collection("awaited", 2, metric="l2")
            await asyncio.gather(*(c.add(VECTORS, range(3 * i, 3 * i + 3)) for i in range(10)))
            assert await c.count() == 30
            assert len([item async for item in c.items()]) == 30
            with pytest.raises(errors.NotFound):
                await db.collection("absent")
            found = await asyncio.gather(*(c.search(VECTORS[i % 3], k=1, id=None) for i in range(9)))
            return [len(r[0].hits) for r in found]

    assert asyncio.run(all_at_once()) == [1] * 9


def test_it_survives_a_restart_of_the_server(tmp_path: Path) -> None:
    with Server(tmp_path / "data", workers=1) as server, Client(server.url) as client:
        client.collection("kept", 2)
        port = server.port
        server.stop()
        with pytest.raises(OSError):
            client.collections()
        server.start()
        client = Client(server.url) if server.port != port else client
        assert client.wait_ready()["status"] == "ready"
        c = client.collection("kept")
        c.add(VECTORS)
        assert c.count() == 3
        client.close()


class Moody(http.server.BaseHTTPRequestHandler):
    """Puts off the first two requests, and closes the connection on the third without an answer."""

    protocol_version = "HTTP/1.1"
    asked: list[dict[str, Any]] = []  # noqa: RUF012 (of the one server of the test)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append({"headers": dict(self.headers), "body": body})
        if len(self.asked) == 3:
            self.close_connection = True
            return
        busy = len(self.asked) < 3
        answer = json.dumps({"type": "/problems/overloaded"} if busy else {"count": 1}).encode()
        self.send_response(503 if busy else 201)
        if busy:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


def test_what_is_put_off_or_lost_is_sent_again_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEEDVEC_API_KEY", "secret")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Moody) as moody:
        threading.Thread(target=moody.serve_forever, daemon=True).start()
        try:
            with Client(f"http://127.0.0.1:{moody.server_port}") as client:
                assert client._of("c").add(VECTORS)["count"] == 1
            assert len(Moody.asked) == 4
            assert len({(one["headers"]["Idempotency-Key"], one["body"]) for one in Moody.asked}) == 1
            assert Moody.asked[0]["headers"]["Authorization"] == "Bearer secret"
            Moody.asked.clear()
            with (
                Client(f"http://127.0.0.1:{moody.server_port}", retry_s=0) as hasty,
                pytest.raises(errors.Overloaded),
            ):
                hasty._of("c").add(VECTORS)
            assert len(Moody.asked) == 1
        finally:
            moody.shutdown()
