"""Any write can be repeated without looking first: a POST with its Idempotency-Key, the others as they are.

After the answer got lost with the connection (the write was done, or not), and after "outcome-unknown": each kind of
write, made again, ends where once would have ended.
"""

import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.faults.judged import DIMENSION, drawn
from tests.faults.table import record
from tests.faults.test_read_only import succeeds
from tests.harness import HOST, Server
from tests.wire import Collection, plain

SUITE = "4 writes repeated"
BASE = 20
LARGE = 150


@dataclass(frozen=True, slots=True)
class Write:
    """status: of the first time; again: where it had been done. expected: count and one item's metadata afterwards."""

    name: str
    method: str
    path: str
    body: Any
    status: int
    again: int
    count: int | None
    metadata: Any = None
    keyed: bool = False
    assigned: bool = field(default=False, compare=False)


def items(ids: list[int] | None, n: int, seed: int) -> dict[str, Any]:
    return {"vectors": plain(drawn(n, seed)), "metadata": [{"seed": seed}] * n} | ({} if ids is None else {"ids": ids})


ADDED = list(range(100, 105))
WRITES = [
    Write("add", "POST", "/vectors", items(ADDED, 5, 2), 201, 201, BASE + 5, {"seed": 0}, True),
    Write("assign", "POST", "/vectors", items(None, 5, 3), 201, 201, BASE + 5, {"seed": 0}, True, True),
    Write("large", "POST", "/vectors", items(None, LARGE, 4), 201, 201, BASE + LARGE, {"seed": 0}, True, True),
    Write("upsert", "PUT", "/vectors", items([0, *ADDED], 6, 5), 200, 200, BASE + 5, {"seed": 5}),
    Write("patch", "PATCH", "/vectors/0", {"metadata": {"p": {"q": 1}}}, 200, 200, BASE, {"seed": 0, "p": {"q": 1}}),
    Write("vector", "PATCH", "/vectors/0", {"vector": plain(drawn(1, 6))[0]}, 200, 200, BASE, {"seed": 0}),
    Write("patch many", "POST", "/vectors/patch", {"ids": [0, 1], "metadata": {"m": 1}}, 200, 200, BASE,
          {"seed": 0, "m": 1}, True),
    Write("patch where", "POST", "/vectors/patch", {"filter": {"seed": 0}, "metadata": {"seed": 1}}, 200, 200, BASE,
          {"seed": 1}, True),
    Write("delete", "POST", "/vectors/delete", {"ids": [5, 6, 77]}, 200, 200, BASE - 2, {"seed": 0}, True),
    Write("delete where", "POST", "/vectors/delete", {"filter": {"seed": 0}}, 200, 200, 0, None, True),
    Write("delete all", "POST", "/vectors/delete", {"filter": {}, "all": True}, 200, 200, 0, None, True),
    Write("delete one", "DELETE", "/vectors/5", None, 204, 404, BASE - 1, {"seed": 0}),
    Write("index", "PUT", "/index", {"kind": "flat"}, 202, 202, BASE, {"seed": 0}),
    Write("recall", "PATCH", "", {"recall": 0.9}, 200, 200, BASE, {"seed": 0}),
    Write("drop", "DELETE", "", None, 204, 404, None),
]  # fmt: skip


def filled(server: Server, name: str) -> Collection:
    there = server.collection(name)
    there.create(DIMENSION, metric="l2")
    there.add(list(range(BASE)), drawn(BASE), [{"seed": 0}] * BASE)
    return there


def headers(write: Write) -> dict[str, str]:
    return {"Idempotency_Key": f"key-{write.name.replace(' ', '-')}"} if write.keyed else {}


def judge(server: Server, there: Collection, write: Write) -> int:
    """Returns how many items were looked at."""
    if write.count is None:
        assert there.name not in server.wire().ok(200, "GET", "/v1/collections")["collections"]
        return 0
    found = there.everything()
    assert len(found) == write.count == there.describe()["count"], write.name
    assert (found[0]["metadata"] if 0 in found else None) == write.metadata, write.name
    if write.assigned:
        old, new = sorted(found)[:BASE], sorted(found)[BASE:]
        assert old == list(range(BASE)) and new == list(range(new[0], new[0] + len(new))), "one run of ids"
        # A large write reserves its ids before its segment is written: where both copies of it came so far, the run
        # of the one that lost is a gap.
        gap = new[0] - BASE
        assert gap == 0 or (write.name == "large" and gap == len(new)), "ids were assigned twice"
    return len(found)


def sent_and_cut_off(server: Server, there: Collection, write: Write) -> None:
    """The whole request, and nobody waits for the answer."""
    body = b"" if write.body is None else json.dumps(write.body).encode()
    lines = [f"{write.method} {there.path}{write.path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}"]
    lines += ["Content-Type: application/json"] if body else []
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers(write).items()]
    with socket.create_connection((HOST, server.port)) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.name.replace(" ", "-"))
def test_after_the_connection_was_cut(shared_server: Server, write: Write) -> None:
    there = filled(shared_server, f"cut-{WRITES.index(write)}")
    sent_and_cut_off(shared_server, there, write)
    answer = there.wire.call(write.method, there.path + write.path, write.body, **headers(write))
    assert answer.status in (write.status, write.again), answer.body
    # And once more, when it was done for sure.
    again = there.wire.call(write.method, there.path + write.path, write.body, **headers(write))
    assert again.status == write.again, again.body
    if write.keyed:
        assert again.body == answer.body
    record(SUITE, 1, 0, judged=judge(shared_server, there, write))


@pytest.fixture(scope="module")
def unsure(shared_server: Server) -> Iterator[Server]:
    """The same server, where files can be made immutable."""
    probe = shared_server.data_dir.parent / "probe"
    probe.touch()
    if not succeeds("chattr", "+i", os.fspath(probe)):
        pytest.skip("files cannot be made immutable here; test_failing_disk repeats every operation too")
    succeeds("chattr", "-i", os.fspath(probe))
    yield shared_server
    succeeds("chattr", "-R", "-i", os.fspath(shared_server.data_dir))


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.name.replace(" ", "-"))
def test_after_an_unknown_outcome(unsure: Server, write: Write) -> None:
    before = set((unsure.data_dir / "c").iterdir())
    there = filled(unsure, f"unsure-{WRITES.index(write)}")
    [folder] = set((unsure.data_dir / "c").iterdir()) - before
    log = folder / "catalog.db-wal"
    assert succeeds("chattr", "+i", os.fspath(log))
    try:
        answer = there.wire.call(write.method, there.path + write.path, write.body, **headers(write))
    finally:
        assert succeeds("chattr", "-i", os.fspath(log))
    assert answer.status == 503, answer.body
    kinds = {"outcome-unknown", "unavailable"} if write.name == "drop" else {"outcome-unknown"}
    assert answer.json()["type"].rpartition("/")[2] in kinds, answer.body
    there.wire.ok(write.status, write.method, there.path + write.path, write.body, **headers(write))
    again = there.wire.call(write.method, there.path + write.path, write.body, **headers(write))
    assert again.status == write.again, again.body
    record(SUITE, 1, 0, judged=judge(unsure, there, write))
