"""Filtered search inside an index: recall against the exact answer, and speed beside unfiltered search in the same run.

In process, on the index alone: no HTTP, no metadata, one thread, queries one by one. Times are of the processor, which
others on the machine disturb less than the clock. Filters of every pass rate, drawn
at random, and filters that go with the vectors: a cluster's rows only, and all but a cluster's, asked from inside that
cluster and from outside.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import h5py
import numpy as np
from numpy.typing import NDArray

from benchmarks import datasets, table
from index.build import build, resolve
from index.contract import Alive, Found, Index, Metric, Vectors
from index.distance import norms
from index.exact import Exact
from index.halves import as_float32
from index.load import load

K = 10
RECALL = 0.95
SHARES = (0.5, 0.2, 0.1, 0.05, 0.01, 0.001, 0.0001)
CLUSTERINGS = (10, 100)
"""Clusters of a tenth and of a hundredth of the rows or so."""
CLUSTER_SAMPLE = 100_000
HELD_OUT = 500


@dataclass(frozen=True, slots=True)
class Cell:
    """One filter and who asks under it."""

    name: str
    mask: NDArray[np.bool_]
    queries: NDArray[np.float32]


def words(file: Path) -> datasets.Dataset:
    """The demo's WordNet entries, 500 of them held out to ask with."""
    with h5py.File(file) as f:
        rows: NDArray[Any] = f["vectors"][:]
    order = np.random.default_rng(2).permutation(len(rows))
    asked, stored = rows[order[:HELD_OUT]].astype(np.float32), np.ascontiguousarray(rows[np.sort(order[HELD_OUT:])])
    return datasets.Dataset(file.stem, "cosine", stored, asked, np.empty((0, 0), np.float32))


def cells(data: datasets.Dataset, count: int) -> Iterator[Cell]:
    """count: queries a cell, at most."""
    n, rows = len(data.train), as_float32(data.train)
    rng = np.random.default_rng(1)
    for share in SHARES:
        yield Cell(f"random {100 * share:g} %", rng.random(n) < share, data.queries[:count])
    for clusters in CLUSTERINGS:
        sample = rows[rng.choice(n, min(n, CLUSTER_SAMPLE), replace=False)]
        means = faiss.Kmeans(data.train.shape[1], clusters, niter=10, seed=5)
        means.train(sample)
        of_rows = means.index.search(rows, 1)[1].ravel()
        of_queries = means.index.search(data.queries, 1)[1].ravel()
        # The cluster most asked from, so that there are queries inside.
        chosen = int(np.bincount(of_queries, minlength=clusters).argmax())
        own = of_rows == chosen
        inside, outside = data.queries[of_queries == chosen][:count], data.queries[of_queries != chosen][:count]
        yield Cell(f"one of {clusters} clusters, from inside", own, inside)
        yield Cell(f"one of {clusters} clusters, from outside", own, outside)
        yield Cell(f"all but one of {clusters}, from inside", ~own, inside)
        yield Cell(f"all but one of {clusters}, from outside", ~own, outside)


def measure(index: Index, exact: Exact, cell: Cell) -> dict[str, Any]:
    """The first queries warm up what is made once a filter; the cost of the very first stands beside."""
    alive = Alive.of(cell.mask)
    plan = index.plan(K, RECALL)
    begun = time.thread_time()
    index.search(cell.queries[:1], K, plan, alive)
    first_us = (time.thread_time() - begun) * 1e6
    for query in cell.queries[:20]:
        index.search(query[None], K, plan, alive)
    found, took = run(index, cell.queries, alive)
    plain, plain_took = run(index, cell.queries, None)
    want = min(K, alive.count)
    us, plain_us = statistics.median(took), statistics.median(plain_took)
    params = [f.params for f in found if f.params]
    return {
        "filter": cell.name,
        "rows": alive.count,
        "recall@10": recall(found, exact.search(cell.queries, K, None, alive), want),
        "unfiltered": recall(plain, exact.search(cell.queries, K), K),
        "short": sum(int((f.rows[0] >= 0).sum()) < want for f in found),
        "QPS": 1e6 / us,
        "unfiltered QPS": 1e6 / plain_us,
        "times its cost": us / plain_us,
        "mean µs": statistics.mean(took),
        "first µs": first_us,
        "exactly": sum(f.exact for f in found) / len(found),
        "params (mean)": {name: round(statistics.mean(p[name] for p in params)) for name in params[0]}
        if params
        else "",
    }


def recall(found: list[Found], truth: Found, want: int) -> float:
    """Share of the true nearest that came back; equal distances count as found."""
    if not want:
        return 1.0
    bounds = truth.distances[:, want - 1]
    near = [int((f.distances[0] <= bound).sum()) for f, bound in zip(found, bounds, strict=True)]
    return float(np.mean(np.minimum(near, want)) / want)


def run(index: Index, queries: NDArray[np.float32], alive: Alive | None) -> tuple[list[Found], list[float]]:
    """Answers and µs, query by query."""
    plan = index.plan(K, RECALL)
    found, took = [], []
    for query in queries:
        begun = time.thread_time()
        found.append(index.search(query[None], K, plan, alive))
        took.append((time.thread_time() - begun) * 1e6)
    return found, took


def opened(kind: str, vectors: Vectors, folder: Path, threads: int) -> Index:
    """The index of that kind, built where the folder does not have it yet."""
    n, d = vectors.rows.shape
    file, described = folder / f"{kind}-{n}.faiss", folder / f"{kind}-{n}.json"
    if not described.exists():
        begun = time.perf_counter()
        spec = resolve(kind, {}, n, d, vectors.metric, RECALL)
        described.write_text(json.dumps(build(vectors, spec, file, recall=RECALL, threads=threads)))
        print(f"{kind} of {n:,} rows built in {time.perf_counter() - begun:.0f} s", flush=True)
    return load(file, json.loads(described.read_text()), vectors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="HDF5 file in ann-benchmarks layout (default: synthetic)")
    parser.add_argument("--words", type=Path, help="the demo's file instead, with its vectors under cosine")
    parser.add_argument("--rows", type=int, help="only the first so many")
    parser.add_argument("--kinds", default="ivf,hnsw")
    parser.add_argument("--queries", type=int, default=300, help="of each filter")
    parser.add_argument("--threads", type=int, default=2, help="of a build")
    parser.add_argument("--indexes", type=Path, help="folder where indexes are kept for the next run")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/filtered.json"))
    args = parser.parse_args()
    data = words(args.words) if args.words else datasets.load(args.data, args.rows)
    metric: Metric = "l2" if data.metric == "l2" else "cosine"
    vectors = Vectors(data.train, norms(data.train), metric)
    exact = Exact(vectors)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.indexes or Path(temporary)
        for kind in args.kinds.split(","):
            index = opened(kind, vectors, folder, args.threads)
            print(f"{kind}: {index.plan(K, RECALL)}")
            run(index, data.queries[:100], None)
            own = [measure(index, exact, cell) for cell in cells(data, args.queries)]
            print(table.show(own), flush=True)
            rows.extend({"kind": kind, **row} for row in own)
    table.write(args.out, "filtered", vars(args), rows)


if __name__ == "__main__":
    main()
