"""The Python client and the commands against a real server."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from seedvec import Client, SeedvecError
from tests.harness import ROOT, Server

VECTORS = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "seedvec.cli", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def test_a_collection_from_creation_to_its_end(shared_server: Server) -> None:
    with Client(shared_server.url) as client:
        assert client.create("lists", 2, metric="l2")["dimension"] == 2
        assert client.add("lists", VECTORS, [1, 2, 3], [{"a": 1}, None, {"ä": "ö"}])["count"] == 3
        assert client.upsert("lists", [[0.0, 2.0]], [2])["count"] == 1
        fetched = client.fetch("lists", [3, 2, 9])
        assert [item["vector"] for item in fetched["items"]] == [[1, 1], [0, 2]]
        assert (fetched["items"][0]["metadata"], fetched["missing"]) == ({"ä": "ö"}, [9])
        assert [hit["id"] for hit in client.search("lists", [1.0, 0.1], k=2)["hits"]] == [1, 3]
        several = client.search("lists", [[1.0, 0.1], [0.0, 3.0]], k=1, exact=True)["results"]
        assert [result["hits"][0]["id"] for result in several] == [1, 2]
        assert [hit["id"] for hit in client.neighbors("lists", 1, k=1)["hits"]] == [3]
        assert client.delete("lists", [1, 9])["deleted"] == 1
        assert client.collection("lists")["count"] == 2
        client.drop("lists")
        assert "lists" not in [c["name"] for c in client.collections()["collections"]]


def test_arrays_travel_bit_for_bit(shared_server: Server) -> None:
    vectors = np.random.default_rng(7).standard_normal((50, 8)).astype(np.float32)
    with Client(shared_server.url) as client:
        client.create("arrays", 8)
        client.add("arrays", vectors, range(100, 150))
        client.add("arrays", vectors, [int(i) for i in range(50)], [{"row": i} for i in range(50)])
        for ids in (range(100, 150), range(50)):
            items = client.fetch("arrays", list(ids))["items"]
            assert np.array([item["vector"] for item in items], np.float32).tobytes() == vectors.tobytes()
        assert client.search("arrays", vectors[3], k=2)["hits"][0]["distance"] == pytest.approx(0, abs=1e-6)
        assert client.wait_ready("arrays", 30)["count"] == 100


def test_filters(shared_server: Server) -> None:
    with Client(shared_server.url) as client:
        client.create("filtered", 2, metric="l2")
        client.add("filtered", VECTORS, [1, 2, 3], [{"a": 1}, {"a": "ä+&"}, None])
        assert client.count("filtered") == {"count": 3}
        assert client.count("filtered", {"a": {"$exists": True}}) == {"count": 2}
        found = client.search("filtered", [1.0, 0.0], filter={"a": {"$ne": 1}}, explain=True)
        assert [hit["id"] for hit in found["hits"]] == [3, 2]
        assert found["explain"]["matching"] == 2
        assert [hit["id"] for hit in client.neighbors("filtered", 1, filter={"a": "ä+&"})["hits"]] == [2]
        assert client.patch("filtered", {"b": True}, filter={"a": 1}) == {"patched": 1}
        assert client.patch("filtered", {"b": None, "c": 1}, ids=[1, 9]) == {"patched": 1}
        assert client.fetch("filtered", [1])["items"][0]["metadata"] == {"a": 1, "c": 1}
        assert client.delete("filtered", filter={"c": 1}, dry_run=True) == {"deleted": 1}
        assert client.delete("filtered", filter={"c": 1}) == {"deleted": 1}
        with pytest.raises(SeedvecError, match="all"):
            client.delete("filtered", filter={})
        assert client.delete("filtered", filter={}, all=True) == {"deleted": 2}


def test_ids_with_slashes_and_spaces(shared_server: Server) -> None:
    with Client(shared_server.url) as client:
        client.create("texts", 2)
        client.add("texts", VECTORS, ["a/b", "c d?", "é%2F"])
        assert {hit["id"] for hit in client.neighbors("texts", "a/b")["hits"]} == {"c d?", "é%2F"}
        assert {hit["id"] for hit in client.neighbors("texts", "é%2F")["hits"]} == {"a/b", "c d?"}


def test_a_refusal_carries_the_problem(shared_server: Server) -> None:
    with Client(shared_server.url) as client:
        with pytest.raises(SeedvecError) as refused:
            client.collection("absent")
        assert (refused.value.status, refused.value.code) == (404, "collection-not-found")
        assert refused.value.problem["title"]
        client.create("narrow", 2)
        with pytest.raises(SeedvecError, match="dimension-mismatch"):
            client.add("narrow", [[1.0, 2.0, 3.0]])
        assert client.collection("narrow")["count"] == 0


def test_it_survives_a_restart_of_the_server(tmp_path: Path) -> None:
    with Server(tmp_path / "data", workers=1) as server, Client(server.url) as client:
        client.create("kept", 2)
        port = server.port
        server.stop()
        with pytest.raises(OSError):
            client.collections()
        server.start()
        client = Client(server.url) if server.port != port else client
        assert client.wait_ready()["status"] == "ready"
        client.add("kept", VECTORS)
        assert client.collection("kept")["count"] == 3
        client.close()


def test_health(shared_server: Server) -> None:
    healthy = command("health", "--url", shared_server.url)
    assert (healthy.returncode, healthy.stderr) == (0, "")
    sick = command("health", "--url", "http://127.0.0.1:1")
    assert sick.returncode == 1
    assert "cannot serve" in sick.stderr


def test_check_and_info_beside_a_server(shared_server: Server) -> None:
    with Client(shared_server.url) as client:
        client.create("looked-at", 2)
        client.add("looked-at", VECTORS)
    checked = command("check", str(shared_server.data_dir))
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "sound" in checked.stdout
    described = command("info", str(shared_server.data_dir))
    assert described.returncode == 0
    assert "looked-at" in described.stdout
    assert command("check", str(shared_server.data_dir / "absent")).returncode == 2


def test_check_says_unsound_by_its_status(tmp_path: Path) -> None:
    with Server(tmp_path / "data", workers=1, checked=False) as server, Client(server.url) as client:
        client.create("spoilt", 2)
        server.stop()
        (catalogue,) = server.data_dir.glob("c/*/catalog.db")
        data = bytearray(catalogue.read_bytes())
        data[200:4000] = bytes(3800)
        catalogue.write_bytes(data)
        assert command("check", str(server.data_dir)).returncode == 1


def test_help_names_the_commands() -> None:
    said = command("--help")
    assert said.returncode == 0
    assert all(name in said.stdout for name in ("serve", "check", "info", "health"))
    assert "SEEDVEC_PENDING_ROWS" in command("serve", "--help").stdout
