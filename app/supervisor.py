"""`seedvec serve`: the process that owns the data folder and the port, and keeps the others running.

It takes DATA/LOCK, lets a child recover what a crash left behind while workers already import what they need, opens the
port, has the workers open the folder, and starts sealer and builder once they serve; deals connections out
(`app/dealing.py`), starts again what dies (`app/keeping.py`), and drains on SIGTERM or SIGINT: no new connections, the
workers finish what they are answering, sealer and builder stop. A second signal kills.
It opens no catalogue and loads no index: what can crash, crashes elsewhere.
"""

import contextlib
import logging
import os
import resource
import selectors
import signal
import socket
import time
from collections.abc import Iterator
from types import FrameType

from app.api.keys import load_keys
from app.api.rates import shared_memory
from app.children import exit_reason, start_child, take_in_orphans
from app.dealing import BACKLOG, Channel, Dealer
from app.inspecting import Inspector
from app.keeping import Kept, start_workers
from app.metrics.shared import MINE, Block
from app.settings import Settings, listening_address
from app.tls import server_context
from storage.lock import DataLock, LockHeld, acquire

log = logging.getLogger("seedvec.supervisor")

OK, FAILED, KILLED = 0, 1, 3
"""Exit statuses: drained; could not start; a second signal, or something that would not stop, was killed."""

GRACE_S = 2.0
"""Beyond `drain_s`, before a worker that has not ended is killed."""

BACKGROUND_STOP_S = 3.0
"""For sealer and builder to stop by themselves. Killing them loses nothing but the work of their current job."""

HOPELESS_DEATHS = 5
"""Deaths of a worker with none ever ready after which the start is given up: the reason will not go away."""

LOCK_PATIENCE_S = 20.0
"""The children of a supervisor that was just killed hold the lock for moments longer: one that had just been started
notices once it has imported what it needs, which took 11 s on two cores that ten others shared."""

STOPPING = (signal.SIGTERM, signal.SIGINT)


class StartError(Exception):
    """The server cannot start; the text says why."""


def serve(settings: Settings) -> int:
    """Run the server until it is told to stop. Returns the exit status. Raises StartError, SettingError."""
    _raise_descriptor_limit()
    family, address = listening_address(settings, has_key=bool(load_keys(settings)))
    server_context(settings)  # what cannot be read is told here, not by every worker
    try:
        settings.data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"cannot make the data folder {settings.data}: {error.strerror}") from None
    with _signals() as wake, _locked(settings) as lock, socket.socket(family, socket.SOCK_STREAM) as listener:
        # Bound before the recovery, so that a port in use is told at once; clients are refused until listen().
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            raise StartError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from None
        supervisor = Supervisor(settings, lock, listener, wake)
        return supervisor.run()


class Supervisor:
    """wake: receives a byte with the number of each signal that arrives."""

    def __init__(self, settings: Settings, lock: DataLock, listener: socket.socket, wake: socket.socket) -> None:
        self.settings = settings
        self.lock = lock
        self.listener = listener
        self.wake = wake
        self.selector = selectors.DefaultSelector()
        self.selector.register(wake, selectors.EVENT_READ, None)
        self.dealer = Dealer(listener, self.selector)
        self.stops = 0
        environment, data = settings.environment(), str(settings.data)
        rates = shared_memory()
        names = [f"worker-{n + 1}" for n in range(settings.workers)]
        self.metrics = Block(["supervisor", *names, "sealer", "builder"])
        MINE.own(self.metrics, "supervisor")
        counting, metrics = environment | self.metrics.environment(), self.metrics.fd
        self.workers = [Kept(name, "worker", counting, data, lock.fd, metrics, rates) for name in names]
        self.background = [
            Kept("sealer", "sealer", counting, data, lock.fd, metrics),
            Kept("builder", "builder", counting, data, lock.fd, metrics),
        ]

        self.inspector = Inspector(environment, data, lock.fd)

    def run(self) -> int:
        """Recover, serve, drain. Returns the exit status. Raises StartError."""
        try:
            self._recover()
            if self.stops:
                return OK
            self._open()
            self._serve()
            self._leave()
            return self._drain()
        finally:
            self._kill()

    def _open(self) -> None:
        self.listener.listen(BACKLOG)
        self.dealer.recovered()
        host, port = self.listener.getsockname()[:2]
        scheme = "http" if self.settings.tls_cert is None else "https"
        url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
        self.lock.describe(url)
        log.info("listening on %s with %d workers, data in %s", url, len(self.workers), self.settings.data)

    def _recover(self) -> None:
        process = start_child(
            "app.recover",
            str(self.settings.data),
            keep=(self.lock.fd,),
            environment=self.settings.environment(),
        )
        # Nine tenths of a worker's start are imports: they need no data folder.
        if take_in_orphans(True):
            start_workers(self.workers, self.dealer, time.monotonic())
        while process.poll() is None:
            self._turn(1.0)
            if self.stops:  # what it had not yet done, the next start does
                process.kill()
                process.wait()
                return
        if process.returncode != 0:
            raise StartError(f"the data folder could not be recovered ({exit_reason(process.returncode)}): see above")

    def _serve(self) -> None:
        while not self.stops and not self.dealer.all_came:
            self._round()
        take_in_orphans(False)  # what a worker leaves behind that dies later, nobody here would wait for
        while not self.stops:
            self._round()

    def _round(self) -> None:
        now = time.monotonic()
        self._keep(now)
        self._turn(self._idle_s(now))

    def _wanted(self) -> list[Kept]:
        """Who is to run now: sealer and builder not before the workers serve, whose imports theirs would hold up."""
        return [*self.workers, *self.background] if self.dealer.all_came else self.workers

    def _keep(self, now: float) -> None:
        for kept in self._wanted():
            if kept.reap(self.dealer, now, expected=False) and kept.crashed:
                self.inspector.crashed()
            if kept.start_at is not None and kept.start_at <= now:
                kept.start(self.dealer, now)
        self.inspector.look()
        if not self.dealer.ever_ready and min(w.deaths for w in self.workers) >= HOPELESS_DEATHS:
            raise StartError(f"no worker could start, each died {HOPELESS_DEATHS} times: see above")

    def _idle_s(self, now: float) -> float:
        waits = [kept.start_at - now for kept in self._wanted() if kept.start_at is not None]
        if self.dealer.resume_at is not None:
            waits.append(self.dealer.resume_at - now)
        # A second at most: should a SIGCHLD ever be missed, a dead child is still found.
        return max(0.0, min([1.0, *waits]))

    def _turn(self, timeout_s: float) -> None:
        """Wait for something to happen, at most so long, and see to it."""
        for key, _ in self.selector.select(timeout_s):
            if key.fileobj is self.wake:
                self._woken()
            elif isinstance(key.data, Channel):
                self.dealer.heard(key.data)
            else:
                self.dealer.accept(time.monotonic())
        self.dealer.tick(time.monotonic())

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            numbers = self.wake.recv(4096)
            self.stops += sum(number in STOPPING for number in numbers)

    def _leave(self) -> None:
        """Not ready any more, but serving, until `unready_s` have passed or a second signal comes."""
        if self.settings.unready_s:
            log.info("not ready any more; %g s until the port is closed", self.settings.unready_s)
            self.dealer.announce_leaving()
        until = time.monotonic() + self.settings.unready_s
        while self.stops == 1 and (left := until - time.monotonic()) > 0:
            self._keep(time.monotonic())
            self._turn(min(left, 0.2))

    def _drain(self) -> int:
        log.info("stopping: %g s for what is being answered", self.settings.drain_s)
        self.dealer.stop()
        begun = time.monotonic()
        # All at once, not the background after the workers: docker waits for 10 s in all. And once: a second signal
        # would kill an interpreter that is ending.
        for kept in (*self.workers, *self.background):
            kept.tell(signal.SIGTERM)
        clean = self._await(self.workers, begun + self.settings.drain_s + GRACE_S)
        clean = self._await(self.background, begun + BACKGROUND_STOP_S) and clean
        log.info("stopped" if clean else "stopped; some processes had to be killed")
        return KILLED if self.stops > 1 else OK

    def _await(self, group: list[Kept], until: float) -> bool:
        """The end of processes that were told to; kills those that have not ended by then, or at a second signal."""
        while True:
            now = time.monotonic()
            for kept in group:
                kept.reap(self.dealer, now, expected=True)
            left = [kept for kept in group if kept.process is not None]
            if not left:
                return True
            if self.stops > 1 or now >= until:
                for kept in left:
                    log.warning("killing %s", kept.name)
                    kept.tell(signal.SIGKILL)
                    if kept.process is not None:
                        kept.process.wait()
                    kept.reap(self.dealer, now, expected=True)
                return False
            self._turn(min(0.2, until - now))

    def _kill(self) -> None:
        self.inspector.stop()
        self.metrics.close()
        for kept in (*self.workers, *self.background):
            kept.tell(signal.SIGKILL)
            if kept.process is not None:
                kept.process.wait()


@contextlib.contextmanager
def _locked(settings: Settings) -> Iterator[DataLock]:
    until = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            lock = acquire(settings.data)
            break
        except LockHeld as error:
            if time.monotonic() >= until or not _gone(error.holder.pid):
                raise StartError(str(error)) from None
        except OSError as error:
            raise StartError(f"cannot use {settings.data} as a data folder: {error.strerror}") from None
    try:
        yield lock
    finally:
        lock.release()


def _gone(pid: int | None) -> bool:
    """Whether the process does not exist. One of another host looks gone too: waiting for it does no harm."""
    try:
        os.kill(pid or 0, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


@contextlib.contextmanager
def _signals() -> Iterator[socket.socket]:
    """The signals that concern us arrive as bytes on the socket given; nothing runs inside a handler."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    for number in (*STOPPING, signal.SIGCHLD):
        signal.signal(number, _ignore)
    signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    try:
        with ours, theirs:
            yield ours
    finally:
        signal.set_wakeup_fd(-1)


def _ignore(number: int, frame: FrameType | None) -> None:
    """A handler has to be set for the wake-up descriptor to get the signal."""


def _raise_descriptor_limit() -> None:
    # The usual soft limit of 1024 is a few hundred clients, each segment and index being a mapping without one.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
