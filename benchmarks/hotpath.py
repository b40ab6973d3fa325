"""Where each microsecond of a search for one vector goes: made layer by layer in this process, then over HTTP.

    python -m benchmarks.hotpath [--data FILE.hdf5] [--rows N] [--kind ivf] [--folder DIR] [--rounds 7]

In process every layer is asked the same queries on one thread, one layer after the other, round after round: what a
layer takes of its own is its line less that of the layer it calls. Over HTTP it is the processor time of one worker
for each request, beside routes that do nothing (`benchmarks.bare`). Medians of the rounds, processor time in µs.
DIR is filled where it is empty, and taken as it is where it is not.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np

from app.api.application import Application, create_app
from app.api.bodies import JSON
from app.api.encode import json_response, search_value
from app.api.search import parse
from app.engine import planning, reading, search
from app.engine.engine import LocalEngine
from app.engine.types import Asked
from app.settings import Settings
from benchmarks import datasets, table
from benchmarks.compare.bare import Bare
from benchmarks.compare.processes import counted, cpu_s
from benchmarks.datasets import Dataset
from benchmarks.loaded import fired, request
from benchmarks.served import NAME, Served
from index.approximate import Approximate, spare
from tests.wire import NPY, npy

K = 10
PATH = f"/v1/collections/{NAME}/search"
Layer = Callable[[int], Any]


def main() -> None:
    options = parsed()
    data = datasets.first(datasets.load(options.data, options.rows), options.queries)
    with tempfile.TemporaryDirectory(dir=options.tmp, prefix="seedvec-hotpath-") as fresh:
        folder = options.folder or Path(fresh) / "data"
        fill(folder, data, options.kind)
        print(f"{data.name}: {data.train.shape[0]:,} × {data.train.shape[1]}, {options.kind}")
        inside = asyncio.run(in_process(folder, data, options))
        print(table.show(inside), flush=True)
        outside = over_http(folder, data, options)
    print(table.show(outside))
    table.write(options.out, "hotpath", vars(options) | {"dataset": data.name}, inside + outside)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="ann-benchmarks HDF5 file (default: clustered synthetic vectors)")
    parser.add_argument("--rows", type=int, help="take only the first rows")
    parser.add_argument("--kind", default="ivf", help="kind of index")
    parser.add_argument("--folder", type=Path, help="data folder to make, or to use again")
    parser.add_argument("--recall", type=float, default=0.95)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run over HTTP")
    parser.add_argument("--tmp", type=Path, help="where the data folder is made")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/hotpath.json"))
    return parser.parse_args()


def fill(folder: Path, data: Dataset, kind: str) -> None:
    with Served(folder) as served:
        if served.collection.wire.call("GET", served.collection.path).status == 404:
            served.collection.create(data.train.shape[1], metric=data.metric, id_type="int", index={"kind": kind})
            served.fill(data.train, 0)
        served.ready()


def body(query: Any, options: argparse.Namespace) -> bytes:
    return json.dumps({"vector": query.tolist(), "k": K, "recall": options.recall, "include": []}).encode()


# -------------------------------------------------------------------- in this process


async def in_process(folder: Path, data: Dataset, options: argparse.Namespace) -> list[dict[str, Any]]:
    settings = Settings(data=folder)
    engine = LocalEngine(folder, settings)
    await engine.start()
    try:
        layers = await made(engine, create_app(engine, settings), data, options)
        took: dict[str, list[float]] = {name: [] for name in layers}
        for _ in range(options.rounds):
            for name, layer in layers.items():
                took[name].append(await each(layer, options.queries))
        return [{"layer": name, "us": statistics.median(of), "least_us": min(of)} for name, of in took.items()]
    finally:
        await engine.close()


async def each(layer: Layer, queries: int) -> float:
    """Processor time of one, µs."""
    begun = time.process_time()
    for i in range(queries):
        done = layer(i)
        if isinstance(done, Coroutine):
            await done
            # A worker looks at the catalogue once a turn of its loop: so does each search here, in its own time.
            await asyncio.sleep(0)
    return (time.process_time() - begun) / queries * 1e6


async def made(engine: LocalEngine, app: Application, data: Dataset, options: argparse.Namespace) -> dict[str, Layer]:
    """From the outermost to the innermost."""
    c = engine._collection(NAME)
    view, settings = c.view(), engine.settings(NAME)
    bodies = [body(query, options) for query in data.queries]
    arrays = [npy(query) for query in data.queries]
    singles = [np.ascontiguousarray(query[None]) for query in data.queries]
    asked = Asked(K, options.recall, include=frozenset())
    found = await engine.search(NAME, singles[0], asked)
    plan = planning.plan(view, K, options.recall)
    step = plan.steps[0]
    index = step.index
    assert isinstance(index, Approximate), "so few rows are searched exactly"
    query = f"k={K}&recall={options.recall}&include=".encode()
    return {
        "a turn of the loop": lambda i: nothing(),
        "the application, asked in JSON": lambda i: asked_once(app, b"", bodies[i], JSON),
        "the application, asked in .npy": lambda i: asked_once(app, query, arrays[i], NPY),
        "of that: JSON read": lambda i: parse(JSON, bodies[i], None, settings),
        "of that: JSON written": lambda i: json_response(search_value(found, False, 0.001)),
        "engine.search": lambda i: engine.search(NAME, singles[i], asked),
        "reading.find": lambda i: reading.find(c, singles[i], asked),
        "search.run": lambda i: search.run(view, plan, singles[i], K),
        "index.search": lambda i: index.search(singles[i], K, step.plan, step.alive),
        "index.propose: Faiss, re-ranked": lambda i: index.propose(singles[i], K + spare(K), step.plan.params),
    }


async def nothing() -> None:
    pass


async def asked_once(app: Application, query: bytes, body: bytes, media: str) -> None:
    sent: list[Any] = []
    length = str(len(body)).encode()
    scope = {
        "type": "http",
        "method": "POST",
        "path": PATH,
        "raw_path": PATH.encode(),
        "query_string": query,
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", media.encode()), (b"content-length", length)],
        "client": ("127.0.0.1", 1),
        "state": {},
    }

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    assert sent[0]["status"] == 200, sent


# -------------------------------------------------------------------- over HTTP


def over_http(folder: Path, data: Dataset, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The server and the bare routes take turns, one worker each."""
    asked = [body(query, options) for query in data.queries]
    searches = {
        "search, JSON": [request("POST", PATH, text) for text in asked],
        "search, .npy": [
            request("POST", f"{PATH}?k={K}&recall={options.recall}&include=", npy(query), NPY) for query in data.queries
        ],
        "fetch by id": [request("GET", f"/v1/collections/{NAME}/vectors/{i}") for i in range(len(asked))],
    }
    rows: dict[str, list[tuple[float, float]]] = {}
    with Served(folder, workers=1) as served, Bare(1) as bare:
        served.opened(data.queries[0])
        workers = worker_pids(served)
        for _ in range(options.rounds):
            for name, requests in searches.items():
                before, index = cpu_s(workers), index_s(served)
                run = fired(served.server.port, options.clients, requests, options.seconds, warm_s=0)
                cpu = (cpu_s(workers) - before) / len(run.latencies_s) * 1e6
                within = (index_s(served) - index) / len(run.latencies_s) * 1e6
                rows.setdefault(name, []).append((cpu, within))
                size = len(next(iter(run.bodies.values())))
                route, bodies = ("fetch", [b""]) if name == "fetch by id" else ("search", asked)
                nothing = bare.run(route, size, bodies, options.clients, options.seconds)
                rows.setdefault(f"bare route: {name}", []).append((nothing["cpu_us"], 0.0))
            nothing = bare.run("asgi", size, asked, options.clients, options.seconds)
            rows.setdefault("bare ASGI: search, JSON", []).append((nothing["cpu_us"], 0.0))
    return [summary(name, of) for name, of in rows.items()]


def summary(name: str, of: list[tuple[float, float]]) -> dict[str, Any]:
    """The index is timed by the clock: where others use the machine, that is more than it takes."""
    return {
        "over HTTP": name,
        "us": statistics.median(us for us, _ in of),
        "least_us": min(us for us, _ in of),
        "in the index": statistics.median(index for _, index in of),
        "outside of it": statistics.median(us - index for us, index in of),
    }


def worker_pids(served: Served) -> list[int]:
    return [
        pid
        for pid in served.server.children()
        if b"app.worker" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    ]


def index_s(served: Served) -> float:
    """Time that searches have spent in the index so far, by the server's own counter."""
    text = served.collection.wire.call("GET", "/metrics").body.decode()
    return counted(text, "seedvec_search_seconds_sum", 'stage="index"')


if __name__ == "__main__":
    main()
