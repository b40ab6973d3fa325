"""A worker: one event loop that answers HTTP on connections the supervisor deals to it. `python -m app.worker`.

uvicorn's own server, but for where connections come from: it has no listening socket, each connection arrives as a
descriptor on the channel (see `app/dealing.py`).
"""

import asyncio
import contextlib
import gc
import importlib
import logging
import math
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial

import uvicorn

from app.api.application import Application, create_app
from app.api.gate import CROWDED
from app.api.keys import key_files, load_keys
from app.api.rates import Rates
from app.api.seen import Traces
from app.children import adopt, fork_sibling
from app.connections import LOOK_S, RESERVE, DealtProtocol, Patience, make_room
from app.counting import count_as
from app.dealing import CAME, CLOSED, LEAVING, MAX_MESSAGE, OPEN, READY
from app.engine.engine import LocalEngine
from app.logs import configure
from app.metrics.ours import CONNECTIONS
from app.scheduling import come_first
from app.settings import SettingError, Settings, load
from app.tls import HANDSHAKE_S, SHUTDOWN_S, Watched, server_context, tls_files

log = logging.getLogger("seedvec.worker")

COLLECTOR = "OTEL_EXPORTER_OTLP_ENDPOINT"
REPORT_AGAIN_S = 0.05
OTHER_DESCRIPTORS = 512
"""Of a worker, for files and what else is no connection."""
SWITCH_S = 0.0002
"""How long a thread that decodes or writes may keep the interpreter from the event loop, which asks for it again after
each wait for its sockets and each search: by default 5 ms, every time."""
LAST_HANDSHAKE_S = 1.0
"""For TLS handshakes under way when all places are taken, or when we are told to stop: one silent client would outlast
the drain."""


class DealtServer(uvicorn.Server):
    """channel: our end of the pair; engine: started before the first connection, closed after the last."""

    def __init__(
        self, config: uvicorn.Config, channel: socket.socket, engine: LocalEngine, app: Application, settings: Settings
    ) -> None:
        super().__init__(config)
        self.channel = channel
        self.engine = engine
        self.app = app
        self.settings = settings
        self.patience = patience(settings)
        self.tls = server_context(settings)
        self._files = Watched([*key_files(settings), *tls_files(settings)])
        self._lost = 0
        self._coming = 0
        """Connections dealt to us that no protocol has yet: they are a task, or shake hands."""
        self._adopting: dict[asyncio.Task[None], float] = {}
        """Since when."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM drains, and the process then ends with status 0: uvicorn would raise the signal again."""
        signal.signal(signal.SIGTERM, self.handle_exit)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, without a listening socket."""
        await self.engine.start()
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise SystemExit(uvicorn.config.STARTUP_FAILURE)
        self.servers = []
        # What is there now lives as long as the process: no collection need ever look at it again. Not collected first:
        # of 91,507 objects none was dead, and finding that took 55 ms of the start.
        gc.freeze()
        asyncio.get_running_loop().add_reader(self.channel, self._receive)
        asyncio.get_running_loop().call_later(LOOK_S, self._look)
        self.channel.send(READY)
        self.started = True

    def _receive(self) -> None:
        while True:
            try:
                message, descriptors, _, _ = socket.recv_fds(
                    self.channel, MAX_MESSAGE, 1, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
                )
            except BlockingIOError:
                return
            if not message:  # the supervisor is gone; app/children.py ends us, if this does not
                asyncio.get_running_loop().remove_reader(self.channel)
                self.should_exit = True
                return
            if message == LEAVING:
                self.app.health.leaving = True
            for descriptor in descriptors:
                self._take(socket.socket(fileno=descriptor))

    def _take(self, connection: socket.socket) -> None:
        most = self.patience.connections
        if self._open() >= most:
            make_room(self._connections())
            self._end_slow_handshakes()
        if self._open() >= most + RESERVE:
            connection.close()
            self._count_lost()
            return
        task = asyncio.get_running_loop().create_task(self._adopt(connection, self._open() >= most))
        self._coming += 1
        self._adopting[task] = time.monotonic()
        task.add_done_callback(lambda done: self._adopting.pop(done, None))

    def _end_slow_handshakes(self) -> None:
        """Where all places are taken: else silent clients of a TLS port would keep everybody else out."""
        before = time.monotonic() - LAST_HANDSHAKE_S
        for task in [task for task, since in self._adopting.items() if since < before]:
            task.cancel()  # it takes a turn, but does not count any more
            del self._adopting[task]
            self._came()

    def _open(self) -> int:
        return len(self.server_state.connections) + self._coming

    def _came(self) -> None:
        self._coming -= 1

    def _connections(self) -> list[DealtProtocol]:
        return [c for c in self.server_state.connections if isinstance(c, DealtProtocol)]

    def _look(self) -> None:
        """Every second: who has taken too long, and whether keys or certificate have changed."""
        asyncio.get_running_loop().call_later(LOOK_S, self._look)
        now = time.monotonic()
        CONNECTIONS.set(len(self.server_state.connections))
        for connection in self._connections():
            connection.look(now, self.patience)
        if self._files.have_changed():
            self._read_again()

    def _read_again(self) -> None:
        try:
            self.app.gate.keys, self.tls = load_keys(self.settings), server_context(self.settings)
            log.info("keys and certificate were read again: their files have changed")
        except SettingError as error:  # it may be half written: the next change is looked at again
            log.error("keys and certificate stay as they were: %s", error)

    async def _adopt(self, connection: socket.socket, crowded: bool) -> None:
        connection.setblocking(False)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                partial(self._protocol, crowded),
                connection,
                ssl=self.tls,
                ssl_handshake_timeout=None if self.tls is None else HANDSHAKE_S,
                ssl_shutdown_timeout=None if self.tls is None else SHUTDOWN_S,
            )
        except OSError as error:  # it was closed on its way, or speaks no TLS
            log.debug("a connection was lost before it was served: %s", error)
            connection.close()
            self._came()
            self._count_lost()
        except asyncio.CancelledError:
            connection.close()
            self._count_lost()

    def _protocol(self, crowded: bool) -> DealtProtocol:
        return DealtProtocol(
            self._came,
            self._count_lost,
            config=self.config,
            server_state=self.server_state,
            app_state={CROWDED: True} if crowded else self.lifespan.state,
        )

    def _count_lost(self) -> None:
        if self._lost == 0:
            asyncio.get_running_loop().call_soon(self._report)
        self._lost += 1

    def _report(self) -> None:
        try:
            self.channel.send(CLOSED.pack(self._lost))
            self._lost = 0
        except BlockingIOError:
            asyncio.get_running_loop().call_later(REPORT_AGAIN_S, self._report)
        except OSError:  # the supervisor takes no more reports: it is stopping us
            self._lost = 0

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take what was dealt until now, answer it, close the engine."""
        self._receive()
        asyncio.get_running_loop().remove_reader(self.channel)
        if self._adopting:
            _, silent = await asyncio.wait(self._adopting, timeout=LAST_HANDSHAKE_S)
            for task in silent:
                task.cancel()
        await super().shutdown(sockets)
        await self.engine.close()


def patience(settings: Settings) -> Patience:
    """This worker's share of the connections, as far as its descriptors go."""
    share = math.ceil(settings.connections / settings.workers)
    most = max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVE - OTHER_DESCRIPTORS)
    if share > most:
        log.warning("%d connections are as many as the limit of open files allows, not %d", most, share)
    return Patience(settings.header_s, settings.body_s, settings.keep_alive_s, min(share, most))


def serve(name: str, settings: Settings, channel: socket.socket, rates: Rates) -> None:
    """Answer what comes over the channel until SIGTERM. name: of this worker."""
    engine = LocalEngine(settings.data, settings, name)
    traces = start_tracing(name)
    app = create_app(engine, settings, traces, rates)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=math.ceil(settings.keep_alive_s),
        timeout_graceful_shutdown=math.ceil(settings.drain_s),
    )
    config.load()
    server = DealtServer(config, channel, engine, app, settings)
    if channel.recv(MAX_MESSAGE) == OPEN:  # else the supervisor is gone, or gives the start up
        channel.setblocking(False)
        server.run()
    if traces is not None:
        traces.close()


def start_tracing(name: str) -> Traces | None:
    """None where no collector is named, and nothing of OpenTelemetry's SDK is loaded then. name: of this worker."""
    if not os.environ.get(COLLECTOR):
        return None
    try:
        found: Traces = importlib.import_module("app.tracing").Tracing(name)
    except ImportError as error:
        log.error("%s is set, but no traces are sent, as the extra `tracing` is not installed: %s", COLLECTOR, error)
        return None
    return found


def take_place(places: Sequence[str]) -> tuple[str, socket.socket]:
    """Name and channel of the one of several workers, `<name>:<descriptor>` each, that this process becomes; the others
    are forked here, where all is imported, and nothing is open and no thread there."""
    gc.freeze()  # a collection would write to every object, and so copy what is shared
    mine, came = places[0], b""
    for place in places[1:]:
        if fork_sibling():
            mine, came = place, CAME.pack(os.getpid())
            break
    channels = {name: socket.socket(fileno=int(number)) for name, _, number in (p.partition(":") for p in places)}
    name = mine.partition(":")[0]
    channel = channels.pop(name)
    for other in channels.values():
        other.close()
    os.set_inheritable(channel.fileno(), False)
    if came:
        channel.send(came)
    return name, channel


def main(arguments: list[str]) -> None:
    """arguments: number of the descriptor that `Rates` wants, and the places that `take_place` does. Settings come from
    the environment."""
    shared, *places = arguments
    name, channel = take_place(places)
    adopt()
    come_first()
    sys.setswitchinterval(SWITCH_S)
    settings = load({}, os.environ)
    configure(name, settings.log_level, settings.log_format)
    count_as(name)
    with channel:
        serve(name, settings, channel, Rates(int(shared)))


if __name__ == "__main__":
    main(sys.argv[1:])
