"""HTTP that does nothing (`benchmarks/bare.py`), in as many processes as the server has workers: the ceiling of the
load generator, and what a route costs before it does anything."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

from benchmarks.compare.processes import cpu_s
from benchmarks.loaded import ROOT, fired, request
from tests.harness import HOST, free_port, wait_for
from tests.processes import descendants
from tests.wire import Wire

START_S = 30.0


class Bare:
    """`with Bare(workers) as bare:`"""

    def __init__(self, workers: int) -> None:
        self._port = free_port()
        self._command = [sys.executable, "-m", "benchmarks.bare", "--port", str(self._port), "--workers", str(workers)]
        self._process: subprocess.Popen[bytes]

    def __enter__(self) -> "Bare":
        self._process = subprocess.Popen(self._command, cwd=ROOT, start_new_session=True)
        wait_for("the bare routes answer", self._answers, START_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def run(self, route: str, length: int, bodies: Sequence[bytes], clients: int, seconds: float) -> dict[str, Any]:
        """route: asgi, search (bodies are sent) or fetch; length: bytes of each answer. → as `Run.figures`, and
        cpu_us: µs a request of its processes."""
        method = "GET" if route == "fetch" else "POST"
        requests = [request(method, f"/{route}/{length}", body) for body in bodies]
        pids = [self._process.pid, *descendants(self._process.pid)]
        before_s = cpu_s(pids)
        # Nothing is left out as warming up: what is counted is what the processes' time went to.
        run = fired(self._port, clients, requests, seconds, warm_s=0.0)
        return run.figures() | {"cpu_us": (cpu_s(pids) - before_s) / len(run.latencies_s) * 1e6}

    def _answers(self) -> bool:
        assert self._process.poll() is None, "benchmarks.bare has ended"
        wire = Wire(HOST, self._port)
        try:
            return wire.call("GET", "/fetch/100").status == 200
        except OSError:
            return False
        finally:
            wire.close()
