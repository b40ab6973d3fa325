"""Searches while the server is busy with something else: what becomes of their latency, and what the work loses.

    python -m benchmarks.busy [--data FILE.hdf5] [--rows N] [--beside ivf,hnsw,…] [--clients 1,8]

One collection is searched, one query a request, JSON, each client asking again as soon as it is answered: with nothing
else to do and then beside the work, in turn. The work:

    ivf, hnsw     the index of the searched collection is built, again and again
    calibration   it is calibrated, on given queries
    npy, json     rows are added as fast as they are taken to another collection, which seals, merges and indexes them
    same          rows of the searched collection are replaced, as JSON
"""

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.scheduling import come_first
from benchmarks import datasets, table
from benchmarks.datasets import Dataset
from benchmarks.ingest import NAME, K, add, ready
from benchmarks.loaded import Run, fired, request
from benchmarks.options import numbers
from tests.harness import Server
from tests.wire import NPY, Collection, npy, plain

OTHER = "other"
READY_S = 3600.0
QUERIES = 1000
CALIBRATED_ON = 500
JSON_ROWS, NPY_ROWS = 1_000, 20_000
BODIES = 10
MOST_ADDED = 400_000
"""Rows after which the other collection is dropped and begun anew."""
BEGUN_S = 0.3
POLL_S = 0.2
BUILDS = ("ivf", "hnsw")
EVERYTHING = (*BUILDS, "calibration", "npy", "json", "same")

Piece = Callable[[], int]
"""Does one piece of the work → how many rows it was, 0 where it was cut short."""


@dataclass(slots=True)
class Work:
    """What a thread does beside the searches. done: seconds and rows of each piece that was finished."""

    stop: threading.Event = field(default_factory=threading.Event)
    done: list[tuple[float, int]] = field(default_factory=list)
    error: BaseException | None = None

    def run(self, piece: Piece) -> None:
        try:
            while not self.stop.is_set():
                begun = time.perf_counter()
                if rows := piece():
                    self.done.append((time.perf_counter() - begun, rows))
        except BaseException as e:  # told by who waits for the thread
            self.error = e


@dataclass(slots=True)
class Measured:
    idle: list[Run] = field(default_factory=list)
    busy: list[Run] = field(default_factory=list)
    alone: list[tuple[float, int]] = field(default_factory=list)
    beside: list[tuple[float, int]] = field(default_factory=list)
    """Pieces of the work, with nobody searching and with."""


def main() -> None:
    options = parsed()
    data = datasets.load(options.data, options.rows)
    print(f"{data.name}: {data.train.shape[0]:,} × {data.train.shape[1]}, {data.metric}")
    rows = []
    with (
        tempfile.TemporaryDirectory(dir=options.tmp, prefix="seedvec-busy-") as folder,
        # What the load asks is not to be calibrated on in the middle of it.
        Server(Path(folder) / "data", options.workers, {"SEEDVEC_KEEP_QUERIES": "0"}, checked=False) as server,
    ):
        # And for the load generator: what it waits for a core, on a machine of its own it would not.
        come_first(alone=False)
        bench = Bench(server, data, options)
        bench.fill()
        for beside in options.beside.split(","):
            piece = bench.piece(beside)
            for clients in options.clients:
                rows.append({"beside": beside, "clients": clients} | row(bench.measured(beside, piece, clients)))
                print(table.show(table.turned(named(rows))), flush=True)
    table.write(options.out, "busy", vars(options) | {"dataset": data.name}, rows)
    print(f"written: {options.out}", file=sys.stderr)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="ann-benchmarks HDF5 file (default: clustered synthetic vectors)")
    parser.add_argument("--rows", type=int, help="take only the first rows")
    parser.add_argument("--beside", default=",".join(EVERYTHING), help="work, comma separated")
    parser.add_argument("--clients", type=numbers, default=[1, 8], help="connections, comma separated")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--trials", type=int, default=5, help="idle and busy, in turn, so often")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each run")
    parser.add_argument("--tmp", type=Path, help="where the data folder is made")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/busy.json"))
    return parser.parse_args()


class Bench:
    def __init__(self, server: Server, data: Dataset, options: argparse.Namespace) -> None:
        self.server = server
        self.data = data
        self.options = options
        body = [json.dumps({"vector": q.tolist(), "k": K, "include": []}).encode() for q in data.queries[:QUERIES]]
        self.searches = [request("POST", f"/v1/collections/{NAME}/search", text) for text in body]

    def fill(self) -> None:
        words = self.server.collection(NAME)
        self.create(words, index={"kind": "ivf"})
        add(words, self.data.train, NPY_ROWS)
        ready(words, READY_S)

    def create(self, words: Collection, **settings: Any) -> None:
        words.create(self.data.train.shape[1], metric=self.data.metric, id_type="int", **settings)

    # ---------------------------------------------------------------- measuring

    def measured(self, beside: str, piece: Piece, clients: int) -> Measured:
        found = Measured()
        with self.working(beside, piece) as work:
            time.sleep(self.options.seconds)
            wait_for_one(work, lambda: time.sleep(POLL_S))
        found.alone = work.done
        for trial in range(self.options.trials):
            found.idle.append(self.searched(clients))
            with self.working(beside, piece) as work:
                time.sleep(BEGUN_S)
                found.busy.append(self.searched(clients))
                if trial == self.options.trials - 1:  # at least one is seen through
                    wait_for_one(work, lambda: self.searched(clients))
            found.beside += work.done
        return found

    def searched(self, clients: int) -> Run:
        return fired(self.server.port, clients, self.searches, self.options.seconds)

    @contextmanager
    def working(self, beside: str, piece: Piece) -> Iterator[Work]:
        """It goes on in a thread while the block does; afterwards nothing is left to do."""
        work = Work()
        thread = threading.Thread(target=work.run, args=(piece,), daemon=True)
        thread.start()
        try:
            yield work
        finally:
            work.stop.set()
            if beside in BUILDS:
                words = self.server.collection(NAME)
                words.wire.ok(204, "DELETE", f"{words.path}/index/build")
            thread.join()
        if work.error is not None:
            raise work.error
        self.settle()

    def settle(self) -> None:
        for words in (self.server.collection(NAME), self.server.collection(OTHER)):
            if words.wire.call("GET", words.path).status == 200:
                wait_while_building(words)

    # ---------------------------------------------------------------- the work

    def piece(self, beside: str) -> Piece:
        """On a connection of its own."""
        words = self.server.collection(OTHER if beside in ("npy", "json") else NAME)
        if beside in BUILDS:
            build(words, beside, len(self.data.train))  # the one that is searched from now on
            return lambda: build(words, beside, len(self.data.train))
        if beside == "calibration":
            return self.calibrating(words)
        if beside == "same":
            return self.replacing(words)
        return self.adding(words, beside)

    def calibrating(self, words: Collection) -> Piece:
        body = npy(self.data.queries[-CALIBRATED_ON:])

        def calibrate() -> int:
            words.wire.ok(200, "POST", f"{words.path}/recall?calibrate=true", body, Content_Type=NPY)
            return CALIBRATED_ON if wait_while_building(words) else 0

        return calibrate

    def adding(self, words: Collection, beside: str) -> Piece:
        """Bodies are made beforehand: what is measured is the server."""
        as_npy = beside == "npy"
        parts = self.parts(NPY_ROWS if as_npy else JSON_ROWS)
        step = len(parts[0])
        bodies = [npy(rows) if as_npy else json.dumps({"vectors": plain(rows)}).encode() for rows in parts]
        media = {"Content_Type": NPY if as_npy else "application/json"}
        numbers = count()

        def write_next() -> int:
            number = next(numbers)
            if number * step % MOST_ADDED < step:
                words.wire.call("DELETE", words.path)
                self.create(words)
            write(words, "POST", bodies[number % BODIES], **media)
            return step

        return write_next

    def replacing(self, words: Collection) -> Piece:
        """By themselves, so that the answers stay the same."""
        parts, numbers = self.parts(JSON_ROWS), count()
        step = len(parts[0])
        ids = [list(range(at * step, (at + 1) * step)) for at in range(BODIES)]
        bodies = [json.dumps({"ids": i, "vectors": plain(p)}).encode() for i, p in zip(ids, parts, strict=True)]

        def replace() -> int:
            write(words, "PUT", bodies[next(numbers) % BODIES], Content_Type="application/json")
            return step

        return replace

    def parts(self, most: int) -> list[NDArray[np.float32]]:
        """The first rows, as many times `most` as there are bodies, or fewer."""
        step = min(most, len(self.data.train) // BODIES)
        return [self.data.train[at * step : (at + 1) * step] for at in range(BODIES)]


def build(words: Collection, kind: str, rows: int) -> int:
    words.wire.ok(202, "PUT", f"{words.path}/index", {"kind": kind})
    return rows if wait_while_building(words) else 0


def wait_while_building(words: Collection) -> bool:
    """False where the build was cancelled."""
    while (state := words.describe()["index"]["state"]) == "building":
        time.sleep(POLL_S)
    return bool(state == "ready")


def write(words: Collection, method: str, body: bytes, **headers: str) -> None:
    """What the server puts off (429) is sent again."""
    while (answer := words.wire.call(method, f"{words.path}/vectors", body, **headers)).status == 429:
        time.sleep(POLL_S)
    assert answer.status in (200, 201), answer


def wait_for_one(work: Work, meanwhile: Callable[[], object]) -> None:
    """Until a piece is finished."""
    while not work.done and work.error is None:
        meanwhile()


def named(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"what": f"{row['beside']}, {row['clients']}"} | row for row in rows]


def row(found: Measured) -> dict[str, Any]:
    """Medians of the runs; ratios are medians of those of neighbouring runs."""
    ratios = [p99(busy) / p99(idle) for idle, busy in zip(found.idle, found.busy, strict=True)]
    alone, beside = rate(found.alone), rate(found.beside)
    values: dict[str, Any] = {"p99_ratio": statistics.median(ratios)}
    values |= {"p99_ratios": " ".join(f"{ratio:.2f}" for ratio in sorted(ratios))}
    for name, runs in (("idle", found.idle), ("busy", found.busy)):
        for share in (50, 99, 100):
            each = [float(np.percentile(run.latencies_s, share)) * 1e3 for run in runs]
            values[f"{name}_{'max' if share == 100 else f'p{share}'}_ms"] = statistics.median(each)
        values[f"{name}_qps"] = statistics.median(len(run.latencies_s) / run.elapsed_s for run in runs)
    return values | {
        "work_alone_rows_per_s": alone,
        "work_beside_rows_per_s": beside,
        "work_takes": alone / beside,
        "failures": sum(run.failures for run in (*found.idle, *found.busy)),
    }


def p99(run: Run) -> float:
    return float(np.percentile(run.latencies_s, 99))


def rate(pieces: list[tuple[float, int]]) -> float:
    """Rows a second."""
    return sum(rows for _, rows in pieces) / sum(seconds for seconds, _ in pieces)


if __name__ == "__main__":
    main()
