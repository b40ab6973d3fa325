"""A worker: one event loop that answers HTTP on connections the supervisor deals to it. `python -m app.worker`.

uvicorn's own server, but for where connections come from: it has no listening socket, each connection arrives as a
descriptor on the channel (see `app/dealing.py`).
"""

import asyncio
import contextlib
import gc
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.api.application import create_app
from app.api.problems import MEDIA_TYPE, unreadable_request
from app.api.request_ids import new_request_id
from app.children import adopt
from app.dealing import CLOSED, MAX_MESSAGE, READY
from app.engine.engine import LocalEngine
from app.logs import configure
from app.settings import Settings, load

log = logging.getLogger("seedvec.worker")

KEEP_ALIVE_S = 75
"""Idle connections are closed after this. uvicorn's 5 s make a client's pooled connection fail under its feet."""

REPORT_AGAIN_S = 0.05


class DealtProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol that tells when its connection has ended, and refuses in our words."""

    def __init__(self, lost: Callable[[], None], **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._lost = lost

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is refused as everything else is; uvicorn answers plain text. msg: its words, not ours."""
        instance = new_request_id()
        body = unreadable_request(instance)
        head = f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nx-request-id: {instance}\r\n"
        self.transport.write(
            b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n" + head.encode("ascii") + b"\r\n" + body
        )
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._lost()


class DealtServer(uvicorn.Server):
    """channel: our end of the pair; engine: started before the first connection, closed after the last."""

    def __init__(self, config: uvicorn.Config, channel: socket.socket, engine: LocalEngine) -> None:
        super().__init__(config)
        self.channel = channel
        self.engine = engine
        self._lost = 0
        self._adopting: set[asyncio.Task[None]] = set()

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
        # What is there now lives as long as the process: no collection need ever look at it again.
        gc.collect()
        gc.freeze()
        asyncio.get_running_loop().add_reader(self.channel, self._receive)
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
            for descriptor in descriptors:
                task = asyncio.get_running_loop().create_task(self._adopt(socket.socket(fileno=descriptor)))
                self._adopting.add(task)
                task.add_done_callback(self._adopting.discard)

    async def _adopt(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        except OSError as error:  # it was closed on its way
            log.debug("a connection was lost before it was served: %s", error)
            connection.close()
            self._count_lost()

    def _protocol(self) -> DealtProtocol:
        return DealtProtocol(
            self._count_lost,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
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
            await asyncio.wait(self._adopting)
        await super().shutdown(sockets)
        await self.engine.close()


def serve(name: str, settings: Settings, channel: socket.socket) -> None:
    """Answer what comes over the channel until SIGTERM. name: of this worker."""
    engine = LocalEngine(settings.data, settings, name)
    config = uvicorn.Config(
        create_app(engine),
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(settings.drain_s),
    )
    DealtServer(config, channel, engine).run()


def main(arguments: list[str]) -> None:
    """arguments: name of this worker, number of the channel's descriptor. Settings come from the environment."""
    adopt()
    name, descriptor = arguments
    settings = load({}, os.environ)
    configure(name, settings.log_level)
    with socket.socket(fileno=int(descriptor)) as channel:
        channel.setblocking(False)
        os.set_inheritable(channel.fileno(), False)
        serve(name, settings, channel)


if __name__ == "__main__":
    main(sys.argv[1:])
