"""A real server process for tests and benchmarks: started, stopped, killed, and its folder checked afterwards."""

import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import httpx

from storage.check import check
from tests.processes import command, descendants, holder_of, private_bytes, unread_bytes, wait_gone
from tests.wire import READY_S, Collection, Wire

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
SERVE = [sys.executable, "-m", "app.cli", "serve"]
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
ORPHAN_TIMEOUT_S = 5.0
LOG_TAIL_BYTES = 20_000
MOST_CONNECTIONS = 32

SMALL = {
    "SEEDVEC_PENDING_ROWS": "400",
    "SEEDVEC_SEAL_QUIET_S": "0.3",
    "SEEDVEC_INDEX_MIN_ROWS": "1000",
}
"""Settings under which a few hundred rows are sealed, merged and indexed as millions are by default."""


def wait_for(what: str, condition: Callable[[], bool], timeout_s: float = 30.0, every_s: float = 0.05) -> None:
    """Raises AssertionError naming `what` when the condition does not hold within timeout_s."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited {timeout_s:g} s in vain: {what}"
        time.sleep(every_s)


def free_port() -> int:
    """A port that nobody listens on, from below the range that outgoing connections take theirs from."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port


class Server:
    """`with Server(folder) as server:` runs `app.cli serve` in a session of its own until the block ends.

    On leaving, the server is stopped (exit 0 asserted), no child may be left, the log must hold no stack trace and
    the folder must be sound. When the block failed, the log is printed, where pytest shows it, and nothing more
    is asserted, so that the first failure is the one reported.
    """

    def __init__(
        self,
        data_dir: Path,
        workers: int = 2,
        env: Mapping[str, str] | None = None,
        *,
        may_trace: bool = False,
        checked: bool = True,
    ) -> None:
        """env: SEEDVEC_… settings. may_trace: stack traces in the log are expected. checked: check the folder."""
        self.data_dir = data_dir
        self.workers = workers
        self.env = dict(env or {})
        self.may_trace = may_trace
        self.checked = checked
        self.port = 0
        self.log_path = data_dir.parent / f"{data_dir.name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._log: BinaryIO | None = None
        self._client: httpx.Client | None = None
        self.wires: list[Wire] = []

    # -- life

    def __enter__(self) -> "Server":
        try:
            self.start()
        except BaseException:
            self._abandon()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None:
                sys.stdout.write(f"--- log of the server ({self.log_path.name})\n{self.log_tail()}\n")
                return
            if self.process is not None:
                self.stop()
            self._assert_sound()
        finally:
            self._abandon()

    def start(self, *, wait: bool = True) -> None:
        """Start on a fresh port; with `wait`, return when `readyz` answers 200."""
        assert self.process is None, "the server is running"
        self.port = free_port()
        self._log = self.log_path.open("ab")
        self.process = subprocess.Popen(
            [*SERVE, "--data", str(self.data_dir), "--host", HOST, "--port", str(self.port)],
            cwd=ROOT,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        if wait:
            self.wait_serving()

    def wait_serving(self) -> None:
        wait_for("readyz answers 200", self._ready, START_TIMEOUT_S, every_s=0.02)

    def stop(self) -> None:
        """SIGTERM; asserts exit status 0 within the time allowed, and that no child is left."""
        process = self._running()
        self._close_clients()
        below = descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"SIGTERM did not stop the server:\n{self.log_tail()}") from None
        self._forget()
        assert status == 0, f"exit status {status} after SIGTERM:\n{self.log_tail()}"
        self._assert_gone(below)

    def kill(self) -> None:
        """kill -9 of the supervisor alone; asserts that every child dies of it."""
        process = self._running()
        below = descendants(process.pid)
        process.kill()
        process.wait()
        self._close_clients()
        self._forget()
        self._assert_gone(below)

    def restart(self) -> None:
        self.stop()
        self.start()

    # -- what a test asks

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def client(self) -> httpx.Client:
        """A client of the running server; a new one after each start."""
        if self._client is None:
            # The environment's proxies must not come between a test and the loopback address.
            self._client = httpx.Client(base_url=self.url, timeout=60, trust_env=False)
        return self._client

    def wire(self) -> Wire:
        """A kept-alive connection of its own, closed with the server."""
        wire = Wire(HOST, self.port)
        self.wires.append(wire)
        return wire

    def collection(self, name: str) -> Collection:
        return Collection(self.wire(), name)

    def worker_of(self, wire: Wire) -> int:
        """Process id of the worker that serves this connection, by what /proc says about its socket."""
        wire.ok(200, "GET", "/livez")
        pid = holder_of(self.port, wire.connect(), self.children("app.worker"))
        assert pid is not None, "no worker holds the connection that was just answered"
        return pid

    def wire_to_each(self) -> list[Wire]:
        """A connection to each worker. They come up one after the other: connections go on being opened meanwhile."""
        found: dict[int, Wire] = {}

        def complete() -> bool:
            for _ in range(MOST_CONNECTIONS):
                if len(found) == self.workers:
                    break
                wire = self.wire()
                found.setdefault(self.worker_of(wire), wire)
            return len(found) == self.workers

        wait_for(f"connections are dealt to {self.workers} workers", complete, every_s=0.2)
        return list(found.values())

    def wait_ready(self, name: str, timeout_s: float = READY_S) -> None:
        """Until every worker has opened the collection's index. `Collection.wait_ready` waits for one of them: what
        is asked on other connections may be answered without the index for a moment more."""
        for wire in self.wire_to_each():
            Collection(wire, name).wait_ready(timeout_s)

    def wait_read(self, connection: socket.socket) -> None:
        """Until a worker has read all that was sent on a connection of one's own."""
        port = connection.getsockname()[1]
        wait_for("a worker has read it", lambda: unread_bytes(self.port, port) == 0, every_s=0.01)

    def private_bytes(self) -> int:
        """Memory that no file stands behind, of all workers together."""
        return sum(private_bytes(pid) for pid in self.children("app.worker"))

    def children(self, module: str = "") -> list[int]:
        """Process ids below the supervisor, of `python -m <module>` where one is named ("app.worker")."""
        return [pid for pid in descendants(self._running().pid) if module in command(pid)]

    def log_tail(self) -> str:
        data = self.log_path.read_bytes() if self.log_path.exists() else b""
        return data[-LOG_TAIL_BYTES:].decode(errors="replace")

    # -- parts

    def _environment(self) -> dict[str, str]:
        """Nothing that whoever runs the tests has set for a server of their own."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SEEDVEC_")}
        return clean | {"SEEDVEC_WORKERS": str(self.workers)} | self.env

    def _ready(self) -> bool:
        process = self._running()
        assert process.poll() is None, f"the server ended with {process.returncode}:\n{self.log_tail()}"
        wire = Wire(HOST, self.port)
        try:
            return wire.call("GET", "/readyz").status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            wire.close()

    def _running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None, "the server is not running"
        return self.process

    def _assert_gone(self, pids: list[int]) -> None:
        left = wait_gone(pids, ORPHAN_TIMEOUT_S)
        names = [f"{pid} {command(pid)}" for pid in left]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left, f"children that outlived the server: {names}"

    def _assert_sound(self) -> None:
        if not self.may_trace:
            log = self.log_path.read_text(errors="replace")
            assert "Traceback (most recent call last)" not in log, f"stack trace in the log:\n{self.log_tail()}"
        if self.checked:
            report = check(self.data_dir)
            assert report.sound, f"the folder is not sound: {report.findings}"

    def _close_clients(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
        for wire in self.wires:
            wire.close()
        self.wires.clear()

    def _forget(self) -> None:
        self.process = None
        if self._log is not None:
            self._log.close()
            self._log = None

    def _abandon(self) -> None:
        """Leave nothing running, whatever happened before."""
        self._close_clients()
        if self.process is not None:
            below = descendants(self.process.pid)
            self.process.kill()
            self.process.wait()
            for pid in wait_gone(below, ORPHAN_TIMEOUT_S):
                os.kill(pid, signal.SIGKILL)
        self._forget()
