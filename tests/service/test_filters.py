"""Filters and real processes: two workers, sealing and merging all the time, kill -9, a restart."""

import http.client
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.filter_reference import matches
from tests.harness import SMALL, Server, wait_for
from tests.wire import Collection

DIMENSION = 4
ROUNDS = 60
MANY = 5_000
"""More than SMALL lets pend: a segment of its own, whose columns are derived afterwards."""
DERIVED = "derived in memory"
"""What the log says where a worker finds no columns file."""
Json = dict[str, Any]


def drawn(n: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((n, DIMENSION)).astype(np.float32)


def matching(model: dict[int, Json], filter: Json) -> list[int]:
    return sorted(id_ for id_, metadata in model.items() if matches(filter, metadata))


def assert_answers(c: Collection, model: dict[int, Json], filter: Json) -> None:
    wanted = matching(model, filter)
    assert c.wire.ok(200, "POST", f"{c.path}/count", {"filter": filter}) == {"count": len(wanted)}
    page = c.wire.ok(200, "POST", f"{c.path}/vectors/list", {"filter": filter, "limit": 10_000})
    assert {item["id"]: item["metadata"] for item in page["items"]} == {id_: model[id_] for id_ in wanted}
    for exact in (True, False):
        hits = c.search(drawn(1)[0], 20, filter=filter, exact=exact)["hits"]
        assert len(hits) == min(20, len(wanted)) and {hit["id"] for hit in hits} <= set(wanted)
        assert all(hit["metadata"] == model[hit["id"]] for hit in hits)


def test_filters_see_every_acknowledged_write_at_every_worker(server: Server) -> None:
    """Whoever wrote: the other one answers with it at once. Rows are sealed and merged meanwhile."""
    first, second = (Collection(wire, "both") for wire in server.wire_to_each())
    first.create(DIMENSION, metric="l2", id_type="int")
    model: dict[int, Json] = {}
    for round_ in range(ROUNDS):
        writer, reader = (first, second) if round_ % 2 else (second, first)
        ids = list(range(20 * round_, 20 * round_ + 20))
        rows = {id_: {"n": id_, "third": id_ % 3 == 0, "round": round_} for id_ in ids}
        writer.add(ids, drawn(20), list(rows.values()))
        model |= rows
        assert_answers(reader, model, {"round": {"$gte": round_ - 1}})
        change = {"third": None, "late": ["x", round_]}
        writer.patch(ids[0], metadata=change)
        model[ids[0]] = {"n": ids[0], "round": round_, "late": ["x", round_]}
        assert_answers(reader, model, {"late": round_})
        writer.upsert([ids[1]], drawn(1), [{"n": -1}])
        model[ids[1]] = {"n": -1}
        filter = {"third": True, "n": {"$gte": 20 * round_ - 7}}
        some = matching(model, filter)
        body = {"filter": filter, "metadata": {"third": "was"}}
        assert writer.wire.ok(200, "POST", f"{writer.path}/vectors/patch", body) == {"patched": len(some)}
        for id_ in some:
            model[id_] = model[id_] | {"third": "was"}
        assert_answers(reader, model, {"third": "was"})
        filter = {"$or": [{"n": -1}, {"round": {"$lt": round_ - 5}, "third": False}]}
        gone = matching(model, filter)
        for dry_run in (True, False):
            assert_answers(reader, model, filter)
            body = {"filter": filter, "dry_run": dry_run}
            assert writer.wire.ok(200, "POST", f"{writer.path}/vectors/delete", body)["deleted"] == len(gone)
        for id_ in gone:
            del model[id_]
        assert_answers(reader, model, {"third": False})
        assert_answers(writer, model, {"$not": {"third": "was"}})
    for c in (first, second):
        assert_answers(c, model, {"n": {"$gte": 0}})
        assert c.describe()["count"] == len(model)


def test_bulk_writes_are_repeated_without_harm(server: Server) -> None:
    c = server.collection("once")
    c.create(DIMENSION, metric="l2", id_type="int")
    c.add(list(range(10)), drawn(10), [{"n": i} for i in range(10)])
    few: Json = {"filter": {"n": {"$lt": 3}}}
    for _ in range(2):
        answer = c.wire.ok(200, "POST", f"{c.path}/vectors/delete", few, Idempotency_Key="d")
        assert answer == {"deleted": 3}
        body = {"filter": {"n": {"$gte": 8}}, "metadata": {"n": 0}}
        assert c.wire.ok(200, "POST", f"{c.path}/vectors/patch", body, Idempotency_Key="p") == {"patched": 2}
    assert c.describe()["count"] == 7  # the patched ones match the first filter now, and are there still
    problem = c.wire.ok(422, "POST", f"{c.path}/vectors/delete", {"filter": {"n": 0}}, Idempotency_Key="d")
    assert problem["type"] == "/problems/idempotency-mismatch"


KILLED = [("delete", "database.commit"), ("delete", "database.committed"), ("patch", "database.commit")]


@pytest.mark.parametrize(("act", "place"), KILLED)
def test_killed_in_a_bulk_write_all_or_nothing(tmp_path: Path, act: str, place: str) -> None:
    """The worker dies right before, or right after, the commit of a write that came by filter."""
    model: dict[int, Json] = {i: {"n": i} for i in range(MANY)}
    filter: Json = {"n": {"$gte": 1_000, "$lt": 4_500}}
    with Server(tmp_path / "data", env=SMALL, may_trace=True) as server:
        c = server.collection("kept")
        c.create(DIMENSION, metric="l2", id_type="int")
        c.add(list(model), drawn(MANY), list(model.values()))
        server.stop()
        # The first that any worker commits from here on is the write in question.
        server.env["SEEDVEC_FAILPOINTS"] = f"{place}@app.worker:kill:1"
        server.start()
        c = server.collection("kept")
        body = {"filter": filter} | ({"metadata": {"seen": True}} if act == "patch" else {})
        with pytest.raises((OSError, http.client.HTTPException)):
            c.wire.call("POST", f"{c.path}/vectors/{act}", body)
        server.kill()
        del server.env["SEEDVEC_FAILPOINTS"]
        server.start()
        if place == "database.committed":
            for id_ in matching(model, filter):
                del model[id_]
        for wire in server.wire_to_each():
            c = Collection(wire, "kept")
            assert c.describe()["count"] == len(model)
            for asked in (filter, {"seen": True}, {"n": {"$lt": 1_100}}, {"n": {"$exists": True}}):
                assert_answers(c, model, asked)


def test_after_a_restart_nothing_is_parsed_again(tmp_path: Path) -> None:
    """Filters are asked of the columns files; no worker makes its own. Without the files, each would say so."""
    model: dict[int, Json] = {i: {"n": i, "word": f"w{i % 7}"} for i in range(MANY)}
    segments = tmp_path / "data" / "c"

    def described() -> bool:
        made = {p.name.partition(".")[0] for p in segments.glob("*/segments/*.npz")}
        return made == {p.stem for p in segments.glob("*/segments/*.h5")}

    with Server(tmp_path / "data", env=SMALL) as server:
        c = server.collection("kept")
        c.create(DIMENSION, metric="l2", id_type="int")
        c.add(list(model), drawn(MANY), list(model.values()))
        assert_answers(c, model, {"word": "w3"})
        wait_for("the columns are written", described)
        c.wait_ready()
        wait_for("the columns are written", described)
        server.stop()
        said = len(server.log_path.read_bytes())
        server.start()
        for wire in server.wire_to_each():
            assert_answers(Collection(wire, "kept"), model, {"word": "w3", "n": {"$gte": 700}})
        assert DERIVED.encode() not in server.log_path.read_bytes()[said:]
        server.stop()
        for file in segments.glob("*/segments/*.npz"):
            file.write_bytes(file.read_bytes()[:1000])
        # Until the sealer comes to it, which it has to be kept from for a while.
        server.env["SEEDVEC_FAILPOINTS"] = "columns.write@app.sealer:sleep=20"
        server.start()
        for wire in server.wire_to_each():
            assert_answers(Collection(wire, "kept"), model, {"word": "w3", "n": {"$gte": 700}})
        assert server.log_path.read_bytes()[said:].count(DERIVED.encode()) == server.workers
        server.kill()
        del server.env["SEEDVEC_FAILPOINTS"]
        server.start()
        wait_for("the columns are written again", described)


def test_filters_while_others_write(server: Server) -> None:
    """Items move between two values: a filter for either never shows one with the other."""
    first, second = server.wire_to_each()
    writer, reader = Collection(first, "moves"), Collection(second, "moves")
    writer.create(DIMENSION, metric="l2", id_type="int")
    writer.add(list(range(300)), drawn(300), [{"side": "left"} for _ in range(300)])
    sides = ("left", "right")
    end, moved = time.monotonic() + 3, 0
    with ThreadPoolExecutor(1) as beside:
        while time.monotonic() < end or moved < 4:
            here, there = sides if moved % 2 == 0 else sides[::-1]
            body = {"filter": {"side": here}, "metadata": {"side": there}}
            patching = beside.submit(writer.wire.ok, 200, "POST", f"{writer.path}/vectors/patch", body)
            for asked in sides:
                hits = reader.search(drawn(1)[0], 10, filter={"side": asked}, exact=True)["hits"]
                assert [hit["metadata"]["side"] for hit in hits] in ([], 10 * [asked])
            assert patching.result() == {"patched": 300}
            moved += 1
            for side, count in ((here, 0), (there, 300)):
                body = {"filter": {"side": side}}
                assert reader.wire.ok(200, "POST", f"{reader.path}/count", body) == {"count": count}
