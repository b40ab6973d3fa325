"""A peer: a process that speaks JSON lines (`benchmarks/peers`), asked one thing at a time, each within its time."""

import json
import os
import queue
import shutil
import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.loaded import ROOT

LIVES = 2
"""A process that gave no answer in time, or died, is started again so many times less one."""
CLOSE_S = 30.0
OPEN_S = 300.0
SAID_BYTES = 300


class Refused(Exception):
    """Why a system does not do what it was asked: what stands below the tables."""


Seconds = dict[str, float]


class System(Protocol):
    """What is compared. Every method raises Refused."""

    name: str

    def ask(self, op: str, within_s: float, **order: Any) -> dict[str, Any]:
        """The operations of `benchmarks/peers`."""
        ...

    def ingest_afresh(self, vectors: Path, body: str, folder: Path, dimension: int, within_s: float) -> Seconds:
        """Into nothing, beside what is there; folder: to be used for it, and emptied. → acknowledged_s, indexed_s"""
        ...

    def cold(self, query: Path, k: int, params: dict[str, Any], answers: Path, within_s: float) -> Seconds:
        """Stopped and started again, as it was opened. → cold_s, from the command to the answer it gave before."""
        ...

    def close(self) -> None: ...


class Peer:
    """`python -m benchmarks.peers.<name>` by the interpreter of the peers, started at the first question."""

    def __init__(self, name: str, python: Path, log: Path) -> None:
        """log: what its processes say; written on, where there is one."""
        self.name = name
        self._python = python
        self._command = [str(python), "-m", f"benchmarks.peers.{name}"]
        self._log = log
        self._lives = LIVES
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str] = queue.Queue()
        self._reader: threading.Thread
        self._opened: dict[str, Any] | None = None

    def ask(self, op: str, within_s: float, **order: Any) -> dict[str, Any]:
        """Where the process has gone, it is started again and opens what was open before."""
        if self._process is None:
            self._start()
            if self._opened is not None and op != "open":
                self._asked("open", OPEN_S, self._opened)
        if op == "open":
            self._opened = order
        return self._asked(op, within_s, order)

    def ingest_afresh(self, vectors: Path, body: str, folder: Path, dimension: int, within_s: float) -> Seconds:
        another = Peer(self.name, self._python, self._log)
        try:
            another.ask("open", OPEN_S, folder=folder, dimension=dimension, metric="l2")
            return another.ask("ingest", within_s, vectors=vectors, bucket=False)
        finally:
            another.close()
            shutil.rmtree(folder, ignore_errors=True)

    def cold(self, query: Path, k: int, params: dict[str, Any], answers: Path, within_s: float) -> Seconds:
        def found() -> list[list[int]]:
            self.ask("batch", within_s, queries=query, k=k, params=params, answers=answers)
            ids: list[list[int]] = np.load(answers).tolist()
            return ids

        before = found()
        self.close()
        begun = time.perf_counter()
        after = found()
        cold_s = time.perf_counter() - begun
        if after != before:
            raise Refused(f"answered {after}, before the start {before}")
        return {"cold_s": cold_s}

    def close(self) -> None:
        """It ends by itself, or is ended; the next question starts another."""
        if self._process is None:
            return
        with suppress(Refused, subprocess.TimeoutExpired):
            process = self._process
            self._asked("close", CLOSE_S, {})
            process.wait(CLOSE_S)
        self._end()

    def _start(self) -> None:
        if not self._lives:
            raise Refused("has died, or gave no answer in time, too often")
        log = self._log.open("ab")
        try:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        except OSError as error:
            self._lives = 0
            raise Refused(f"its interpreter: {error.strerror}") from error
        finally:
            log.close()
        # A queue of its own for each process: what an ended one still says must not answer the next one's question.
        self._answers = queue.Queue()
        self._reader = threading.Thread(target=_read, args=(self._process, self._answers), daemon=True)
        self._reader.start()

    def _asked(self, op: str, within_s: float, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"op": op} | order, default=str) + "\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=within_s)
        except (BrokenPipeError, queue.Empty) as error:
            line = f"gave no answer to {op!r} in {within_s:.0f} s" if isinstance(error, queue.Empty) else ""
            self._lost(line)
        if not line:
            self._lost("")
        answer: dict[str, Any] = json.loads(line)
        if not answer.pop("ok"):
            raise Refused(str(answer["error"])[:SAID_BYTES])
        return answer

    def _lost(self, why: str) -> None:
        self._lives -= 1
        self._end()
        raise Refused(why or f"died: {self._last_words()}")

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        last = lines[-1][-SAID_BYTES:] if lines else "without a word"
        return last.removeprefix(f"{self._python}: ")

    def _end(self) -> None:
        """Whatever it has started ends with it: they are one session."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()
        self._process = None


def _read(process: subprocess.Popen[str], answers: "queue.Queue[str]") -> None:
    """A line each, and at the end an empty one."""
    assert process.stdout is not None
    for line in process.stdout:
        answers.put(line)
    answers.put("")
