"""`seedvec health`, as a container asks it: with the server's own environment, over TLS, without a key."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import ROOT, SMALL, Server, free_port

KEY = "0123456789abcdef0123456789abcdef"


def health(*arguments: str, **variables: str) -> tuple[int, str]:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("SEEDVEC_")}
    done = subprocess.run(
        [sys.executable, "-m", "seedvec.cli", "health", *arguments],
        cwd=ROOT,
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.returncode, done.stdout + done.stderr


class TlsServer(Server):
    """Ready when its own health check says so."""

    @property
    def asked(self) -> dict[str, str]:
        return {"SEEDVEC_TLS_CERT": self.env["SEEDVEC_TLS_CERT"], "SEEDVEC_PORT": str(self.port)}

    def _ready(self) -> bool:
        assert self._running().poll() is None, self.log_tail()
        return health(**self.asked)[0] == 0


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes the certificate")
def test_over_tls_and_without_a_key(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=vectors.example"]
    subprocess.run([*make, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    env = SMALL | {"SEEDVEC_API_KEY": KEY, "SEEDVEC_TLS_CERT": str(certificate), "SEEDVEC_TLS_KEY": str(key)}
    with TlsServer(tmp_path / "data", workers=1, env=env) as server:
        status, words = health(**server.asked)
        assert status == 0 and f"https://127.0.0.1:{server.port} can serve" in words, words
        assert health("--url", f"http://127.0.0.1:{server.port}")[0] == 1, "it speaks TLS, and only TLS"
        server.stop()
        assert health(**server.asked)[0] == 1


def test_nobody_there() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert health("--url", url) == (1, f"seedvec: {url} cannot serve: [Errno 111] Connection refused\n")
    assert health("--url", "ftp://x")[0] == 1
