"""How long until vectors are acknowledged, and until they are indexed; what is found then; what it costs in memory.

    python -m benchmarks.ingest [--data FILE.hdf5] [--rows N] [--kinds hnsw,ivf,auto,flat] [--batch 5000]

For each kind of index: a fresh folder, a real server, the vectors added over HTTP as .npy; then the search as users
do it (default recall), `exact`, a restart, and the search again.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import datasets, memory, table
from benchmarks.datasets import Dataset
from tests.harness import Server
from tests.wire import NPY, Collection, npy

K = 10
SEARCH_BATCH = 100
NAME = "bench"
POLL_S = 0.2


def main() -> None:
    options = parsed()
    data = datasets.load(options.data, options.rows)
    print(f"{data.name}: {data.train.shape[0]:,} × {data.train.shape[1]}, {data.metric}, {len(data.queries):,} queries")
    rows = []
    for kind in options.kinds.split(","):
        with tempfile.TemporaryDirectory(dir=options.tmp, prefix="seedvec-ingest-") as folder:
            rows.append(measured(Path(folder) / "data", data, kind, options))
        print("\n" + table.show(table.turned(rows)), flush=True)
    table.write(options.out, "ingest", vars(options) | {"dataset": data.name}, rows)
    print(f"written: {options.out}", file=sys.stderr)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="ann-benchmarks HDF5 file (default: clustered synthetic vectors)")
    parser.add_argument("--rows", type=int, help="take only the first rows")
    parser.add_argument("--queries", type=int, default=1000, help="queries that recall is measured with")
    parser.add_argument("--kinds", default="hnsw,ivf,auto", help="kinds of index, comma separated")
    parser.add_argument("--batch", type=int, default=5000, help="rows a request")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--ready-s", type=float, default=1800, help="longest wait for the index")
    parser.add_argument("--tmp", type=Path, help="where the data folder is made")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ingest.json"))
    return parser.parse_args()


def measured(folder: Path, data: Dataset, kind: str, options: argparse.Namespace) -> dict[str, Any]:
    queries = data.queries[: options.queries]
    with Server(folder, workers=options.workers) as server:
        words = server.collection(NAME)
        words.create(data.train.shape[1], metric=data.metric, id_type="int", index={"kind": kind})
        with memory.Peak(lambda: processes(server)) as peak:
            begun = time.perf_counter()
            add(words, data.train, options.batch)
            acknowledged_s = time.perf_counter() - begun
            described = ready(words, options.ready_s)
            ready_s = time.perf_counter() - begun
        row: dict[str, Any] = {
            "kind": kind,
            "became": described["index"]["kind"],
            "acknowledged_s": acknowledged_s,
            "rows_per_s": len(data.train) / acknowledged_s,
            "ready_s": ready_s,
            "recall": found(words, data, queries),
            "exact_recall": found(words, data, queries[:200], exact=True),
            "segments": described["segments"],
            "disk_mib": sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 2**20,
        }
        serving = memory.measure(processes(server))
        row["restart_s"] = restarted(server, data)
        row["recall_after"] = found(server.collection(NAME), data, queries)
        after = memory.measure(processes(server))
    return row | in_mib("serving", serving) | in_mib("restarted", after) | in_mib("peak", peak.memory)


def in_mib(name: str, held: memory.Memory) -> dict[str, float]:
    return {
        f"{name}_pss_mib": held.pss / 2**20,
        f"{name}_private_mib": held.private / 2**20,
        f"{name}_anonymous_mib": held.anonymous / 2**20,
    }


def processes(server: Server) -> list[int]:
    assert server.process is not None
    return [server.process.pid, *server.children()]


def add(words: Collection, train: NDArray[np.float32], batch: int) -> None:
    """One connection, one request after the other; the server's 429 is waited out as it asks."""
    for begin in range(0, len(train), batch):
        body = npy(train[begin : begin + batch])
        retried(lambda body=body, begin=begin: post(words, body, begin))  # type: ignore[misc]


def post(words: Collection, body: bytes, first_id: int) -> bool:
    answer = words.wire.call("POST", f"{words.path}/vectors?first_id={first_id}", body, Content_Type=NPY)
    assert answer.status in (201, 429), answer
    return answer.status == 201


def retried(send: Callable[[], bool]) -> None:
    while not send():
        time.sleep(0.2)


def ready(words: Collection, timeout_s: float) -> dict[str, Any]:
    end = time.monotonic() + timeout_s
    while True:
        described = words.describe()
        if described["index"]["state"] == "ready":
            return described
        if described["index"]["state"] not in ("building",) or time.monotonic() > end:
            raise SystemExit(f"the index does not become ready: {described['index']}")
        time.sleep(POLL_S)


def found(words: Collection, data: Dataset, queries: NDArray[np.float32], *, exact: bool = False) -> float:
    """recall@10 of one-by-one answers would take minutes on large data: batches are answered by the same code."""
    distances = []
    for begin in range(0, len(queries), SEARCH_BATCH):
        query = f"{words.path}/search?k={K}&include=" + ("&exact=true" if exact else "")
        body = npy(queries[begin : begin + SEARCH_BATCH])
        answer = words.wire.ok(200, "POST", query, body, Content_Type=NPY)
        distances += [[hit["distance"] for hit in result["hits"]] for result in answer["results"]]
    return datasets.recall(data, np.array(distances, np.float32), K)


def restarted(server: Server, data: Dataset) -> float:
    """Seconds from the start of the command to the first answer of a search."""
    server.stop()
    begun = time.perf_counter()
    server.start()
    answer = server.collection(NAME).search(data.queries[0], K)
    elapsed = time.perf_counter() - begun
    assert len(answer["hits"]) == K
    return elapsed


if __name__ == "__main__":
    main()
