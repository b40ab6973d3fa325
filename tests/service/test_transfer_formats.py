"""Other programs' files over HTTP: in, out again, and what their queries are kept for."""

import io
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy import sparse as scipy_sparse

from tests.harness import Server
from tests.wire import Collection, Wire

X = np.random.default_rng(6).standard_normal((400, 8)).astype(np.float32)
IDS = [f"é{i}" for i in range(400)]


@pytest.fixture
def wire(shared_server: Server) -> Wire:
    return shared_server.wire()


def path_of(name: str, what: str) -> str:
    return f"/v1/collections/{name}/{what}"


def hdf5(**arrays: Any) -> bytes:
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        for name, array in arrays.items():
            file[name] = array
        file.attrs["distance"] = "euclidean"
    return out.getvalue()


def test_hdf5_parquet_and_pt_come_back_as_they_went_in(wire: Wire, tmp_path: Path) -> None:
    """Each is exported from what the one before it was imported to."""
    texts = [f'{{"n":{i}}}' for i in range(400)]
    body, name = hdf5(vectors=X, ids=IDS, metadata=texts), "a"
    wire.ok(201, "POST", path_of(name, "import?format=hdf5"), body)
    for fmt in ("parquet", "pt"):
        body = wire.ok(200, "GET", path_of(name, f"export?format={fmt}"))
        name = f"from-{fmt}"
        answer = wire.ok(201, "POST", path_of(name, f"import?format={fmt}"), body)
        assert (answer["imported"], answer["created"]) == (400, True)
        if fmt == "parquet":
            assert pq.read_table(io.BytesIO(body))["id"].to_pylist() == IDS
        if fmt == "pt":
            assert torch.load(io.BytesIO(body))["vectors"].numpy().tobytes() == X.tobytes()
    with h5py.File(io.BytesIO(wire.ok(200, "GET", path_of(name, "export?format=hdf5")))) as file:
        assert file["vectors"][:].tobytes() == X.tobytes()
        assert file["ids"].asstr()[:].tolist() == IDS and file["metadata"].asstr()[:].tolist() == texts
    found = wire.ok(200, "POST", path_of(name, "vectors/fetch"), {"ids": [IDS[7]]})["items"][0]
    assert np.array(found["vector"], np.float32).tobytes() == X[7].tobytes() and found["metadata"] == {"n": 7}


def test_a_sparse_matrix_of_scipy(wire: Wire) -> None:
    matrix = scipy_sparse.random(300, 1000, 0.02, "csr", np.float32, np.random.default_rng(7))
    matrix.sort_indices()
    sent = io.BytesIO()
    scipy_sparse.save_npz(sent, matrix)
    wire.ok(201, "POST", path_of("sparse", "import?format=csr"), sent.getvalue())
    back = io.BytesIO(wire.ok(200, "GET", path_of("sparse", "export?format=csr")))
    found = scipy_sparse.load_npz(back)
    assert found.shape == matrix.shape and (found != matrix).nnz == 0
    # A format that knows no sparse rows has all their zeros.
    dense = np.load(io.BytesIO(wire.ok(200, "GET", path_of("sparse", "export?format=npy&sidecars=0"))))
    assert (dense == matrix.toarray()).all()


def test_the_queries_of_ann_benchmarks_are_what_recall_is_measured_on(wire: Wire) -> None:
    queries = X[:150] + 0.1
    nearest = np.argsort(((X[None] - queries[:, None]) ** 2).sum(2), 1, kind="stable")[:, :10]
    wire.ok(201, "PUT", "/v1/collections/judged", {"dimension": 8, "metric": "l2"})
    body = hdf5(train=X, test=queries, neighbors=nearest)
    answer = wire.ok(201, "POST", path_of("judged", "import?format=ann"), body)
    assert answer["notes"] == ["150 queries of the file are kept, and POST …/recall measures on them"]
    found = wire.ok(200, "POST", path_of("judged", "recall"), {"k": 10})
    assert found["on"] == "queries" and found["rows"][0]["queries"] == 150
    # What the engine takes for the truth is what the file says.
    c = Collection(wire, "judged")
    hits = wire.ok(200, "POST", f"{c.path}/search", {"vectors": queries.tolist(), "k": 10, "exact": True})["results"]
    assert [[hit["id"] for hit in one["hits"]] for one in hits] == nearest.tolist()


def test_what_must_not_be_read_is_refused_and_leaves_nothing(wire: Wire) -> None:
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        file["vectors"] = h5py.ExternalLink("/etc/passwd", "/x")
    for fmt, body, words in (
        ("hdf5", out.getvalue(), "holds nothing that can be vectors"),
        ("hdf5", hdf5(vectors=X)[:-100], "truncated file"),
        ("npz", b"PK\x03\x04", "no zip file"),
        ("parquet", b"PAR1PAR1", "Arrow cannot read it"),
        ("csr", b"nothing", "no zip file"),
    ):
        problem = wire.ok(422, "POST", path_of("none", f"import?format={fmt}"), body)
        assert words in problem["detail"] and "nothing was imported" in problem["detail"]
    wire.ok(404, "GET", "/v1/collections/none")
