"""One search a request over HTTP, as users send it, beside plain Faiss in process and beside the bare HTTP ceiling.

    python -m benchmarks.search_http [--data FILE.hdf5] [--rows N] [--kind auto] [--folder DIR] [--seconds 4]

JSON bodies, k = 10, kept-alive connections, the default recall, nothing included but ids and distances; recall is
checked on the answers themselves. All figures come from one run, one after the other, on the same machine: client
and server share its cores.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import datasets, table
from benchmarks.datasets import Dataset
from benchmarks.ingest import NAME, K, add, ready
from benchmarks.loaded import fired, request
from benchmarks.plain_faiss import PlainFaiss
from tests.harness import Server

WARM_S = 0.5
READY_S = 3600.0


def main() -> None:
    options = parsed()
    data = datasets.load(options.data, options.rows)
    queries = data.queries[: options.queries]
    print(f"{data.name}: {data.train.shape[0]:,} × {data.train.shape[1]}, {data.metric}")
    with tempfile.TemporaryDirectory(dir=options.tmp, prefix="seedvec-search-") as fresh:
        folder = options.folder or Path(fresh) / "data"
        described = prepared(folder, data, options.kind)
        print(f"index: {described['index']['kind']}, {described['segments']} segment(s), recall {described['recall']}")
        rows = []
        for workers in options.workers:
            with Server(folder, workers=workers, checked=False) as server:
                rows += over_http(server, data, queries, options)
        rows += in_process(folder, data, queries, described["recall"], options.seconds)
    print(table.show(rows))
    table.write(options.out, "search_http", vars(options) | {"dataset": data.name}, rows)
    print(f"written: {options.out}", file=sys.stderr)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="ann-benchmarks HDF5 file (default: clustered synthetic vectors)")
    parser.add_argument("--rows", type=int, help="take only the first rows")
    parser.add_argument("--queries", type=int, default=1000, help="different queries, asked in turn")
    parser.add_argument("--kind", default="auto", help="kind of index")
    parser.add_argument("--folder", type=Path, help="data folder to make, or to use again where it has the collection")
    parser.add_argument("--clients", type=numbers, default=[1, 8, 32], help="connections, comma separated")
    parser.add_argument("--workers", type=numbers, default=[1, 2], help="worker processes, comma separated")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each run")
    parser.add_argument("--tmp", type=Path, help="where the data folder is made")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/search_http.json"))
    return parser.parse_args()


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def prepared(folder: Path, data: Dataset, kind: str) -> dict[str, Any]:
    """The collection, loaded and settled; its server is stopped again."""
    with Server(folder, checked=False) as server:
        words = server.collection(NAME)
        if words.wire.call("GET", words.path).status == 404:
            words.create(data.train.shape[1], metric=data.metric, id_type="int", index={"kind": kind})
            add(words, data.train, 5000)
        return ready(words, READY_S)


def over_http(server: Server, data: Dataset, queries: NDArray[np.float32], options: Any) -> list[dict[str, Any]]:
    path = f"/v1/collections/{NAME}/search"
    searches = [
        request("POST", path, json.dumps({"vector": q.tolist(), "k": K, "include": []}).encode()) for q in queries
    ]
    bare = [request("GET", "/livez", b"")]
    rows = []
    for clients in options.clients:
        run = fired(server.port, clients, bare, options.seconds / 2)
        rows.append(run.row(f"GET /livez, {server.workers} workers", clients))
    for clients in options.clients:
        run = fired(server.port, clients, searches, options.seconds)
        distances = np.full((max(run.bodies) + 1, K), np.inf, np.float32)
        for number, body in run.bodies.items():
            hits = json.loads(body)["hits"]
            distances[number, : len(hits)] = [hit["distance"] for hit in hits]
        answered = sorted(run.bodies)
        part = Dataset(data.name, data.metric, data.train, queries[answered], data.distances[answered])
        row = run.row(f"search, {server.workers} workers", clients)
        rows.append(row | {"recall": datasets.recall(part, distances[answered], K)})
    return rows


def in_process(
    folder: Path, data: Dataset, queries: NDArray[np.float32], recall: float, seconds: float
) -> list[dict[str, Any]]:
    plain = PlainFaiss(folder, NAME, recall)
    plain.run(queries, K, WARM_S)
    qps, latencies, found = plain.run(queries, K, seconds)
    row = figures(qps, latencies) | {"failures": 0, "recall": datasets.recall(data, found.astype(np.float32), K)}
    return [{"what": f"plain Faiss, one thread: {'; '.join(plain.described)}", "clients": None} | row]


def figures(qps: float, latencies_s: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(latencies_s, [50, 99]) * 1000
    return {"qps": qps, "p50_ms": float(p50), "p99_ms": float(p99)}


if __name__ == "__main__":
    main()
