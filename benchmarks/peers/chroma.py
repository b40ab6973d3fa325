"""chromadb by its own server, asked over kept-alive HTTP by the load generator that asks ours: quicker than its client.

Requests are JSON, as its API has it. `ef_search` is the collection's: it is changed by a request, and in force once the
server has opened the collection anew, so the server is started again for each.
"""

import base64
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.load import Load
from benchmarks.peers.clients import Timed
from benchmarks.peers.peer import NO_LIMIT, Ask, Floats, Hits, Ingested, Params, Peer, near_squared
from benchmarks.peers.protocol import serve

NAME = "compared"
API = "/api/v2/tenants/default_tenant/databases/default_database/collections"
STARTED_S, ANSWERED_S = 60.0, 600.0
WRITERS = 2
EF_CONSTRUCTION, LINKS = 100, 16
WIDTHS = (10, 16, 24, 32, 40, 48, 64, 80, 100, 128, 160, 200, 256, 320, 400)
BUCKETS = 100


class Chroma(Peer):
    def __init__(self) -> None:
        self._folder = Path()
        self._server: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._path = ""
        self._ef = 0

    def open(self, folder: Path, dimension: int) -> int:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._start()
        hnsw = {"space": "l2", "ef_construction": EF_CONSTRUCTION, "max_neighbors": LINKS}
        made = self._call("POST", API, {"name": NAME, "configuration": {"hnsw": hnsw}, "get_or_create": True})
        self._path = f"{API}/{made['id']}"
        self._ef = made["configuration_json"]["hnsw"]["ef_search"]
        rows = int(self._call("GET", f"{self._path}/count"))
        if rows:
            self._warm(dimension)
        return rows

    def _start(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        command = [str(Path(sys.executable).parent / "chroma"), "run", "--path", str(self._folder)]
        self._server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(self._port)],
            # It tells of every request, at length.
            stdout=subprocess.DEVNULL,
            env=os.environ | {"ANONYMIZED_TELEMETRY": "False", "RUST_LOG": "error"},
        )
        end = time.monotonic() + STARTED_S
        while True:
            with contextlib.suppress(OSError):
                self._call("GET", "/api/v2/heartbeat")
                return
            if self._server.poll() is not None or time.monotonic() > end:
                raise RuntimeError("chroma's server does not start")
            time.sleep(0.05)

    def _warm(self, dimension: int) -> None:
        """The first search opens the index, which takes longer than a load generator waits."""
        self._call("POST", f"{self._path}/query", {"query_embeddings": [[0.0] * dimension], "n_results": 1})

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWERED_S)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            read = answer.read()
        finally:
            connection.close()
        if answer.status not in (200, 201):
            raise RuntimeError(f"{method} {path}: {answer.status} {read[:200]!r}")
        return json.loads(read)

    def ingest(self, vectors: Floats, bucket: bool) -> Ingested:
        """An answer to `add` says that it is logged in SQLite; the graph follows when the next search asks for it."""
        step = int(self._call("GET", "/api/v2/pre-flight-checks")["max_batch_size"])
        begun = time.perf_counter()
        with ThreadPoolExecutor(WRITERS) as pool:
            starts = range(0, len(vectors), step)
            list(pool.map(lambda start: self._add(vectors, start, step, bucket), starts))
        acknowledged_s = time.perf_counter() - begun
        self._warm(vectors.shape[1])
        return Ingested(acknowledged_s, time.perf_counter() - begun)

    def _add(self, vectors: Floats, start: int, step: int, bucket: bool) -> None:
        rows = np.ascontiguousarray(vectors[start : start + step], "<f4")
        numbers = range(start, start + len(rows))
        body: dict[str, Any] = {"ids": [str(n) for n in numbers]}
        body["embeddings"] = [base64.b64encode(row.tobytes()).decode() for row in rows]
        body["metadatas"] = [{"bucket": n % BUCKETS} for n in numbers] if bucket else None
        self._call("POST", f"{self._path}/add", body)

    def ladders(self, buckets: int | None) -> list[list[Params]]:
        return [[{"ef": width} for width in WIDTHS]]

    def searches(self, queries: Floats, k: int, params: Params, buckets: int | None) -> list[Ask]:
        self._widen(params["ef"], queries.shape[1])
        return [self._query(query[None], k, buckets) for query in queries]

    def _widen(self, ef: int, dimension: int) -> None:
        if ef == self._ef:
            return
        self._call("PUT", self._path, {"new_configuration": {"hnsw": {"ef_search": ef}}})
        self._ef = ef
        self._stop()
        self._start()
        self._warm(dimension)

    def _query(self, queries: Floats, k: int, buckets: int | None) -> bytes:
        body: dict[str, Any] = {"query_embeddings": queries.tolist(), "n_results": k, "include": ["distances"]}
        if buckets is not None:
            body["where"] = {"bucket": {"$lt": buckets}}
        return self._request("query", body)

    def _request(self, what: str, body: Any) -> bytes:
        text = json.dumps(body, separators=(",", ":")).encode()
        head = f"POST {self._path}/{what} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        return head.encode() + f"Content-Length: {len(text)}\r\n\r\n".encode() + text

    def hits(self, answer: Any) -> Hits:
        return self.batch_hits(answer)[0]

    def batch(self, queries: Floats, k: int, params: Params) -> Ask:
        self._widen(params["ef"], queries.shape[1])
        return self._query(queries, k, None)

    def batch_hits(self, answer: Any) -> Sequence[Hits]:
        found = json.loads(answer)
        return [
            near_squared([int(i) for i in ids], squares)
            for ids, squares in zip(found["ids"], found["distances"], strict=True)
        ]

    def fetches(self, ids: NDArray[np.int64]) -> list[Ask]:
        return [self._request("get", {"ids": [str(row)], "include": ["embeddings"]}) for row in ids]

    def run(
        self, asks: Sequence[Ask], clients: int, seconds: float, *, warm_s: float = 0, most: int = NO_LIMIT
    ) -> Timed:
        load = Load(self._port, clients, list(asks))
        try:
            if warm_s:
                load.run(warm_s, NO_LIMIT)
            result = load.run(seconds, most)
        except SystemExit as error:
            raise RuntimeError(str(error)) from error
        return Timed(result.elapsed_s, result.latencies_s, result.bodies, result.failures)

    def pids(self) -> list[int]:
        return [] if self._server is None else [self._server.pid]

    def close(self) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._server is None:
            return
        self._server.send_signal(signal.SIGINT)
        try:
            self._server.wait(10)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._server = None


if __name__ == "__main__":
    serve(Chroma())
