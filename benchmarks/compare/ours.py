"""This server as one of the systems compared: a real one, asked over HTTP as users ask it.

It is asked by the raw load generator, over kept-alive connections, and says besides what each request cost it.
"""

import http.client
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from benchmarks import datasets
from benchmarks.compare.bare import Bare
from benchmarks.compare.peer import Refused, Seconds
from benchmarks.compare.processes import connections, counted, cpu_s
from benchmarks.compare.work import NEVER_ASKED, NONE
from benchmarks.datasets import Dataset
from benchmarks.ingest import add, processes, ready, retried
from benchmarks.loaded import JSON, Run, fired, request
from benchmarks.restart import answered, post
from benchmarks.served import NAME, ROWS_A_WRITE, Served
from seedvec import Client
from seedvec.errors import SeedvecError
from tests.harness import HOST
from tests.wire import NPY, Collection, Wire, npy

NPZ = "application/x-npz"
JSON_ROWS = 5_000
OTHER, METRIC = "another", "l2"
DEARER = (0.0, 0.002, 0.005, 0.01, 0.02, 0.03)
"""What is asked for above the recall wanted, until so much is found."""
SAID_CHARACTERS = 300
PATH = f"/v1/collections/{NAME}"
POLL_S = 0.05


class Ours:
    """See `System`. Operations are methods of the same name."""

    name = "seedvec"

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._open = ExitStack()
        self._served: Served
        self._bare: Bare | None = None

    def ask(self, op: str, within_s: float, **order: Any) -> dict[str, Any]:
        """within_s bounds an ingest; the load generator and the harness bound all else by themselves."""
        operation: Callable[..., dict[str, Any]] = getattr(self, op)
        with _refused():
            return operation(**order, **({"within_s": within_s} if op == "ingest" else {}))

    def close(self) -> None:
        with _refused():
            self._open.close()

    # -- operations

    def open(self, folder: Path, dimension: int, metric: str) -> dict[str, Any]:
        # A kept folder's log would be judged for what earlier servers wrote.
        (folder / "data.log").unlink(missing_ok=True)
        self._served = self._open.enter_context(Served(folder / "data", self._workers))
        with self._words() as words:
            if words.wire.call("GET", words.path).status == 404:
                words.create(dimension, metric=metric, id_type="int")
            return {"rows": words.describe()["count"]}

    def ingest(self, vectors: Path, bucket: bool, within_s: float) -> Seconds:
        """An import of the file, with the metadata beside it."""
        assert bucket, "what is beside the file is imported with it"
        with Client(self._served.server.url) as client, self._words() as words:
            return _ingested(lambda: client.collection(NAME).import_file(vectors), words, within_s)

    def ingest_afresh(self, vectors: Path, body: str, folder: Path, dimension: int, within_s: float) -> Seconds:
        """Requests of `body` (npy, json), one after the other, into another collection, which is dropped."""
        rows: NDArray[np.float32] = np.load(vectors)
        send = _add_json if body == "json" else _add_npy
        with _refused(), self._words(OTHER) as words:
            words.create(dimension, metric=METRIC, id_type="int")
            try:
                return _ingested(lambda: send(words, rows), words, within_s)
            finally:
                words.drop()

    def tune(self, queries: Path, truth: Path, k: int, recall: float, buckets: int | None) -> dict[str, Any]:
        """The recall to ask for so that one search a request finds as much: the first of a ladder, the recall itself
        where the server keeps its word."""
        asked: NDArray[np.float32] = np.load(queries)
        data = Dataset("", "l2", asked[:0], asked, np.load(truth))
        best = 0.0
        for more in DEARER:
            if recall + more >= 1:
                break
            requests = self._searches(asked, k, _filtered({"recall": recall + more}, buckets))
            bodies = fired(self._port, 1, requests, 60.0, warm_s=0.0, most=len(requests)).bodies
            near = np.full((len(asked), k), np.inf, np.float32)
            for number, body in bodies.items():
                hits = json.loads(body)["hits"]
                near[number, : len(hits)] = [hit["distance"] for hit in hits]
            found = datasets.recall(data, near, k)
            if found >= recall:
                return {"params": {"recall": recall + more}, "recall": found}
            best = max(best, found)
        return {"params": None, "recall": best}

    def search(
        self,
        queries: Path,
        k: int,
        params: dict[str, Any],
        clients: int,
        seconds: float,
        buckets: int | None,
        answers: Path,
        body: str = "json",
    ) -> dict[str, Any]:
        """With what it cost: µs a request of the workers' processor time (cpu_us), of it inside the index by the
        server's own clock (index_us), and how many connections each worker had."""
        asked: NDArray[np.float32] = np.load(queries)
        requests = self._searches(asked, k, _filtered(params, buckets), body)
        run, cost = self._watched(clients, requests, seconds)
        ids = np.full((len(asked), k), NEVER_ASKED, np.int64)
        for number, text in run.bodies.items():
            ids[number] = NONE
            hits = _npz_ids(text)[0] if body == "npy" else [hit["id"] for hit in json.loads(text)["hits"]]
            ids[number, : len(hits)] = hits
        np.save(answers, ids)
        return run.figures() | cost

    def batch(self, queries: Path, k: int, params: dict[str, Any], answers: Path) -> Seconds:
        asked: NDArray[np.float32] = np.load(queries)
        path = f"{PATH}/search?k={k}&include=&recall={params['recall']}"
        with self._words() as words:
            begun = time.perf_counter()
            ids = _npz_ids(words.wire.ok(200, "POST", path, npy(asked), Content_Type=NPY, Accept=NPZ))
            elapsed_s = time.perf_counter() - begun
        np.save(answers, ids)
        return {"elapsed_s": elapsed_s}

    def fetch(self, ids: Path, clients: int, seconds: float) -> dict[str, Any]:
        wanted: NDArray[np.int64] = np.load(ids)
        requests = [request("GET", f"{PATH}/vectors/{id}") for id in wanted.tolist()]
        return fired(self._port, clients, requests, seconds).figures()

    def cold(self, query: Path, k: int, params: dict[str, Any], answers: Path, within_s: float) -> Seconds:
        path = f"{PATH}/search"
        body = _body(np.load(query)[0], k, params)
        server = self._served.server
        with _refused():
            with self._words() as words:
                before = words.wire.ok(200, "POST", path, body, Content_Type=JSON)["hits"]
            server.stop()
            begun = time.perf_counter()
            server.start(wait=False)
            hits = answered(server.port, path, body)
            cold_s = time.perf_counter() - begun
            server.wait_serving()
            assert hits == before, f"answered {hits}, before the start {before}"
        return {"cold_s": cold_s}

    def pids(self) -> dict[str, list[int]]:
        return {"pids": processes(self._served.server)}

    def bare(self, route: str, queries: Path, k: int, clients: int, seconds: float) -> dict[str, Any]:
        """The same load on a route that does nothing (see `Bare`) and answers as many bytes as this server would."""
        if self._bare is None:
            self._bare = self._open.enter_context(Bare(self._workers))
        bodies = [_body(query, k, {}) for query in np.load(queries)]
        with self._words() as words:
            if route == "fetch":
                found = words.wire.call("GET", words.item(0))
                return self._bare.run(route, len(found.body), [b""], clients, seconds)
            found = words.wire.call("POST", f"{PATH}/search", bodies[0], Content_Type=JSON)
            return self._bare.run(route, len(found.body), bodies, clients, seconds)

    # -- parts

    @contextmanager
    def _words(self, name: str = NAME) -> Iterator[Collection]:
        """Over a connection of its own: one that lay idle while the others were asked may be closed meanwhile."""
        wire = Wire(HOST, self._port)
        try:
            yield Collection(wire, name)
        finally:
            wire.close()

    @property
    def _port(self) -> int:
        return self._served.server.port

    def _searches(self, asked: NDArray[np.float32], k: int, options: dict[str, Any], body: str = "json") -> list[bytes]:
        path = f"{PATH}/search"
        if body == "json":
            return [request("POST", path, _body(query, k, options)) for query in asked]
        path += f"?k={k}&include=&recall={options['recall']}"
        return [request("POST", path, npy(query), NPY, NPZ) for query in asked]

    def _watched(self, clients: int, requests: Sequence[bytes], seconds: float) -> tuple[Run, dict[str, Any]]:
        server = self._served.server
        workers = server.children("app.worker")
        with self._words() as words, ThreadPoolExecutor(1) as beside:
            own = [words.wire.connect()]
            before, busy_s = self._counters(words), cpu_s(workers)
            run = beside.submit(fired, server.port, clients, requests, seconds)
            spread = [0]
            # Where they all are is seen at their beginning, in the part that does not count.
            while sum(spread) < clients and not run.done():
                time.sleep(POLL_S)
                spread = connections(server.port, workers, own)
            done = run.result()
            spent_s, after = cpu_s(workers) - busy_s, self._counters(words)
        searches, index_s = (now - then for now, then in zip(after, before, strict=True))
        cost: dict[str, Any] = {"cpu_us": spent_s / searches * 1e6, "index_us": index_s / searches * 1e6}
        # The index's clock runs on while others have its core, as they do with more than one client.
        if clients == 1:
            cost["outside_us"] = cost["cpu_us"] - cost["index_us"]
        return done, cost | {"spread": spread}

    def _counters(self, words: Collection) -> tuple[float, float]:
        """Searches so far, and seconds inside the index."""
        text = words.wire.ok(200, "GET", "/metrics").decode()
        return counted(text, "seedvec_searches_total"), counted(text, "seedvec_search_seconds_sum", 'stage="index"')


@contextmanager
def _refused() -> Iterator[None]:
    """What a benchmark's own code asserts of the server is no end of the run."""
    try:
        yield
    except (AssertionError, SystemExit, OSError, http.client.HTTPException, SeedvecError) as error:
        raise Refused(f"{type(error).__name__}: {error}"[:SAID_CHARACTERS]) from error


def _body(query: NDArray[np.float32], k: int, options: dict[str, Any]) -> bytes:
    return json.dumps({"vector": query.tolist(), "k": k, "include": []} | options).encode()


def _filtered(options: dict[str, Any], buckets: int | None) -> dict[str, Any]:
    return options if buckets is None else options | {"filter": {"bucket": {"$lt": buckets}}}


def _npz_ids(body: bytes) -> NDArray[np.int64]:
    """(q, k)"""
    with np.load(io.BytesIO(body)) as found:
        ids: NDArray[np.int64] = found["ids"]
    return ids


def _ingested(send: Callable[[], Any], words: Collection, within_s: float) -> Seconds:
    begun = time.perf_counter()
    send()
    acknowledged_s = time.perf_counter() - begun
    ready(words, within_s)
    return {"acknowledged_s": acknowledged_s, "indexed_s": time.perf_counter() - begun}


def _add_npy(words: Collection, rows: NDArray[np.float32]) -> None:
    add(words, rows, ROWS_A_WRITE)


def _add_json(words: Collection, rows: NDArray[np.float32]) -> None:
    """Encoding included: whoever sends JSON has to make it."""
    for begin in range(0, len(rows), JSON_ROWS):
        part = rows[begin : begin + JSON_ROWS]
        ids = range(begin, begin + len(part))
        body = orjson.dumps({"ids": list(ids), "vectors": part}, option=orjson.OPT_SERIALIZE_NUMPY)
        retried(lambda body=body: post(words, body))  # type: ignore[misc]
