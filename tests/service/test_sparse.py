"""Sparse collections and real processes: two workers, sealing and merging all the time, kill -9, files in and out."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import scipy.sparse

import seedvec
from seedvec.sparse import SparseRows, concatenate
from tests.harness import SMALL, Server
from tests.index.sparse_data import drawn, true_distances
from tests.wire import NPY, Collection

D = 30_522
Json = dict[str, Any]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("sparse") / "data", env=SMALL) as running:
        yield running


def vectors(rows: SparseRows) -> list[Json]:
    """As a client sends them: places in no order."""
    out = []
    for i in range(len(rows)):
        one = rows[i : i + 1]
        order = np.random.default_rng(i).permutation(one.size)
        out.append({"indices": one.indices[order].tolist(), "values": one.values[order].astype(float).tolist()})
    return out


def shown(rows: SparseRows) -> list[Json]:
    """As they come back: in order, each number the shortest that reads back to it."""
    pairs = [rows[i : i + 1].astype(np.float32) for i in range(len(rows))]
    return [{"indices": one.indices.tolist(), "values": [float(str(v)) for v in one.values]} for one in pairs]


class Model:
    """What a sparse collection must hold and answer."""

    def __init__(self, metric: str, dtype: Any = np.float32) -> None:
        self.metric, self.dtype = metric, dtype
        self.rows: dict[int | str, tuple[SparseRows, Json | None]] = {}

    def put(self, ids: list[Any], rows: SparseRows, metadata: list[Json | None] | None = None) -> None:
        for i, id_ in enumerate(ids):
            self.rows[id_] = rows[i : i + 1].astype(self.dtype), metadata[i] if metadata else None

    def nearest(self, query: SparseRows, k: int, only: Any = lambda m: True) -> list[tuple[float, Any]]:
        ids = [id_ for id_, (_, metadata) in self.rows.items() if only(metadata)]
        rows = concatenate([self.rows[id_][0] for id_ in ids])
        far = true_distances(self.metric, query, rows)[0].tolist()
        return sorted(zip(far, ids, strict=True))[:k]

    def assert_answers(self, c: Collection, query: SparseRows, k: int = 10) -> None:
        for filter, only in (
            (None, lambda m: True),
            ({"odd": True}, lambda m: bool(m and m["odd"])),
        ):
            more = {} if filter is None else {"filter": filter}
            answer = search(c, query, k=k, **more)
            wanted = self.nearest(query, k, only)
            assert answer["exact"] and len(answer["hits"]) == len(wanted)
            np.testing.assert_allclose(
                [hit["distance"] for hit in answer["hits"]], [far for far, _ in wanted], rtol=1e-5, atol=1e-6
            )
            # As far in float64 may be as far in float32: ids are compared where no other is.
            distances = [far for far, _ in self.nearest(query, k + 1, only)]
            for hit, (far, id_) in zip(answer["hits"], wanted, strict=True):
                if min((abs(far - other) for other in distances if other != far), default=1.0) > 1e-5:
                    assert hit["id"] == id_ or distances.count(far) > 1

    def assert_held(self, c: Collection) -> None:
        everything = c.everything()
        assert set(everything) == set(self.rows)
        for id_, (row, metadata) in self.rows.items():
            assert everything[id_]["vector"] == shown(row)[0] and everything[id_]["metadata"] == metadata


def search(c: Collection, query: SparseRows, **options: Any) -> Json:
    answer: Json = c.wire.ok(200, "POST", f"{c.path}/search", {"vector": vectors(query)[0], **options})
    return answer


def write(c: Collection, method: str, ids: list[Any], rows: SparseRows, metadata: list[Json | None]) -> None:
    body = {"ids": ids, "vectors": vectors(rows), "metadata": metadata}
    c.wire.ok(201 if method == "POST" else 200, method, f"{c.path}/vectors", body)


@pytest.mark.parametrize(("metric", "dtype"), [("dot", "float32"), ("cosine", "float16")])
def test_a_life(server: Server, metric: str, dtype: str) -> None:
    """Rows pend, are sealed, merged, replaced, patched and deleted; every worker answers with what is there, after a
    kill as well."""
    name, model = f"life-{metric}", Model(metric, np.dtype(dtype))
    wires = [Collection(wire, name) for wire in server.wire_to_each()]
    wires[0].create(D, sparse=True, metric=metric, dtype=dtype)
    for round_ in range(12):
        writer, reader = wires[round_ % 2], wires[(round_ + 1) % 2]
        ids, rows = list(range(round_ * 60, round_ * 60 + 70)), drawn(round_, 70, D, 50, dtype, least=1)
        metadata: list[Json | None] = [{"odd": i % 2 == 1, "round": round_} if i % 3 else None for i in ids]
        write(writer, "PUT", ids, rows, metadata)
        model.put(ids, rows, metadata)
        for id_ in (ids[3], ids[40]):
            writer.delete([id_])
            del model.rows[id_]
        patch = drawn(1000 + round_, 1, D, 30, dtype, least=1)
        writer.patch(ids[5], vector=vectors(patch)[0], metadata={"late": round_})
        model.rows[ids[5]] = patch, {**(model.rows[ids[5]][1] or {}), "late": round_, "odd": False}
        writer.patch(ids[5], metadata={"odd": False})
        model.assert_answers(reader, drawn(2000 + round_, 1, D, 400, least=1))
    model.assert_held(wires[1])
    wires[0].wait_ready()
    for c in wires:
        about = c.describe()
        assert about["sparse"] and about["index"]["kind"] == "flat" and about["index"]["indexed"] == 0
        model.assert_answers(c, drawn(3000, 1, D, 400, least=1), k=1000)
        model.assert_held(c)
    answered = search(wires[0], drawn(3000, 1, D, 400, least=1), k=50)["hits"]
    write(wires[0], "POST", [10**6], (last := drawn(4000, 1, D, 40, dtype, least=1)), [None])
    model.put([10**6], last)
    server.kill()
    server.start()
    again = server.collection(name)
    model.assert_held(again)
    again.delete([10**6])
    assert search(again, drawn(3000, 1, D, 400, least=1), k=50)["hits"] == answered


def test_a_write_too_large_to_pend_and_a_batch_of_queries(server: Server) -> None:
    c, model = server.collection("large"), Model("dot")
    c.create(D, sparse=True, metric="dot", id_type="str")
    ids, rows = [f"d{i:05}" for i in range(600)], drawn(1, 600, D, 60, least=1)
    write(c, "POST", ids, rows, [None] * 600)
    model.put(ids, rows)
    assert c.describe()["segments"] == 1, "not sealed: written"
    queries = drawn(2, 5, D, 300, least=1)
    body = {"vectors": vectors(queries), "k": 7, "include": ["vector"]}
    several = c.wire.ok(200, "POST", f"{c.path}/search", body)["results"]
    for i, result in enumerate(several):
        alone = search(c, queries[i : i + 1], k=7, include=["vector"])
        assert alone["hits"] == result["hits"], "bit for bit"
        assert [hit["vector"] for hit in result["hits"]] == [
            shown(model.rows[hit["id"]][0])[0] for hit in result["hits"]
        ]
    arrays = c.wire.call("POST", f"{c.path}/search", {"vectors": vectors(queries), "k": 7}, Accept="application/x-npz")
    with np.load(io.BytesIO(arrays.body)) as found:
        assert found["ids"].astype(str).tolist() == [[hit["id"] for hit in r["hits"]] for r in several]
    own = c.neighbors(ids[3], k=5)["hits"]
    assert len(own) == 5 and ids[3] not in [hit["id"] for hit in own]
    near = search(c, rows[9:10], k=20, max_distance=-1e-3)["hits"]
    assert near[0]["id"] == ids[9] and all(hit["distance"] <= -1e-3 for hit in near)


def test_what_meets_nothing_comes_by_id(server: Server) -> None:
    """All rows are as far from it: the first by id, though they were written the other way round."""
    c = server.collection("nowhere")
    c.create(D, sparse=True, metric="dot")
    rows = drawn(1, 900, 1000, 10, least=1)
    write(c, "POST", list(range(900, 0, -1)), SparseRows(rows.indptr, rows.indices, rows.values, D), [None] * 900)
    body = {"vector": {"indices": [D - 1]}, "k": 5, "explain": True}
    for _ in range(2):
        answer = c.wire.ok(200, "POST", f"{c.path}/search", body)
        assert [(hit["id"], hit["distance"]) for hit in answer["hits"]] == [(i, 0.0) for i in range(1, 6)]
        assert "-0.0" not in json.dumps(answer["hits"]) and answer["explain"]["parts"][0]["by"] == "exact"
        c.wait_ready()


VALID = {"indices": [3, 1], "values": [1, 2]}
REFUSED: dict[str, tuple[str, Any, int, str, str | None]] = {
    "dense": ("POST", {"vectors": [[1, 2, 3]]}, 422, "invalid-request", "vectors[0]"),
    "mixed": ("POST", {"vectors": [VALID, [1, 2]]}, 422, "invalid-request", "vectors[1]"),
    "twice": ("POST", {"vectors": [VALID, {"indices": [7, 2, 7]}]}, 422, "invalid-request", "vectors[1]"),
    "outside": ("POST", {"items": [{"vector": {"indices": [D]}}]}, 422, "out-of-range", "items[0].vector"),
    "negative": ("POST", {"vectors": [{"indices": [-1]}]}, 422, "out-of-range", "vectors[0].indices[0]"),
    "huge index": ("POST", {"vectors": [{"indices": [10**30]}]}, 422, "out-of-range", "vectors[0].indices[0]"),
    "fraction": ("POST", {"vectors": [{"indices": [1.5]}]}, 422, "invalid-request", "vectors[0].indices[0]"),
    "uneven": (
        "POST", {"vectors": [VALID, {"indices": [1], "values": [1, 2]}]}, 422, "invalid-request", "vectors[1]"
    ),
    "no indices": ("POST", {"vectors": [{"values": [1]}]}, 422, "invalid-request", "vectors[0].indices"),
    "unknown": ("POST", {"vectors": [{"indices": [1], "data": [1]}]}, 422, "unknown-field", "vectors[0].data"),
    "no float32": ("POST", {"vectors": [{"indices": [1], "values": [1e39]}]}, 422, "not-finite", "vectors[0]"),
    "too long": ("POST", {"vectors": [{"indices": [1], "values": [1e19]}]}, 422, "out-of-range", "vectors[0]"),
    "zero": ("POST", {"vectors": [{"indices": [1], "values": [0]}]}, 422, "zero-vector", "vectors[0]"),
    "empty": ("POST", {"vectors": [{"indices": []}]}, 422, "zero-vector", "vectors[0]"),
    "too many": (
        "POST", {"vectors": [VALID, {"indices": [*range(D), *range(D), *range(D)]}]}, 422, "out-of-range", "vectors[1]"
    ),
}  # fmt: skip
QUERIES = {
    "dense": ({"vector": [1, 2]}, "invalid-request", "vector"),
    "twice": ({"vectors": [VALID, {"indices": [1, 1]}]}, "invalid-request", "vectors[1]"),
    "outside": ({"vector": {"indices": [D]}}, "out-of-range", "vector"),
    "zero": ({"vector": {"indices": []}}, "zero-vector", "vector"),
    "no float32": ({"vector": {"indices": [1], "values": [1e39]}}, "not-finite", "vector"),
}


@pytest.fixture(scope="module")
def one(server: Server) -> Collection:
    c = server.collection("one")
    c.create(D, sparse=True)
    c.wire.ok(201, "POST", f"{c.path}/vectors", {"ids": [1], "vectors": [VALID]})
    return c


def refused(c: Collection, method: str, path: str, body: Any, status: int, code: str, where: str | None) -> None:
    answer = c.wire.call(method, path, body)
    problem = answer.json()
    assert (answer.status, problem["type"]) == (status, f"/problems/{code}"), problem
    if where is not None:
        assert [fault["where"] for fault in problem["errors"]] == [where]
    assert c.describe()["count"] == 1


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_stored(one: Collection, why: str) -> None:
    method, body, status, code, where = REFUSED[why]
    refused(one, method, f"{one.path}/vectors", body, status, code, where)


@pytest.mark.parametrize("why", QUERIES)
def test_what_cannot_be_asked(one: Collection, why: str) -> None:
    body, code, where = QUERIES[why]
    refused(one, "POST", f"{one.path}/search", body, 422, code, where)


def test_what_a_sparse_collection_is_not(one: Collection) -> None:
    for settings, code, where in (
        ({"dimension": 9, "sparse": True, "metric": "l2"}, "invalid-request", "metric"),
        ({"dimension": 9, "sparse": True, "index": {"kind": "hnsw"}}, "invalid-request", "index.kind"),
        ({"dimension": 70_000}, "out-of-range", "dimension"),
        ({"dimension": 2**31, "sparse": True}, "out-of-range", "dimension"),
    ):
        refused(one, "PUT", "/v1/collections/never", settings, 422, code, where)
    refused(one, "PUT", one.path, {"dimension": D, "sparse": False}, 409, "settings-differ", "sparse")
    refused(one, "PUT", f"{one.path}/index", {"kind": "ivf"}, 422, "invalid-request", "kind")
    refused(one, "POST", f"{one.path}/recall", {"k": 10}, 409, "conflict", None)
    given = {"k": 10, "queries": [VALID] * 3, "calibrate": True}
    refused(one, "POST", f"{one.path}/recall", given, 409, "conflict", None)
    npy = io.BytesIO()
    np.save(npy, np.ones((1, D), np.float32))
    for method, path in (("POST", "/vectors"), ("PUT", "/vectors"), ("POST", "/search")):
        answer = one.wire.call(method, one.path + path, npy.getvalue(), Content_Type=NPY)
        assert answer.status == 415 and "sparse" in answer.json()["detail"]
    bare = one.wire.call("GET", one.item(1), Accept=NPY)
    assert bare.status == 422 and "sparse" in bare.json()["detail"]
    assert one.get(1)["vector"] == {"indices": [1, 3], "values": [2.0, 1.0]}
    dense = Collection(one.wire, "dense")
    dense.create(3)
    answer = one.wire.call("POST", f"{dense.path}/vectors", {"vectors": [[1, 2, 3], VALID]})
    assert answer.status == 422 and [f["where"] for f in answer.json()["errors"]] == ["vectors[1]"]
    assert one.wire.call("POST", f"{dense.path}/search", {"vector": VALID}).status == 422


def test_the_widest_dimension(server: Server) -> None:
    c = server.collection("widest")
    c.create(2**31 - 1, sparse=True, metric="dot")
    far = 2**31 - 2
    c.wire.ok(201, "POST", f"{c.path}/vectors", {"ids": [1, 2], "vectors": [{"indices": [far, 0]}, {"indices": [5]}]})
    for _ in range(2):
        hits = c.wire.ok(200, "POST", f"{c.path}/search", {"vector": {"indices": [far], "values": [2.5]}})["hits"]
        assert [(hit["id"], hit["distance"]) for hit in hits] == [(1, -2.5), (2, 0.0)]
        c.wait_ready()


def told(response: httpx.Response) -> Json:
    """The last line of a transfer's progress."""
    assert response.status_code in (200, 201), response.text
    last: Json = json.loads(response.text.strip().splitlines()[-1])
    return last


def test_files_in_and_out(server: Server, tmp_path: Path) -> None:
    """SciPy's CSR makes a sparse collection, comes out as it went in, and is read beside the server."""
    rows = drawn(7, 1500, 5000, 60)
    matrix = scipy.sparse.csr_array((rows.values, rows.indices, rows.indptr), shape=rows.shape)
    scipy.sparse.save_npz(tmp_path / "in.npz", matrix)
    client, path = server.client, "/v1/collections/imported"
    body = (tmp_path / "in.npz").read_bytes()
    done = told(client.post(f"{path}/import?format=csr", content=body, headers={"content-type": "application/x-npz"}))
    assert done["imported"] == 1500, done
    about = client.get(path).json()
    assert (about["sparse"], about["dimension"], about["metric"], about["count"]) == (True, 5000, "dot", 1500)
    out = client.get(f"{path}/export?format=csr&sidecars=0")
    assert out.status_code == 200, out.text
    (tmp_path / "out.npz").write_bytes(out.content)
    back = scipy.sparse.load_npz(tmp_path / "out.npz")
    assert back.shape == rows.shape and (back.toarray() == rows.dense()).all()
    snapshot = seedvec.open(server.data_dir)["imported"]
    assert snapshot.sparse and len(snapshot) == 1500
    batches = list(snapshot.batches(400))
    assert [len(ids) for _, ids, _ in batches] == [400, 400, 400, 300]
    assert (np.concatenate([part.dense() for part, _, _ in batches]) == rows.dense()).all()
    dense = client.get(f"{path}/export?format=npy&sidecars=0")
    assert (np.load(io.BytesIO(dense.content)) == rows.dense()).all(), "expanded"
    c = server.collection("copied")
    c.create(5000, sparse=True, metric="dot")
    assert told(client.post(f"{c.path}/copy", json={"from": "imported"}))["imported"] == 1500
    query = drawn(8, 1, 5000, 300, least=1)
    both = [search(server.collection(name), query, k=30)["hits"] for name in ("imported", "copied")]
    assert [hit["distance"] for hit in both[0]] == [hit["distance"] for hit in both[1]]
    client.post(f"{c.path}/truncate", json={"rows": 10}).raise_for_status()
    assert len(search(c, query, k=30)["hits"]) == 10
