"""Walking a collection page by page while it changes under the walker."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.harness import Server
from tests.oracle import Oracle
from tests.wire import Collection

DIMENSION = 4
ROWS = 900


def drawn(n: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, DIMENSION)).astype(np.float32)


@pytest.mark.parametrize("kind", ["int", "str"])
def test_untouched_items_appear_exactly_once(server: Server, kind: str) -> None:
    """Upserts, deletes and adds between the pages, with sealing and merging going on."""
    words = server.collection(f"walk-{kind}")
    words.create(DIMENSION, id_type=kind)
    ids = [f"w{i}" if kind == "str" else i for i in range(2 * ROWS)]
    vectors = drawn(2 * ROWS)
    words.add(ids[:ROWS], vectors[:ROWS], [{"n": i} for i in range(ROWS)])
    rng, seen, fresh, touched = np.random.default_rng(3), [], ROWS, set()
    for number, page in enumerate(words.pages(50)):
        assert len(page) <= 50
        seen += page
        # Another connection writes, so that the walk is not helped by its own worker's order.
        other = server.collection(words.name)
        upserted, deleted = (int(x) for x in rng.choice(ROWS, 2, replace=False))
        if ids[upserted] not in touched:
            other.upsert([ids[upserted]], vectors[upserted : upserted + 1])
            touched.add(ids[upserted])
        if ids[deleted] not in touched:
            other.delete([ids[deleted]])
            touched.add(ids[deleted])
        if number % 2 == 0 and fresh < 2 * ROWS:
            other.add([ids[fresh]], vectors[fresh : fresh + 1])
            touched.add(ids[fresh])
            fresh += 1
    listed = [item["id"] for item in seen]
    untouched = [id for id in ids[:ROWS] if id not in touched]
    assert len(untouched) > ROWS // 2
    assert [id for id in listed if id not in touched] == untouched, "untouched items: once each, in key order"
    for item in seen:
        if item["id"] not in touched:
            row = ids.index(item["id"])
            assert item["metadata"] == {"n": row}
            assert np.array(item["vector"], np.float32).tobytes() == vectors[row].tobytes()


def test_pages_cover_everything_at_any_limit(shared_server: Server) -> None:
    words = shared_server.collection("limits")
    words.create(DIMENSION, metric="l2")
    oracle = Oracle(DIMENSION, "l2")
    words.add(list(range(137)), drawn(137))
    oracle.put(range(137), drawn(137))
    for limit in (1, 10, 137, 138, 10_000):
        pages = list(words.pages(limit))
        assert all(len(page) == limit for page in pages[:-1])
        oracle.judge_stored({item["id"]: item for page in pages for item in page})
    by_post = words.wire.ok(200, "POST", f"{words.path}/vectors/list", {"limit": 5, "include": ["vector"]})
    assert [item["id"] for item in by_post["items"]] == [0, 1, 2, 3, 4]
    assert "metadata" not in by_post["items"][0]


def test_cursor_outlives_a_restart(server: Server) -> None:
    words = server.collection("cursor")
    words.create(DIMENSION)
    words.add(list(range(30)), drawn(30))
    page = words.wire.ok(200, "GET", f"{words.path}/vectors?limit=20")
    server.restart()
    words = server.collection("cursor")
    rest = words.wire.ok(200, "GET", f"{words.path}/vectors?limit=20&cursor={page['next']}")
    assert [item["id"] for item in page["items"] + rest["items"]] == list(range(30))
    assert rest["next"] is None


@pytest.mark.parametrize("cursor", ["nonsense", "-1", "%00", "9" * 60, "é"])
def test_strange_cursors_are_refused_or_harmless(shared_server: Server, cursor: str) -> None:
    words = Collection(shared_server.wire(), "strange")
    answer = words.wire.call("PUT", words.path, {"dimension": DIMENSION})
    assert answer.status in (200, 201)
    query = f"{words.path}/vectors?cursor={quoted(cursor)}"
    answer = words.wire.call("GET", query)
    assert answer.status in (200, 400, 422), answer
    if answer.status != 200:
        assert answer.headers["content-type"] == "application/problem+json"


def quoted(cursor: str) -> str:
    return cursor if cursor.startswith("%") else "".join(f"%{byte:02X}" for byte in cursor.encode())
