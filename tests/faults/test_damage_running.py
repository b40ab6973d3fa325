"""Suite 5, second half: damage that comes while a server runs.

What is read through SQLite is verified on every reading. What is mapped cannot be: a file that is cut off kills the
process that reads it. It comes again, and what was damaged is out of service by then; the others serve all the while.
"""

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app.engine import errors
from app.engine.types import CollectionSettings, IndexSpec, Rows
from storage import catalogue
from storage.check import check
from storage.registry import Registry
from tests.faults.hands import Hands, turn_over
from tests.faults.table import Extent
from tests.harness import SMALL, Server, wait_for

BOTH = frozenset({"vector", "metadata"})
ITEMS = 600
LONG = b'{"text":"%s"}'


def overwrite(path: Path) -> None:
    """Every page but the first, a bit each."""
    with path.open("r+b") as file:
        for at in range(4096, path.stat().st_size, 4096):
            file.seek(at + 100)
            byte = file.read(1)[0]
            file.seek(at + 100)
            file.write(bytes([byte ^ 4]))


def cut(path: Path) -> None:
    os.truncate(path, 4096)


def zeros(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(path.stat().st_size - 4096))


def tails(path: Path) -> None:
    """The last page of each long value, and nothing else: SQLite takes zeros there for its content."""
    raw = bytearray(path.read_bytes())
    for at in range(4096, len(raw), 4096):
        if raw[at : at + 4] == bytes(4) and b"}" in raw[at : at + 4096]:
            raw[at : at + 4096] = bytes(4096)
    path.write_bytes(raw)


def gone(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    shutil.copy(path, path.with_suffix(".copy"))
    path.with_suffix(".copy").rename(path)


async def _filled(hands: Hands) -> None:
    """Metadata too large for the pages that SQLite keeps in memory, and all of it brought home."""
    for name in ("bad", "good"):
        await hands.engine.create(name, CollectionSettings(4, "l2", index=IndexSpec("flat")))
        for first in range(0, ITEMS, 200):
            texts: list[bytes | None] = [LONG % (b"%d " % i * 2500) for i in range(first, first + 200)]
            vectors = np.arange(800, dtype=np.float32).reshape(200, 4) + first * 4
            await hands.engine.add(name, Rows(vectors, list(range(first, first + 200)), texts))
    hands.seal()


@pytest.mark.parametrize("damage", [overwrite, cut, zeros, tails, gone, replaced], ids=lambda f: f.__name__)
def test_a_catalogue_while_it_is_in_use(damage: Callable[[Path], None], tmp_path: Path) -> None:
    """Whatever is still answered is right; what met the damage closes the collection, for good and by name."""

    async def driven() -> None:
        async with await Hands.start(tmp_path / "data") as hands:
            await _filled(hands)
            await turn_over()
            folder = hands.engine._open[hands.engine._registered["bad"].uuid].folder
            db = catalogue.connect(folder)
            assert db.truncate_log(), "a reader stood in the way"
            db.close()
            damage(folder / "catalog.db")
            answered = await _read_all(hands, "bad")
            with pytest.raises(errors.CollectionClosed, match="seedvec repair"):
                for i in range(0, ITEMS, 50):
                    await hands.engine.patch("bad", i, b'{"n":1}', None)
            assert answered == ITEMS or damage not in (gone, replaced)
            await turn_over()
            assert list(hands.engine.closed()) == ["bad"]
            assert (await hands.engine.describe("bad"))["index"]["state"] == "closed"
            with pytest.raises(errors.CollectionClosed):
                await hands.engine.fetch("bad", [1], BOTH)
            assert await _read_all(hands, "good") == ITEMS
            hands.engine._look_at_all()
        registry = Registry(tmp_path / "data")
        reasons = {entry.name: entry.reason for entry in registry.read()}
        registry.close()
        assert reasons["bad"] is not None and reasons["good"] is None, "the other processes are not told"

    (tmp_path / "data").mkdir()
    Registry(tmp_path / "data", create=True).close()
    asyncio.run(driven())


async def _read_all(hands: Hands, name: str) -> int:
    """How many items were answered; each is asserted to be right."""
    count = 0
    for i in range(ITEMS):
        try:
            items, missing = await hands.engine.fetch(name, [i], BOTH)
        except errors.CollectionClosed:
            break
        await turn_over()
        assert not missing and items.vectors is not None and items.metadata is not None
        assert items.vectors[0].tolist() == [i * 4 + j for j in range(4)]
        assert items.metadata[0] == LONG % (b"%d " % i * 2500)
        count += 1
    return count


def test_a_merge_does_not_seal_damage_in(tmp_path: Path) -> None:
    """What it writes gets a checksum of its own: a bit flipped before would never be found again."""

    async def driven() -> None:
        async with await Hands.start(tmp_path / "data") as hands:
            for name in ("bad", "good"):
                await hands.engine.create(name, CollectionSettings(4, "l2", index=IndexSpec("flat")))
                for first in range(0, 200, 20):
                    vectors = np.random.default_rng(first).standard_normal((20, 4)).astype(np.float32)
                    await hands.engine.add(name, Rows(vectors, list(range(first, first + 20))))
                    hands.seal()
            folder = hands.engine._open[hands.engine._registered["bad"].uuid].folder
            path = sorted((folder / "segments").glob("*.h5"))[0]
            with path.open("r+b") as file:
                file.seek(12_300)
                file.write(b"\xff")
            with pytest.raises(catalogue.errors.Damaged, match=path.name):
                hands.build()

    (tmp_path / "data").mkdir()
    Registry(tmp_path / "data", create=True).close()
    asyncio.run(driven())


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", ["segment", "index"])
def test_a_mapped_file_that_is_cut_off(kind: str, tmp_path: Path, extent: Extent) -> None:
    """SIGBUS ends whoever reads it. The server goes on: with the collection closed, or its index made anew."""
    if kind == "index" and extent == "quick":
        pytest.skip("in the whole run")
    data = tmp_path / "data"
    vectors = np.random.default_rng(1).standard_normal((2000, 64)).astype(np.float32)
    with Server(data, env=SMALL, may_trace=True, checked=False) as server:
        bad, good = server.collection("bad"), server.collection("good")
        for collection in (bad, good):
            collection.create(64, metric="l2", index={"kind": "hnsw"})
            collection.add_npy(vectors)
            collection.wait_ready()
        path = _file(data, "bad", "*.h5" if kind == "segment" else "*.faiss")
        os.truncate(path, 4096)
        wait_for("the collection is out of service, or its index", lambda: _is_seen_to(server, kind, vectors), 60)
        for _ in range(20):
            hits = _searched(server, "good", vectors[17])
            assert hits is not None and hits[0]["id"] == 17, "the others serve"
        state = server.collection("bad").describe()["index"]
        if kind == "segment":
            assert state["state"] == "closed" and path.name in state["reason"]
            assert "seedvec repair" in state["reason"]
            assert "bad" in server.client.get("/readyz").text
            assert server.client.get("/readyz").status_code == 200
            assert any("bad" in str(f) for f in check(data).findings if f.severity == "error")
        else:
            assert server.collection("bad").wait_ready()["index"]["kind"] == "hnsw", "it was made anew"
            assert check(data).sound


def _file(data: Path, name: str, pattern: str) -> Path:
    registry = Registry(data)
    folder = registry.folder(next(entry.uuid for entry in registry.read() if entry.name == name))
    registry.close()
    (path,) = (folder / "segments").glob(pattern)
    return path


def _is_seen_to(server: Server, kind: str, vectors: Any) -> bool:
    """Asks until both workers know. A connection may die under a request: its worker did."""
    hits = [_searched(server, "bad", vectors[i]) for i in range(8)]
    if kind == "segment":
        return not any(hits) and _describes(server).get("state") == "closed"
    return all(hits) and _describes(server).get("state") in ("building", "ready")


def _describes(server: Server) -> dict[str, Any]:
    try:
        described: dict[str, Any] = server.client.get("/v1/collections/bad").json()["index"]
    except httpx.TransportError:
        return {}
    return described


def _searched(server: Server, name: str, query: Any) -> list[Any] | None:
    """The hits; None where it is closed, or the worker died."""
    try:
        with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as client:
            answer = client.post(f"/v1/collections/{name}/search", json={"vector": query.tolist(), "k": 3})
    except httpx.TransportError:
        return None
    assert answer.status_code in (200, 503), answer.text
    hits: list[Any] | None = answer.json().get("hits")
    return hits
