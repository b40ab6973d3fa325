"""Snapshots over HTTP: what is in one taken while writes go on; restored, sent and received, by the command too."""

import http.client
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from app.snapshot_command import main as offline
from seedvec.snapshot_command import main
from tests.harness import ROOT, SMALL, Server, wait_for
from tests.wire import Collection

DIMENSION = 6


@pytest.fixture(scope="module")
def client(shared_server: Server) -> httpx.Client:
    return shared_server.client


def drawn(seed: int, n: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, DIMENSION)).astype(np.float32)


def filled(server: Server, name: str, n: int = 40) -> Collection:
    made = server.collection(name)
    made.create(DIMENSION, metric="l2", id_type="int", index={"kind": "flat"})
    made.add(range(n), drawn(n, n), [{"i": i} for i in range(n)])
    return made


def take(client: httpx.Client, name: str, *collections: str) -> Any:
    answer = client.post("/v1/snapshots", json={"name": name, "collections": list(collections)})
    assert answer.status_code == 201, answer.text
    return answer.json()


def restore(client: httpx.Client, name: str, status: int = 202, **body: Any) -> Any:
    answer = client.post(f"/v1/snapshots/{name}/restore", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


class Pouring(threading.Thread):
    """Adds one item after the other, the ids ascending, and knows how many were acknowledged."""

    def __init__(self, collection: Collection) -> None:
        super().__init__(daemon=True)
        self.collection = collection
        self.sent = self.acknowledged = 0
        self.stopped = threading.Event()
        self.fault: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.stopped.is_set():
                self.sent += 5
                self.collection.add(range(self.sent - 5, self.sent), drawn(self.sent, 5))
                self.acknowledged = self.sent
        except BaseException as fault:
            self.fault = fault

    def end(self) -> None:
        self.stopped.set()
        self.join()
        if self.fault is not None:
            raise self.fault


def test_taken_while_writes_go_on(shared_server: Server, client: httpx.Client) -> None:
    """Each row acknowledged before the request is in it, none sent after its answer, and there is one clear cut."""
    poured = shared_server.collection("poured")
    poured.create(DIMENSION, metric="l2", id_type="int")
    pouring = Pouring(poured)
    pouring.start()
    bounds = []
    for i in range(2):
        while pouring.acknowledged < 200 * (i + 1):  # sealed at 100, merged now and then
            assert pouring.fault is None
        low = pouring.acknowledged
        take(client, f"poured-{i}", "poured")
        bounds.append((low, pouring.sent))
    pouring.end()
    now = poured.everything()
    for i, (low, high) in enumerate(bounds):
        restore(client, f"poured-{i}", **{"as": f"poured-again-{i}"})
        found = shared_server.collection(f"poured-again-{i}").everything()
        assert low <= len(found) <= high and sorted(found) == list(range(len(found)))
        assert found == {id_: now[id_] for id_ in found}


def test_restored_in_its_place(shared_server: Server, client: httpx.Client) -> None:
    words = filled(shared_server, "words")
    before = words.everything()
    take(client, "words-1", "words")
    words.add([1000], drawn(1, 1))
    words.delete([3])
    problem = restore(client, "words-1", 409)
    assert problem["type"] == "/problems/name-taken" and "replace" in problem["detail"]
    assert words.describe()["count"] == 40
    assert restore(client, "words-1", replace=True) == {
        "snapshot": "words-1",
        "collections": [{"name": "words", "from": "words", "count": 40}],
    }
    for _ in range(8):  # at each worker
        assert shared_server.collection("words").everything() == before
    words.add([1000], drawn(1, 1))
    assert words.describe()["count"] == 41


def test_several_at_once_or_none(shared_server: Server, client: httpx.Client) -> None:
    for name in ("one", "two"):
        filled(shared_server, name)
    take(client, "both", "one", "two", "one")
    shared_server.collection("two").drop()
    restore(client, "both", 409)
    assert "two" not in client.get("/v1/collections").json()["collections"]
    restore(client, "both", 422, **{"as": "three"})
    restore(client, "both", 422, collections=["three"])
    restore(client, "both", 422, **{"as": "No name"})
    restore(client, "both", collections=["two"])
    restore(client, "both", collections=["one"], **{"as": "three"})
    assert {"one", "two", "three"} <= set(client.get("/v1/collections").json()["collections"])


def test_downloaded_and_uploaded(shared_server: Server, client: httpx.Client) -> None:
    made = filled(shared_server, "sent")
    described = take(client, "sent-1", "sent")
    tar = client.get("/v1/snapshots/sent-1.tar")
    assert tar.headers["content-type"] == "application/x-tar"
    assert int(tar.headers["content-length"]) == len(tar.content)
    again = client.put("/v1/snapshots/sent-2.tar", content=tar.content)
    assert again.status_code == 201
    assert again.json() == {**described, "name": "sent-2", "uploaded": True}
    assert client.get("/v1/snapshots/sent-2.tar").content == tar.content
    restore(client, "sent-2", **{"as": "sent-again"})
    assert shared_server.collection("sent-again").everything() == made.everything()
    assert client.put("/v1/snapshots/sent-2.tar", content=tar.content).status_code == 409
    listed = {s["name"]: s for s in client.get("/v1/snapshots").json()["snapshots"]}
    assert listed["sent-2"]["uploaded"] and not listed["sent-1"]["uploaded"]


@pytest.mark.parametrize("change", ["cut", "flipped", "empty", "text", "behind"])
def test_uploads_that_are_none(shared_server: Server, client: httpx.Client, change: str) -> None:
    if client.get("/v1/collections/whole").status_code == 404:
        filled(shared_server, "whole")
        take(client, "whole", "whole")
    tar = bytearray(client.get("/v1/snapshots/whole.tar").content)
    if change == "flipped":
        tar[len(tar) // 2] ^= 1
    body = {"cut": tar[:-700], "flipped": tar, "empty": b"", "text": b"hello" * 1000, "behind": tar + b"x" * 512}
    before = client.get("/v1/snapshots").json()
    answer = client.put("/v1/snapshots/bad.tar", content=bytes(body[change]))
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/bad-snapshot"), answer.text
    assert client.get("/v1/snapshots").json() == before
    folder = shared_server.data_dir / "snapshots"
    wait_for("nothing is left of it", lambda: not any(path.name.endswith(".tmp") for path in folder.iterdir()))


def test_an_upload_that_breaks_off(shared_server: Server, client: httpx.Client) -> None:
    filled(shared_server, "broken")
    take(client, "broken", "broken")
    tar = client.get("/v1/snapshots/broken.tar").content
    connection = http.client.HTTPConnection("127.0.0.1", shared_server.port)
    connection.putrequest("PUT", "/v1/snapshots/half.tar")
    connection.putheader("Content-Length", str(len(tar)))
    connection.endheaders(tar[: len(tar) // 2])
    connection.close()
    assert client.get("/v1/snapshots/half").status_code == 404
    assert client.put("/v1/snapshots/half.tar", content=tar).status_code == 201


REFUSED = [
    ("POST", "/v1/snapshots", {"name": "Bad Name"}, 422),
    ("POST", "/v1/snapshots", {"name": "../x"}, 422),
    ("POST", "/v1/snapshots", {"name": "x", "collections": []}, 422),
    ("POST", "/v1/snapshots", {"name": "x", "collections": ["not-there"]}, 404),
    ("POST", "/v1/snapshots", {"name": "x", "more": 1}, 422),
    ("POST", "/v1/snapshots", {}, 422),
    ("GET", "/v1/snapshots/nowhere", None, 404),
    ("GET", "/v1/snapshots/nowhere.tar", None, 404),
    ("GET", "/v1/snapshots/%2e%2e", None, 404),
    ("GET", "/v1/snapshots/..%2fx.tar", None, 404),
    ("GET", "/v1/snapshots/a%00b.tar", None, 404),
    ("GET", "/v1/snapshots?x=1", None, 422),
    ("DELETE", "/v1/snapshots/nowhere", None, 404),
    ("PUT", "/v1/snapshots/Bad.tar", None, 422),
    ("PUT", "/v1/snapshots/x.tar?replace=1", None, 422),
    ("PUT", "/v1/snapshots/x.tar", {"json": 1}, 415),
    ("POST", "/v1/snapshots/nowhere/restore", {}, 404),
    ("POST", "/v1/snapshots/nowhere/restore", {"as": 1}, 422),
    ("POST", "/v1/snapshots/nowhere/restore", {"replace": "yes"}, 422),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), REFUSED)
def test_refused(client: httpx.Client, method: str, path: str, body: Any, status: int) -> None:
    answer = client.request(method, path, **({} if body is None else {"json": body}))
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_command_asks_a_server(
    shared_server: Server, client: httpx.Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = filled(shared_server, "asked")
    file, url = tmp_path / "asked-1.tar", shared_server.url
    assert main(["snapshot", "asked-1", "--collections", "asked", "--out", str(file), "--url", url]) == 0
    assert "asked (40 items)" in capsys.readouterr().out
    assert file.read_bytes() == client.get("/v1/snapshots/asked-1.tar").content
    assert main(["snapshot", "asked-2", "--out", str(file), "--url", url]) == 1
    assert "exists" in capsys.readouterr().err
    assert client.get("/v1/snapshots/asked-2").status_code == 404
    file = file.rename(tmp_path / "asked-3.tar")
    for name, new in (("asked-1", "asked-again"), (str(file), "asked-sent")):
        assert main(["restore", name, "--as", new, "--url", url]) == 0
        assert shared_server.collection(new).everything() == made.everything()
    assert main(["restore", "asked-1", "--url", url]) == 1
    assert "replace" in capsys.readouterr().err
    assert offline(["snapshot", "asked-4", "--data", str(shared_server.data_dir)]) == 2
    assert f"--url {url}" in capsys.readouterr().err


def test_a_backup_brought_to_another_machine(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Taken, written to a file, restored without a server into a folder that is empty, and served."""
    file, elsewhere = str(tmp_path / "moved.tar"), tmp_path / "elsewhere"
    with Server(tmp_path / "data", workers=1, env=SMALL) as server:
        made = server.collection("moved")
        made.create(DIMENSION, metric="l2", id_type="int", index={"kind": "hnsw"})
        made.add(range(1200), drawn(0, 1200))
        made.wait_ready()
        before = made.everything()
        assert main(["snapshot", "moved", "--out", file, "--url", server.url]) == 0
    command = [sys.executable, "-m", "seedvec.cli", "restore", file, "--data", str(elsewhere)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert "moved (1,200 items)" in done.stdout
    assert offline(["snapshot", "offline", "--data", str(elsewhere)]) == 0
    assert offline(["restore", "offline", "--data", str(elsewhere)]) == 1
    assert 'there is a collection moved: give "as"' in capfd.readouterr().err
    with Server(elsewhere, workers=1, env=SMALL) as server:
        moved = server.collection("moved")
        assert moved.everything() == before
        assert moved.describe()["index"]["indexed"] == 1200, "its index came along"
