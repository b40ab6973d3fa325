"""From the command to the first right answer, with a million vectors stored, and how the first 1,000 queries fare.

    python -m benchmarks.restart [--data FILE.hdf5] [--rows 1000000] [--fields 0,5] [--kind ivf] [--times 5]
                                 [--ways stopped,killed,cold]

stopped: after SIGTERM, over a warm page cache. killed: `kill -9` of every process, the clock runs from the first.
cold: after SIGTERM, and nothing in the page cache: nothing at all where this is run as root, else of the data folder.
Right is the answer that was given before, whose recall was measured; and nothing may have been rebuilt: every segment,
index and columns file is the same. The 1,000 queries are different ones, one after the other, over one connection.
`--folder DIR` keeps the filled folders there and takes them from there the next time.
"""

import argparse
import contextlib
import http.client
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from benchmarks import datasets, table
from benchmarks.cache import forget, forget_everything
from benchmarks.datasets import Dataset
from benchmarks.ingest import add, found, ready, retried
from benchmarks.loaded import fired, request
from benchmarks.served import UNSAMPLED
from tests.harness import HOST, Server
from tests.wire import Collection, Wire

K = 10
NAME = "restarted"
SEARCH = f"/v1/collections/{NAME}/search"
QUERIES = 200
FIRST = 1000
LEAST_RECALL = 0.9
SAME_RECALL = 0.005
BATCH = 5000
GIVE_UP_S = 120.0
POLL_S = 0.002
QUIET_OVER_S = 1.0
BUSY_SHARE = 0.1
TOPICS = ("art", "law", "sea", "war", "trade", "music", "stone")


def main() -> None:
    options = parsed()
    data = datasets.load(options.data, options.rows)
    print(f"{data.name}: {data.train.shape[0]:,} × {data.train.shape[1]}, {data.metric}")
    rows = []
    for fields in map(int, options.fields.split(",")):
        with folder(options, fields) as place:
            rows += measured(place / "data", data, fields, options)
        print("\n" + table.show(table.turned(rows)), flush=True)
    table.write(options.out, "restart", vars(options) | {"dataset": data.name}, rows)
    print(f"written: {options.out}")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="ann-benchmarks HDF5 file (default: clustered synthetic vectors)")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--fields", default="0,5", help="metadata fields a row, comma separated: a table's column each")
    parser.add_argument("--kind", default="ivf", help="kind of index")
    parser.add_argument("--ways", default=",".join(WAYS), help="how the server ended before")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--ready-s", type=float, default=1800, help="longest wait for the index")
    parser.add_argument("--quiet-s", type=float, default=30, help="longest wait for a quiet moment, each time")
    parser.add_argument("--tmp", type=Path, help="where the data folder is made")
    parser.add_argument("--folder", type=Path, help="where filled folders are kept between runs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/restart.json"))
    return parser.parse_args()


@contextlib.contextmanager
def folder(options: argparse.Namespace, fields: int) -> Iterator[Path]:
    if options.folder is None:
        with tempfile.TemporaryDirectory(dir=options.tmp, prefix="seedvec-restart-") as name:
            yield Path(name)
        return
    kept = options.folder / f"{options.kind}-{options.rows}-{fields}"
    kept.mkdir(parents=True, exist_ok=True)
    yield kept


def measured(place: Path, data: Dataset, fields: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each of the ways."""
    filled = place.exists()
    with Server(place, workers=options.workers, env=UNSAMPLED) as server:
        words = server.collection(NAME)
        if not filled:
            words.create(data.train.shape[1], metric=data.metric, id_type="int", index={"kind": options.kind})
            fill(words, data, fields)
        described = ready(words, options.ready_s)
        assert described["count"] == len(data.train), described
        assert described["index"]["kind"] == options.kind, described
        server.wait_ready(NAME)
        settled(place)
        recall = found(words, data, data.queries[:QUERIES])
        assert recall > LEAST_RECALL, recall
        about = {
            "recall": recall,
            "segments": described["segments"],
            "disk_mib": sum(f.stat().st_size for f in place.rglob("*") if f.is_file()) / 2**20,
        }
        return [
            {"": f"{way}, {fields} fields"} | several(server, way, recall, data, options) | about
            for way in options.ways.split(",")
        ]


def several(server: Server, way: str, recall: float, data: Dataset, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of `times` starts; of the first queries each start gives its own, and the median is kept."""
    took, first, again, others = [], [], [], []
    for n in range(options.times):
        others.append(busy_before(options.quiet_s))
        took.append(restarted(server, WAYS[way], data.queries[n]))
        first.append(latencies_ms(server, data))
        again.append(latencies_ms(server, data))
        recall_after = found(server.collection(NAME), data, data.queries[:QUERIES])
        assert abs(recall_after - recall) < SAME_RECALL, f"recall was {recall}, is {recall_after}"
        print(f"  {way}: {took[-1]:.2f} s (others took {others[-1]:.0%} of the machine)", flush=True)
    return {
        "median_s": statistics.median(took),
        "worst_s": max(took),
        "best_s": min(took),
        **percentiles(f"first {FIRST} queries", first),
        **percentiles("the same again", again),
        "machine_busy_before": max(others),
    }


def percentiles(what: str, runs: list[np.ndarray[Any, Any]]) -> dict[str, float]:
    return {f"{what}, p{p} ms": statistics.median(float(np.percentile(run, p)) for run in runs) for p in (50, 99, 100)}


def latencies_ms(server: Server, data: Dataset) -> np.ndarray[Any, Any]:
    requests = [request("POST", SEARCH, body(query)) for query in data.queries[-FIRST:]]
    run = fired(server.port, 1, requests, GIVE_UP_S, warm_s=0, most=len(requests))
    assert not run.failures, run.failures
    return np.array(run.latencies_s) * 1000


def busy_before(quiet_s: float) -> float:
    """Waits for a moment at which nobody else uses the machine; the share of it that was in use just before."""
    end = time.monotonic() + quiet_s
    while True:
        before = processor()
        time.sleep(QUIET_OVER_S)
        idle, everything = (now - then for now, then in zip(processor(), before, strict=True))
        busy = 1 - idle / everything
        if busy < BUSY_SHARE or time.monotonic() > end:
            return busy


def processor() -> tuple[int, int]:
    """Ticks idle, and of everything."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def fill(words: Collection, data: Dataset, fields: int) -> None:
    if not fields:
        add(words, data.train, BATCH)
        return
    for begin in range(0, len(data.train), BATCH):
        part = data.train[begin : begin + BATCH]
        ids = list(range(begin, begin + len(part)))
        metadata = [described_as(id, fields) for id in ids]
        body = orjson.dumps({"ids": ids, "vectors": part, "metadata": metadata}, option=orjson.OPT_SERIALIZE_NUMPY)
        retried(lambda body=body: post(words, body))  # type: ignore[misc]


def described_as(id: int, fields: int) -> dict[str, Any]:
    """Numbers and strings of few and of many values, an array, a boolean; more fields repeat the numbers."""
    kinds: list[Any] = [
        id % 1000,
        TOPICS[id % len(TOPICS)],
        f"title {id}",
        [TOPICS[id % 3], TOPICS[id % 5]],
        id % 2 == 0,
    ]
    return {f"field{n}": kinds[n] if n < len(kinds) else id * n for n in range(fields)}


def post(words: Collection, body: bytes) -> bool:
    answer = words.wire.call("POST", f"{words.path}/vectors", body, Content_Type="application/json")
    assert answer.status in (201, 429), answer
    return answer.status == 201


def settled(place: Path) -> None:
    """Waits until nothing is written any more: the sealer brings logs home and gives space back when it is quiet."""
    before = None
    while before != (before := files(place, everything=True)):
        time.sleep(5)


def files(place: Path, *, everything: bool = False) -> dict[str, tuple[int, int, int]]:
    """Name → inode, size and time of change, of what restarting must leave as it is."""
    suffixes = ("",) if everything else (".h5", ".faiss", ".npz")
    stats = {str(p): p.stat() for p in place.rglob("*") if p.is_file() and p.name.endswith(suffixes)}
    return {name: (s.st_ino, s.st_size, s.st_mtime_ns) for name, s in stats.items()}


def stopped(server: Server) -> float:
    server.stop()
    return time.perf_counter()


def killed(server: Server) -> float:
    process = server.process
    assert process is not None
    pids = [process.pid, *server.children()]
    begun = time.perf_counter()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    server.kill()
    return begun


def cold(server: Server) -> float:
    server.stop()
    if not forget_everything():
        forget(server.data_dir)
    return time.perf_counter()


WAYS: dict[str, Callable[[Server], float]] = {"stopped": stopped, "killed": killed, "cold": cold}
"""Ends the server, and gives the moment from which its absence counts."""


def restarted(server: Server, end: Callable[[Server], float], query: np.ndarray[Any, Any]) -> float:
    """Seconds until the right answer."""
    asked = body(query)
    before = server.wire().ok(200, "POST", SEARCH, asked, Content_Type="application/json")["hits"]
    was = files(server.data_dir)
    begun = end(server)
    server.start(wait=False)
    hits = answered(server.port, SEARCH, asked)
    elapsed = time.perf_counter() - begun
    assert hits == before, f"answered {hits}, before {before}"
    state = server.collection(NAME).describe()["index"]
    assert state["state"] == "ready", state
    assert files(server.data_dir) == was, "something was rebuilt"
    return elapsed


def body(query: np.ndarray[Any, Any]) -> bytes:
    return orjson.dumps({"vector": query, "k": K}, option=orjson.OPT_SERIALIZE_NUMPY)


def answered(port: int, path: str, body: bytes) -> Any:
    """The hits of the first answer that there is."""
    end = time.monotonic() + GIVE_UP_S
    while time.monotonic() < end:
        wire = Wire(HOST, port)
        try:
            return wire.ok(200, "POST", path, body, Content_Type="application/json")["hits"]
        except (OSError, http.client.HTTPException):
            time.sleep(POLL_S)
        finally:
            wire.close()
    raise SystemExit(f"no answer in {GIVE_UP_S:g} s")


if __name__ == "__main__":
    main()
