"""Ten million vectors on one machine: imported, built and served, with what memory and at what latency.

    python -m benchmarks.scale [--rows 10000000] [--data FILE.hdf5] [--limit-gib 2.5] [--out JSON]

A real server with two workers, a fresh folder; the vectors are added over HTTP as .npy. Without a file they are
clustered synthetic ones, made part by part; a file (ann-benchmarks layout) is read part by part. Recall is judged on
fresh queries against the exact answers. At the end the server runs again in a memory cgroup that bounds everything,
page cache included.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from benchmarks import memory, oracle, table
from benchmarks.cgroup import Limited, NoCgroup, forget_pages
from benchmarks.datasets import DIMENSION, METRICS, Clustered
from benchmarks.ingest import processes
from benchmarks.loaded import fired, request
from benchmarks.oracle import Truth
from benchmarks.served import NAME, ROWS_A_WRITE, Served, built

GIB = 2**30
K = 10
RECALLS = (0.90, 0.95, 0.99)
CLIENTS = (1, 8)
TRUTH_ROWS = 500_000
SAY_EVERY_S = 15.0
SERVING_GIB, BUILDING_GIB = 1.5, 6.0
"""The goals: memory that is not page cache, of all processes together."""


class Source:
    """Rows by part, always the same, without holding them all; and queries that are none of them."""

    def __init__(self, file: Path | None, rows: int, queries: int) -> None:
        self.metric = "l2"
        self._file = h5py.File(file) if file else None
        self._clustered = None if file else Clustered(DIMENSION)
        self.rows = rows
        self.queries: NDArray[np.float32]
        if self._file is not None:
            self.metric = METRICS[str(self._file.attrs["distance"])]
            self.rows = min(rows, self._file["train"].shape[0])
            self.queries = self._file["test"][:queries]
        else:
            self.queries = self._made(queries, 0)
        self.dimension = self.queries.shape[1]

    def _made(self, n: int, stream: int) -> NDArray[np.float32]:
        assert self._clustered is not None
        return self._clustered.rows(n, stream)

    def parts(self) -> Iterator[NDArray[np.float32]]:
        for number, begin in enumerate(range(0, self.rows, ROWS_A_WRITE)):
            n = min(ROWS_A_WRITE, self.rows - begin)
            if self._file is not None:
                yield self._file["train"][begin : begin + n]
            else:
                yield self._made(n, 1 + number)

    def truth(self) -> Truth:
        return oracle.nearest(self.metric, self._large_parts(), self.queries)

    def _large_parts(self) -> Iterator[NDArray[np.float32]]:
        held: list[NDArray[np.float32]] = []
        for part in self.parts():
            held.append(part)
            if sum(map(len, held)) >= TRUTH_ROWS:
                yield np.concatenate(held)
                held.clear()
        if held:
            yield np.concatenate(held)


def main() -> None:
    options = parsed()
    source = Source(options.data, options.rows, options.queries)
    begun = time.perf_counter()
    truth = source.truth()
    print(f"{source.rows:,} × {source.dimension}; truth known in {time.perf_counter() - begun:.0f} s", flush=True)
    with tempfile.TemporaryDirectory(dir=options.tmp, prefix="seedvec-scale-") as temporary:
        folder = Path(temporary) / "data"
        row = ingested(folder, source, options)
        served_rows = served(folder, source, truth, options, limit=None)
        print(table.show(served_rows), flush=True)
        with suppress(NoCgroup):
            served_rows += served(folder, source, truth, options, limit=round(options.limit_gib * GIB))
    print(table.show([{"figure": name, "value": value} for name, value in row.items()]))
    print(table.show(served_rows))
    told = {name: getattr(options, name) for name in ("rows", "queries", "kind", "workers", "seconds", "limit_gib")}
    told["data"] = options.data.name if options.data else "clustered"
    table.write(options.out, "scale", told, [row, *served_rows])
    print(f"written: {options.out}", file=sys.stderr)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--data", type=Path, help="HDF5 file in ann-benchmarks layout (default: synthetic)")
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--kind", default="auto")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each run of clients")
    parser.add_argument("--limit-gib", type=float, default=2.5, help="for everything, page cache included")
    parser.add_argument("--tmp", type=Path, help="where the data folder is made; twice the vectors' bytes")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scale.json"))
    return parser.parse_args()


def ingested(folder: Path, source: Source, options: argparse.Namespace) -> dict[str, Any]:
    """Added and indexed by one server. Memory is looked at from before the first write until it is ready."""
    with Served(folder, options.workers) as one:
        one.collection.create(source.dimension, metric=source.metric, id_type="int", index={"kind": options.kind})
        with memory.Peak(lambda: processes(one.server)) as filling:
            made_s = 0.0
            begun = at = time.perf_counter()
            first = 0
            for part in source.parts():
                made_s += time.perf_counter() - at
                one.fill(part, first)
                first += len(part)
                at = time.perf_counter()
            acknowledged_s = time.perf_counter() - begun - made_s
        with memory.Peak(lambda: processes(one.server)) as building:
            watched = watch(one)
        ready_s = time.perf_counter() - begun - made_s
    (index,) = built(folder)
    return {
        "rows": source.rows,
        "dimension": source.dimension,
        "became": " ".join([index.kind, *(f"{name} {value}" for name, value in index.meta["params"].items())]),
        "acknowledged_s": acknowledged_s,
        "rows_per_s": source.rows / acknowledged_s,
        "ready_s": ready_s,
        "disk_gib": sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / GIB,
        "filling: peak not page cache, GiB": filling.memory.anonymous / GIB,
        "building: peak not page cache, GiB": building.memory.anonymous / GIB,
        f"building under {BUILDING_GIB:g} GiB": building.memory.anonymous < BUILDING_GIB * GIB,
        **eta(watched),
    }


def watch(one: Served) -> list[tuple[float, float, float]]:
    """Waits until nothing is being built. → (clock, progress, ETA) whenever both were told."""
    told: list[tuple[float, float, float]] = []
    said = 0.0
    while True:
        index = one.collection.describe()["index"]
        now = time.perf_counter()
        if index["state"] == "ready":
            return [*told, (now, 1.0, 0.0)]
        if index["state"] != "building":
            raise SystemExit(f"the index does not become ready: {index}")
        if index["progress"] is not None and index["eta_s"] is not None:
            told.append((now, index["progress"], index["eta_s"]))
        if now - said > SAY_EVERY_S:
            said = now
            print(f"  {index['state']} {index['progress']} eta {index['eta_s']}", flush=True)
        time.sleep(0.5)


def eta(told: list[tuple[float, float, float]]) -> dict[str, float]:
    """Of the last job (from where progress last fell to 0): share of ETAs that were true within a factor of two."""
    last = max((i for i in range(1, len(told)) if told[i][1] < told[i - 1][1]), default=0)
    job, end = told[last:-1], told[-1][0]
    ratios = [said / (end - at) for at, progress, said in job if end - at > 5 and progress > 0]
    if not ratios:
        return {}
    good = sum(0.5 <= ratio <= 2 for ratio in ratios) / len(ratios)
    return {"ETAs within a factor of two": good, "least": min(ratios), "most": max(ratios)}


def served(
    folder: Path, source: Source, truth: Truth, options: argparse.Namespace, limit: int | None
) -> list[dict[str, Any]]:
    """A row for each recall and number of clients. limit: bytes for everything; None: what the machine has.

    Raises NoCgroup."""
    one = Served(folder, options.workers)
    if limit is None:
        with one:
            return asked(one, source, truth, options, "all of the machine")
    with Limited("seedvec-scale", limit) as group:
        forget_pages(folder)
        with group.entered():
            one.server.start(wait=False)
        try:
            one.server.wait_serving()
            one.collection = one.server.collection(NAME)
            rows = asked(one, source, truth, options, f"{limit / GIB:g} GiB, page cache included")
            usage, peak = group.usage, group.peak_bytes
        finally:
            one.server.stop()
    cache = usage.get("total_cache", usage.get("file", 0))
    return [row | {"group peak GiB": peak / GIB, "of it page cache GiB": cache / GIB} for row in rows]


def asked(one: Served, source: Source, truth: Truth, options: argparse.Namespace, under: str) -> list[dict[str, Any]]:
    path = f"/v1/collections/{NAME}/search"
    rows = []
    for recall in RECALLS:
        bodies = [
            json.dumps({"vector": q.tolist(), "k": K, "recall": recall, "include": []}).encode() for q in source.queries
        ]
        searches = [request("POST", path, body) for body in bodies]
        # Every query once, so that what the queries need is as warm as it gets.
        first = fired(one.server.port, CLIENTS[-1], searches, options.seconds / 2)
        for clients in CLIENTS:
            run = fired(one.server.port, clients, searches, options.seconds)
            answers = {number: json.loads(body) for number, body in (first.bodies | run.bodies).items()}
            held = memory.measure(processes(one.server))
            rows.append(
                {"under": under, "recall": recall}
                | run.row("search", clients)
                | {
                    "found": found(answers, truth),
                    "answered": len(answers),
                    "expected": next(iter(answers.values()))["expected_recall"],
                    "not page cache GiB": held.anonymous / GIB,
                    f"under {SERVING_GIB:g} GiB": held.anonymous < SERVING_GIB * GIB,
                    "pss GiB": held.pss / GIB,
                }
            )
    return rows


def found(answers: dict[int, Any], truth: Truth) -> float:
    """Mean recall@K of the queries that were answered."""
    numbers = sorted(answers)
    ids = np.full((len(numbers), K), -1, np.int64)
    for row, number in zip(ids, numbers, strict=True):
        hits = answers[number]["hits"]
        row[: len(hits)] = [hit["id"] for hit in hits]
    return float(Truth(truth.rows[numbers], truth.near[numbers]).shares(ids).mean())


if __name__ == "__main__":
    main()
