"""Sparse search over HTTP, one query a request: how long it takes by how many rows there are and how they share places.

    python -m benchmarks.sparse [--rows 100000] [--numbers 100] [--query 30] [--dimension 30522] [--tmp DIR]

Rows are drawn with their places alike (each as common as any other) and as in texts (the i-th commonest place in 1/i
of them). They come in as SciPy's CSR by import. Answers are held against SciPy's product with all rows.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from benchmarks import memory, table
from tests.harness import Server

NAME, K = "sparse", 10
READY_S = 600.0
SEED = 7


def main() -> None:
    options = parsed()
    rows = []
    for kind in ("alike", "as in texts"):
        with tempfile.TemporaryDirectory(dir=options.tmp, prefix="seedvec-sparse-") as folder:
            rows.append({"places": kind, **measured(Path(folder), kind, options)})
    print(table.show(rows))
    table.write(options.out, "sparse", vars(options), rows)
    print(f"written: {options.out}", file=sys.stderr)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--numbers", type=int, default=100, help="of a row, about")
    parser.add_argument("--query", type=int, default=30, help="numbers of a query")
    parser.add_argument("--dimension", type=int, default=30_522)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--metric", default="dot", choices=("dot", "cosine"))
    parser.add_argument("--tmp", type=Path, help="where the data folder is made")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/sparse.json"))
    return parser.parse_args()


def measured(folder: Path, kind: str, options: argparse.Namespace) -> dict[str, Any]:
    matrix = drawn(kind, options.rows, options.numbers, options.dimension)
    queries = drawn(kind, options.queries, options.query, options.dimension)
    scipy.sparse.save_npz(folder / "rows.npz", matrix, compressed=False)
    with Server(folder / "data", workers=1, checked=False) as server:
        c = server.collection(NAME)
        c.create(options.dimension, sparse=True, metric=options.metric)
        begun = time.perf_counter()
        with (folder / "rows.npz").open("rb") as file:
            path = f"{server.url}{c.path}/import?format=csr"
            server.client.post(path, content=file, timeout=READY_S).raise_for_status()
        imported_s = time.perf_counter() - begun
        described = c.wait_ready(READY_S)
        ms, agree = asked(c, matrix, queries, options.metric)
        held = memory.measure(server.children("app.worker"))
    return {
        "rows": options.rows,
        "import_s": round(imported_s, 2),
        "segments": described["segments"],
        "bytes_a_number": round(described["bytes"] / matrix.nnz, 1),
        "p50_ms": round(float(np.percentile(ms, 50)), 2),
        "p95_ms": round(float(np.percentile(ms, 95)), 2),
        "worker_private_mb": round(held.private / 1e6, 1),
        "as_scipy": agree,
    }


def drawn(kind: str, n: int, numbers: int, dimension: int) -> Any:
    rng = np.random.default_rng([SEED, n])
    if kind == "alike":
        places = rng.integers(0, dimension, n * numbers)
    else:
        shares = 1 / np.arange(1, dimension + 1)
        places = np.searchsorted(np.cumsum(shares / shares.sum()), rng.random(n * numbers)).clip(0, dimension - 1)
    owners = np.repeat(np.arange(n), numbers)
    matrix = scipy.sparse.csr_array((np.ones(len(owners), np.float32), (owners, places)), shape=(n, dimension))
    matrix.sum_duplicates()
    matrix.data = rng.random(matrix.nnz, dtype=np.float32)
    return matrix


def asked(c: Any, matrix: Any, queries: Any, metric: str) -> tuple[NDArray[np.float64], bool]:
    """Milliseconds of each query, one after the other, and whether the distances are those of SciPy."""
    norms = np.sqrt(matrix.multiply(matrix).sum(axis=1)) if metric == "cosine" else np.ones(matrix.shape[0])
    took, agree = [], True
    for i in range(queries.shape[0]):
        query = queries[[i], :]
        body = {"vector": {"indices": query.indices.tolist(), "values": query.data.astype(float).tolist()}, "k": K}
        begun = time.perf_counter()
        hits = c.wire.ok(200, "POST", f"{c.path}/search", {**body, "include": []})["hits"]
        took.append((time.perf_counter() - begun) * 1000)
        scores = (matrix @ query.T).toarray()[:, 0] / norms
        if metric == "cosine":
            scores = scores / np.sqrt(query.multiply(query).sum()) - 1
        wanted = np.sort(-scores)[:K]
        agree &= bool(np.allclose([hit["distance"] for hit in hits], wanted, rtol=1e-4, atol=1e-5))
    return np.array(took[len(took) // 10 :]), agree


if __name__ == "__main__":
    main()
