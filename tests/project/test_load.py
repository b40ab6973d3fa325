"""The load that `seedvec bench` makes: every request answered, as many at a time as there are clients, over TLS too."""

import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from seedvec.errors import SeedvecError
from seedvec.load import Load

PAUSE_S = 0.005


class Echo(BaseHTTPRequestHandler):
    """Answers what it was sent; refuses a body that says so, and hangs up on another."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    busy = 0
    most = 0
    lock = threading.Lock()

    def do_POST(self) -> None:
        with Echo.lock:
            Echo.busy += 1
            Echo.most = max(Echo.most, Echo.busy)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(PAUSE_S)
        with Echo.lock:
            Echo.busy -= 1
        if body == b"hang up":
            self.close_connection = True
            return
        if body == b"refuse":
            body = b'{"type": "/problems/out-of-range", "detail": "too much"}'
            self.send_response(422)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def served(context: ssl.SSLContext | None = None) -> Iterator[str]:
    server = ThreadingHTTPServer(("localhost", 0), Echo)
    server.daemon_threads = True
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http{'' if context is None else 's'}://localhost:{server.server_port}/base"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def bodies(n: int) -> list[bytes]:
    """Of all sizes, some of many packets."""
    return [f"{i}".encode() * (1 + 997 * (i % 50)) for i in range(n)]


def answered(url: str, clients: int, seconds: float = 0.0) -> None:
    wanted = bodies(60)
    with Load(url, clients) as load:
        loaded = load.run([load.request("/x", body) for body in wanted], seconds)
        assert loaded.bodies == wanted
        assert loaded.elapsed_s >= seconds and len(loaded.latencies_s) >= len(wanted)
        assert min(loaded.latencies_s) >= PAUSE_S
        if not seconds:
            assert len(loaded.latencies_s) == len(wanted)


@pytest.mark.parametrize("clients", [1, 4])
def test_every_request_is_answered_so_many_at_a_time(clients: int) -> None:
    Echo.busy = Echo.most = 0
    with served() as url:
        answered(url, clients)
        assert Echo.most == clients
        answered(url, clients, seconds=0.6)


def test_the_first_refusal_ends_it() -> None:
    with served() as url:
        with Load(url, 2) as load, pytest.raises(SeedvecError, match="422 out-of-range: too much"):
            load.run([load.request("/x", body) for body in (b"1", b"refuse", b"3")], 5.0)
        with Load(url, 2) as load, pytest.raises(ConnectionError):
            load.run([load.request("/x", b"hang up")], 5.0)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes the certificate")
def test_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    make += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(make, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with served(context) as url:
        answered(url, 3)
