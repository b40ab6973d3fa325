"""More than a server can do: `python -m benchmarks.overload` (`make overload`).

Requests are sent when they are due, whether those before them were answered or not: four times as many as the server
answers when it is asked as fast as it answers. Searches are of two kinds, cheap ones (answered inside the event loop)
and dear ones (by the search thread). Told are the latency of what was accepted, what became of the rest, how long
`/livez` took meanwhile, the workers' private memory, and how soon afterwards a search is answered as before.
"""

import argparse
import http.client
import json
import selectors
import socket
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import numpy as np

from seedvec.load import Load
from tests.harness import HOST, Server
from tests.wire import npy

NPY: Final = {"content-type": "application/x-npy"}
DIMENSION: Final = 128
QUERIES: Final = 64
ROWS_A_WRITE: Final = 50_000
MOST_CONNECTIONS: Final = 4000
RECOVERED_S: Final = 0.25
"""A search that takes less is answered as before: the machine has other things to do as well."""


@dataclass(eq=False)
class Connection:
    """due: when its request was to be sent; None: it is idle."""

    socket: socket.socket
    due: float | None = None
    got: bytearray = field(default_factory=bytearray)


@dataclass
class Told:
    """latencies_s: from when a request was due to its answer, by status; unsent: for want of a connection."""

    latencies_s: dict[int, list[float]] = field(default_factory=dict)
    without_retry_after: int = 0
    unsent: int = 0
    lost: int = 0


class OpenLoop:
    """Sends `rate` requests a second to the server, and waits for no answer before the next."""

    def __init__(self, port: int, requests: Sequence[bytes], rate: float) -> None:
        self.address = (HOST, port)
        self.requests = requests
        self.rate = rate
        self.selector = selectors.DefaultSelector()
        self.idle: list[Connection] = []
        self.opened = 0
        self.told = Told()

    def run(self, seconds: float) -> Told:
        begun = time.perf_counter()
        sent, end = 0, begun + seconds
        while (now := time.perf_counter()) < end or self.opened > len(self.idle):
            while now < end and begun + sent / self.rate <= now:
                self._send(sent, begun + sent / self.rate)
                sent += 1
            for key, _ in self.selector.select(0.001):
                self._receive(key.data)
            if now > end + 60:
                break
        self.selector.close()
        for connection in self.idle:
            connection.socket.close()
        return self.told

    def _send(self, number: int, due: float) -> None:
        if not self.idle:
            if self.opened >= MOST_CONNECTIONS:
                self.told.unsent += 1
                return
            self._open()
        connection = self.idle.pop()
        connection.due = due
        try:
            connection.socket.send(self.requests[number % len(self.requests)])
        except OSError:
            self._lose(connection)

    def _open(self) -> None:
        opened = socket.create_connection(self.address, 60)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setblocking(False)
        connection = Connection(opened)
        self.selector.register(opened, selectors.EVENT_READ, connection)
        self.idle.append(connection)
        self.opened += 1

    def _lose(self, connection: Connection) -> None:
        self.told.lost += connection.due is not None
        if connection.due is None:
            self.idle.remove(connection)
        self.selector.unregister(connection.socket)
        connection.socket.close()
        self.opened -= 1

    def _receive(self, connection: Connection) -> None:
        try:
            part = connection.socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        if not part:
            self._lose(connection)
            return
        got = connection.got
        got += part
        head = got.find(b"\r\n\r\n")
        if head < 0:
            return
        at = got.find(b"content-length: ") + 16
        if len(got) < head + 4 + int(got[at : got.index(b"\r", at)]):
            return
        status = int(got[9:12])
        assert connection.due is not None
        self.told.latencies_s.setdefault(status, []).append(time.perf_counter() - connection.due)
        if status in (429, 503) and b"\r\nretry-after: " not in got[: head + 2]:
            self.told.without_retry_after += 1
        connection.got.clear()
        connection.due = None
        self.idle.append(connection)


class Watch(threading.Thread):
    """Asks `/livez` ten times a second, and looks at the workers' memory."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self.server = server
        self.over = threading.Event()
        self.livez_s: list[float] = []
        self.private: list[int] = []

    def run(self) -> None:
        while not self.over.wait(0.1):
            begun = time.perf_counter()
            # On a connection of its own, as probes ask; httpx would load all certificates of the machine for it.
            connection = http.client.HTTPConnection(HOST, self.server.port, timeout=60)
            connection.request("GET", "/livez")
            assert connection.getresponse().status == 200
            connection.close()
            self.livez_s.append(time.perf_counter() - begun)
            self.private.append(self.server.private_bytes())


def ms(values: Sequence[float], share: float) -> str:
    return "–" if not values else f"{1000 * float(np.quantile(values, share)):.0f}"


def overload(server: Server, kind: str, seconds: float, times: float) -> None:
    path = f"/v1/collections/{kind}/search"
    vectors = np.random.default_rng(7).standard_normal((QUERIES, DIMENSION)).round(4).tolist()
    bodies = [json.dumps({"vector": vector, "k": 10, "exact": True}).encode() for vector in vectors]
    with Load(server.url, 16) as load:
        requests = [load.request(path, text) for text in bodies]
        calm = load.run(requests, 3.0)
    capacity = len(calm.latencies_s) / calm.elapsed_s
    watch, before = Watch(server), server.private_bytes()
    watch.start()
    time.sleep(1)
    told = OpenLoop(server.port, requests, times * capacity).run(seconds)
    ended, recovered = time.perf_counter(), None
    with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as client:
        while recovered is None:
            begun = time.perf_counter()
            answer = client.post(path, content=bodies[0], headers={"content-type": "application/json"})
            took = time.perf_counter() - begun
            if answer.status_code == 200 and took < RECOVERED_S:
                recovered = begun - ended
    watch.over.set()
    watch.join()
    accepted = told.latencies_s.get(200, [])
    refused = [s for status, values in told.latencies_s.items() if status != 200 for s in values]
    statuses = Counter({status: len(values) for status, values in told.latencies_s.items()})
    half = len(watch.private) // 2
    print(
        f"| {kind} | {capacity:.0f} | {times * capacity:.0f} | {len(accepted) / seconds:.0f} | "
        f"{ms(accepted, 0.5)} / {ms(accepted, 0.99)} / {ms(accepted, 1)} | {len(refused) / seconds:.0f} | "
        f"{ms(refused, 0.99)} | {ms(watch.livez_s, 0.5)} / {ms(watch.livez_s, 1)} | "
        f"{before >> 20}, {max(watch.private[:half]) >> 20}, {max(watch.private[half:]) >> 20} | {recovered:.2f} |"
    )
    notes = deque([f"statuses {dict(statuses)}"])
    notes.extend(f"{name} {n}" for name, n in vars(told).items() if isinstance(n, int) and n)
    print("  " + ", ".join(notes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--times", type=float, default=4.0)
    parser.add_argument("--cheap-rows", type=int, default=20_000)
    parser.add_argument("--dear-rows", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder) / "data", given.workers, checked=False) as server:
        kinds = {"cheap": given.cheap_rows, "dear": given.dear_rows}
        for kind, rows in kinds.items():
            fill(server, kind, rows)
        print("| searches | capacity, 1/s | offered | accepted | p50 / p99 / max ms | refused | p99 ms |", end="")
        print(" livez p50 / max ms | private MiB before, 1st half, 2nd half | recovered after s |")
        print("|---|---|---|---|---|---|---|---|---|---|")
        for kind in kinds:
            overload(server, kind, given.seconds, given.times)


def fill(server: Server, name: str, rows: int) -> None:
    """Searched exactly, so that what a search costs is known."""
    path, rng = f"/v1/collections/{name}", np.random.default_rng(1)
    settings = {"dimension": DIMENSION, "metric": "l2", "index": {"kind": "flat"}}
    server.client.put(path, json=settings).raise_for_status()
    for begin in range(0, rows, ROWS_A_WRITE):
        block = rng.standard_normal((min(ROWS_A_WRITE, rows - begin), DIMENSION), np.float32)
        server.client.post(f"{path}/vectors", content=npy(block), headers=NPY).raise_for_status()
    while server.client.get(f"{path}?wait=ready&timeout_s=50").json()["index"]["state"] != "ready":
        pass


if __name__ == "__main__":
    main()
