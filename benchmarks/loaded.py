"""One run of the load generator (`benchmarks.load`), as whoever ordered it sees it: a process beside the server."""

import base64
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
MOST = 200_000
WARM_S = 0.5
GRACE_S = 120.0
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Run:
    """latencies_s: of each answer; bodies: number of the request → its first answer's body."""

    elapsed_s: float
    latencies_s: list[float]
    bodies: dict[int, bytes]
    failures: int
    client_us: float
    """CPU time of the load generator for one request, µs."""

    def row(self, what: str, clients: int) -> dict[str, Any]:
        return {"what": what, "clients": clients} | self.figures()

    def figures(self) -> dict[str, Any]:
        p50, p99 = np.percentile(self.latencies_s, [50, 99]) * 1000
        return {
            "qps": len(self.latencies_s) / self.elapsed_s,
            "p50_ms": float(p50),
            "p99_ms": float(p99),
            "client_us": self.client_us,
            "failures": self.failures,
        }


def request(method: str, path: str, body: bytes = b"", kind: str = JSON, accept: str = "") -> bytes:
    """As it goes over the connection. kind: of the body; accept: the answer that is wanted, "" for any."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    if body:
        head += f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    if accept:
        head += f"Accept: {accept}\r\n"
    return head.encode() + b"\r\n" + body


def fired(
    port: int, clients: int, requests: Sequence[bytes], seconds: float, *, warm_s: float | None = None, most: int = MOST
) -> Run:
    """The requests in turn, over and over, for `seconds`, after warm_s (WARM_S, or `seconds` where that is less) that
    do not count; `most` bounds each.

    Raises SystemExit where the generator gives up: a server that answers nothing, or closes a connection.
    """
    order = {
        "port": port,
        "clients": clients,
        "requests": [base64.b64encode(text).decode() for text in requests],
        "seconds": seconds,
        "warm_s": min(WARM_S, seconds) if warm_s is None else warm_s,
        "most": most,
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"],
        cwd=ROOT,
        input=json.dumps(order),
        capture_output=True,
        text=True,
        timeout=seconds + GRACE_S,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr.strip() or f"the load generator ended with {done.returncode}")
    answer = json.loads(done.stdout)
    bodies = {int(number): base64.b64decode(text) for number, text in answer["bodies"].items()}
    each_us = answer["cpu_s"] / len(answer["latencies_s"]) * 1e6
    return Run(answer["elapsed_s"], answer["latencies_s"], bodies, answer["failures"], each_us)
