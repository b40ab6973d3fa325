"""Keeping the server's processes alive: starting them, and starting them again with a pause that grows."""

import contextlib
import logging
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from app.children import Adopted, exit_reason, start_child
from app.dealing import Channel, Dealer
from app.inspecting import CRASHES
from app.scheduling import stand_behind

log = logging.getLogger("seedvec.supervisor")

Role = Literal["worker", "sealer", "builder"]
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
STEADY_S = 10.0
"""A process that lived this long starts again with the first pause."""

PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}
"""OpenMP threads that wait sleep instead of spinning. On busy cores a thread that spins keeps the very one it waits for
from running: building an index of 200,000 × 128 beside two busy processes took 75 s, and 9 s without spinning (16
instead of 33 s beside a lighter load)."""

FEW_THREADS = {**PASSIVE, "OPENBLAS_NUM_THREADS": "1"}
"""NumPy's own threads spin whatever is said to OpenMP: its matrix products over two threads took three times the
processor time of one. Faiss brings a library of its own, which goes by OpenMP."""

ONE_THREAD = {**FEW_THREADS, "OMP_NUM_THREADS": "1"}
"""Has to stand in the environment before Faiss or NumPy is imported. More searching threads than cores took the
p99 from 0.07 ms to 17 … 23. The builder alone may use all cores: it is niced."""

NEVER_CAME = 1
"""The exit status of a worker that was not forked."""
NICENESS = 10
"""Of sealer and builder: searches come first. From their first moment, so that while the server starts their imports
(a third of all) do not hold up the workers'."""


@dataclass(eq=False)
class Kept:
    """One process that is to be running: `process` is None while its next start is waited for, until `start_at`."""

    name: str
    role: Role
    environment: dict[str, str]
    data: str
    lock: int
    metrics: int
    """The descriptor of what it counts into."""
    rates: int = -1
    """Of a worker: the descriptor of `app.api.rates.shared_memory`."""
    process: "subprocess.Popen[bytes] | Adopted | None" = None
    channel: Channel | None = None
    started_at: float = 0.0
    start_at: float | None = 0.0
    pause_s: float = FIRST_PAUSE_S
    deaths: int = 0
    crashed: bool = False
    """It died of a fault of its own, or of what it had mapped: set by `reap`, for whom it may concern."""

    def start(self, dealer: Dealer, now: float) -> None:
        """Start it. lock: the data folder's lock, which lives as long as any process that inherited it."""
        if self.role == "worker":
            start_workers([self], dealer, now)
            return
        self.started_at, self.start_at = now, None
        threads = ONE_THREAD if self.role == "sealer" else FEW_THREADS
        keep, environment = (self.lock, self.metrics), {**self.environment, **threads}
        try:
            self.process = start_child(f"app.{self.role}", self.data, keep=keep, environment=environment)
            stand_behind(NICENESS, self.process.pid)
        except OSError as error:
            self.not_started(error, now)

    def not_started(self, error: OSError, now: float) -> None:
        """No memory, no process, no descriptor left: perhaps later."""
        log.error("%s could not be started: %s", self.name, error)
        self._wait(now)

    def reap(self, dealer: Dealer, now: float, expected: bool) -> bool:
        """True where it has ended; unless that is expected, its next start is then planned."""
        status = self._status()
        if status is None:
            return False
        self.process = None
        if self.channel is not None:
            dealer.leave(self.channel)
            self.channel = None
        if expected:
            log.info("%s ended (%s)", self.name, exit_reason(status))
            return True
        self.deaths += 1
        self.crashed = status in CRASHES
        self._wait(now)
        log.error("%s died (%s); starting another in %.1f s", self.name, exit_reason(status), self.start_at_in(now))
        return True

    def _status(self) -> int | None:
        """How it ended; None: it runs, or is not to run now."""
        if self.process is None and self.start_at is None and self.channel is not None:
            if self.channel.pid is not None:
                self.process = Adopted(self.channel.pid)
            elif self.channel.closed:  # whoever was to fork it died before
                return NEVER_CAME
        return None if self.process is None else self.process.poll()

    def start_at_in(self, now: float) -> float:
        """Seconds until the next start."""
        return max(0.0, (self.start_at or now) - now)

    def _wait(self, now: float) -> None:
        if now - self.started_at >= STEADY_S:
            self.pause_s = FIRST_PAUSE_S
        self.start_at = now + self.pause_s
        self.pause_s = min(self.pause_s * 2, LONGEST_PAUSE_S)

    def tell(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens where it is not running."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, number)


def start_workers(together: Sequence[Kept], dealer: Dealer, now: float) -> None:
    """Start workers as one process, which forks the others once it has imported what all of them need.

    Imports are nine tenths of a start: two workers on two busy cores, one of which recovers the folder, answered after
    0.9 s instead of 1.27.
    """
    first = together[0]
    with contextlib.ExitStack() as theirs:
        places: dict[str, int] = {}
        for kept in together:
            kept.started_at, kept.start_at = now, None
            kept.channel, end = dealer.join(kept.name)
            places[kept.name] = theirs.enter_context(end).fileno()
        try:
            first.process = start_child(
                "app.worker",
                str(first.rates),
                *(f"{name}:{descriptor}" for name, descriptor in places.items()),
                keep=(first.lock, first.metrics, first.rates, *places.values()),
                environment={**first.environment, **ONE_THREAD},
            )
        except OSError as error:
            for kept in together:
                if kept.channel is not None:
                    dealer.leave(kept.channel)
                kept.not_started(error, now)
