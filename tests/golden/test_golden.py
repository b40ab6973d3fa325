"""What earlier versions have written is opened, upgraded and restored for ever: see `make.py`."""

import gzip
import io
import json
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage import catalogue, failpoints
from storage.check import check
from storage.registry import Registry
from tests.golden.make import FIRST_WITH_SNAPSHOTS, HERE, SETTINGS, everything
from tests.harness import Server
from tests.oracle import Oracle

VERSIONS = sorted(int(path.name.partition(".")[0]) for path in HERE.glob("*.tar.gz"))
OPENED = [version for version in VERSIONS if version < FIRST_WITH_SNAPSHOTS]
RESTORED = [version for version in VERSIONS if version >= FIRST_WITH_SNAPSHOTS]


def tar(version: int) -> bytes:
    return gzip.decompress((HERE / f"{version}.tar.gz").read_bytes())


def expected(version: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((HERE / f"{version}.json").read_text())
    return found


def test_every_version_is_here() -> None:
    """Who raises the version of the catalogue runs `make.py` before and after."""
    assert VERSIONS == list(range(VERSIONS[0], catalogue.VERSION + 1))


def unpacked(version: int, data: Path) -> Path:
    with tarfile.open(fileobj=io.BytesIO(tar(version))) as archive:
        archive.extractall(data, filter="data")
    return data


def test_a_registry_is_upgraded_whole_or_not_at_all(tmp_path: Path) -> None:
    """3 has a registry of version 1."""
    data = unpacked(3, tmp_path / "data")

    def kill(name: str, _: object) -> None:
        if name == "registry.upgrade":
            raise KeyboardInterrupt

    with failpoints.watched(kill), pytest.raises(KeyboardInterrupt):
        Registry(data, create=True)
    with closing(sqlite3.connect(data / "registry.db")) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'aliases'").fetchone() == (0,)
    with closing(Registry(data, create=True)) as registry:
        assert {entry.name for entry in registry.read()} == set(expected(3)) and registry.aliases() == {}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """On a folder that version 3 has left, as it lay there."""
    data = unpacked(OPENED[-1], tmp_path_factory.mktemp("golden") / "data")
    assert not check(data).sound, "an older format is not read before a start has brought it up to date"
    with Server(data, workers=1, env=SETTINGS) as running:
        yield running


def test_a_folder_of_before_is_opened(server: Server) -> None:
    wanted = expected(OPENED[-1])
    assert everything(server, sorted(wanted)) == wanted
    ints = server.collection("ints")
    assert_searched(server, "ints", wanted["ints"])
    assert ints.describe()["index"]["indexed"] > 0
    ints.add([10_000], np.ones((1, 8), np.float32), [{"new": True}])
    assert [item["id"] for item in filtered(server, "ints", {"new": True})] == [10_000]
    ints.delete([10_000])
    assert len(filtered(server, "ints", {"even": True})) == sum(
        bool((item["metadata"] or {}).get("even")) for item in wanted["ints"].values()
    )


@pytest.mark.parametrize("version", RESTORED)
def test_a_snapshot_of_before_is_restored(server: Server, version: int) -> None:
    """Sent to a server that has collections of the same names, which it takes the place of."""
    wanted, name = expected(version), f"golden-{version}"
    sent = server.client.put(f"/v1/snapshots/{name}.tar", content=tar(version))
    assert sent.status_code == 201, sent.text
    answer = server.client.post(f"/v1/snapshots/{name}/restore", json={"replace": True})
    assert answer.status_code == 202, answer.text
    assert everything(server, sorted(wanted)) == wanted
    assert_searched(server, "ints", wanted["ints"])


def filtered(server: Server, name: str, filter: dict[str, Any]) -> list[dict[str, Any]]:
    body = {"filter": filter, "limit": 1000}
    items: list[dict[str, Any]] = server.wire().ok(200, "POST", f"/v1/collections/{name}/vectors/list", body)["items"]
    return items


def assert_searched(server: Server, name: str, items: dict[str, Any]) -> None:
    oracle = Oracle(8, "l2")
    oracle.put([item["id"] for item in items.values()], np.array([i["vector"] for i in items.values()], np.float32))
    query = np.full(8, 0.5, np.float32)
    hits = server.collection(name).search(query, k=5, exact=True)["hits"]
    assert [hit["id"] for hit in hits] == [id_ for id_, _ in oracle.nearest(query, 5)]
