"""TLS on the port: real certificates, made here; renewed beside a running server; and what is refused."""

import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.connections import RESERVE
from app.settings import SettingError, load
from app.tls import HANDSHAKE_S, server_context
from app.worker import LAST_HANDSHAKE_S
from tests.harness import HOST, ROOT, SMALL, Server, wait_for
from tests.processes import held_by, holder_of


def certificate(folder: Path, serial: int) -> None:
    """cert.pem and key.pem, self-signed for 127.0.0.1."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=seedvec test", "-addext", f"subjectAltName=IP:{HOST}"]
    command += ["-set_serial", str(serial), "-keyout", str(folder / "new-key"), "-out", str(folder / "new-cert")]
    subprocess.run(command, check=True, capture_output=True)
    for name in ("cert", "key"):  # as certbot and secrets of a cluster do: replaced, not written into
        (folder / f"new-{name}").replace(folder / f"{name}.pem")


OWN = {"SEEDVEC_API_KEY": "sesame", "SEEDVEC_DRAIN_S": "60"}
"""Who delays a stop does so for longer than the harness waits."""


class TlsServer(Server):
    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}"

    def client_of(self) -> httpx.Client:
        context = ssl.create_default_context(cafile=str(self.data_dir.parent / "cert.pem"))
        return httpx.Client(base_url=self.url, verify=context, trust_env=False, timeout=30)

    def _ready(self) -> bool:
        process = self._running()
        assert process.poll() is None, f"the server ended with {process.returncode}:\n{self.log_tail()}"
        try:
            with self.client_of() as client:
                return client.get("/readyz").status_code == 200
        except httpx.HTTPError:
            return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServer]:
    folder = tmp_path_factory.mktemp("tls")
    certificate(folder, 1)
    files = {"SEEDVEC_TLS_CERT": str(folder / "cert.pem"), "SEEDVEC_TLS_KEY": str(folder / "key.pem")}
    with TlsServer(folder / "data", env=SMALL | files | OWN) as running:
        yield running


def test_requests_over_tls(server: TlsServer) -> None:
    with server.client_of() as client:
        assert client.get("/v1").status_code == 401
        client.headers["authorization"] = "Bearer sesame"
        assert client.put("/v1/collections/c", json={"dimension": 64, "metric": "l2"}).status_code == 201
        rows = [[float(i)] * 64 for i in range(2000)]
        assert client.post("/v1/collections/c/vectors", json={"vectors": rows}).status_code == 201
        found = client.post("/v1/collections/c/search", json={"vector": rows[7], "k": 1000, "include": ["vector"]})
        assert len(found.json()["hits"]) == 1000
    assert f"listening on {server.url}" in server.log_tail()


def test_the_health_check_needs_no_name_and_no_key(server: TlsServer) -> None:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("SEEDVEC_")}
    done = subprocess.run(
        [sys.executable, "-m", "seedvec.cli", "health"],
        cwd=ROOT,
        env=environment | {"SEEDVEC_PORT": str(server.port), "SEEDVEC_TLS_CERT": server.env["SEEDVEC_TLS_CERT"]},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr


def test_who_speaks_no_tls_is_sent_away(server: TlsServer) -> None:
    with socket.create_connection((HOST, server.port), timeout=30) as plain:
        plain.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"200" not in plain.recv(4096)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    with pytest.warns(DeprecationWarning):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection((HOST, server.port), timeout=30) as connection, pytest.raises(OSError):
        old.wrap_socket(connection)
    with server.client_of() as client:
        assert client.get("/livez").status_code == 200


def test_who_never_shakes_hands_holds_up_nobody(server: TlsServer) -> None:
    silent = [socket.create_connection((HOST, server.port), timeout=30) for _ in range(50)]
    try:
        begun = time.monotonic()
        with server.client_of() as client:
            assert client.get("/livez").status_code == 200
        assert time.monotonic() - begun < HANDSHAKE_S
    finally:
        for connection in silent:
            connection.close()


def test_a_renewed_certificate_is_taken_up(server: TlsServer) -> None:
    certificate(server.data_dir.parent, 2)

    def serial() -> int:
        # As the client sees it, from whichever worker it gets.
        text = subprocess.run(
            ["openssl", "s_client", "-connect", f"{HOST}:{server.port}"], input=b"", capture_output=True, timeout=30
        ).stdout
        shown = subprocess.run(["openssl", "x509", "-serial", "-noout"], input=text, capture_output=True).stdout
        return int(shown.split(b"=")[1], 16)

    wait_for("every worker has it", lambda: all(serial() == 2 for _ in range(4)))
    with server.client_of() as client:
        assert client.get("/livez").status_code == 200


def test_who_never_shakes_hands_takes_nobodys_place(server: TlsServer) -> None:
    """More of them than a worker has places, the reserve for probes too."""
    few = {"SEEDVEC_CONNECTIONS": "8"}
    crowded = TlsServer(server.data_dir.parent / "few", env=server.env | few, workers=1)
    with crowded:
        silent = [socket.create_connection((HOST, crowded.port), timeout=30) for _ in range(8 + RESERVE)]
        try:
            (worker,) = crowded.children("app.worker")
            wait_for("all are there", lambda: held_by(worker, crowded.port) >= len(silent))
            time.sleep(LAST_HANDSHAKE_S + 0.2)
            with crowded.client_of() as client:
                assert client.get("/v1", headers={"authorization": "Bearer sesame"}).status_code == 200
        finally:
            for connection in silent:
                connection.close()


def test_who_never_shakes_hands_delays_no_stop(server: TlsServer) -> None:
    """The last test that asks this server: it is stopped, and started again for its folder to be looked at."""
    with socket.create_connection((HOST, server.port), timeout=30) as connection:
        port, workers = connection.getsockname()[1], server.children("app.worker")
        wait_for("a worker has it", lambda: holder_of(server.port, port, workers) is not None)
        server.stop()
    assert "killing worker" not in server.log_tail()
    server.start()


def test_files_that_are_no_certificate(tmp_path: Path) -> None:
    certificate(tmp_path, 1)
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    assert server_context(load({}, {})) is None
    assert server_context(load({"tls_cert": cert, "tls_key": key}, {})) is not None
    both = tmp_path / "both.pem"
    both.write_text(Path(cert).read_text() + Path(key).read_text())
    assert server_context(load({"tls_cert": str(both)}, {})) is not None
    encrypted = tmp_path / "encrypted.pem"
    command = ["openssl", "ec", "-in", key, "-aes256", "-passout", "pass:x", "-out", str(encrypted)]
    subprocess.run(command, check=True, capture_output=True)
    wrong = [
        ({"tls_cert": str(tmp_path / "absent")}, "No such file"),
        ({"tls_cert": cert}, "--tls-cert"),
        ({"tls_cert": key, "tls_key": key}, "--tls-cert"),
        ({"tls_cert": cert, "tls_key": str(encrypted)}, "it is encrypted"),
    ]
    for given, words in wrong:
        with pytest.raises(SettingError, match=words):
            server_context(load(given, {}))
