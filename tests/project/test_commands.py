"""The commands against a real server."""

import subprocess
import sys
from pathlib import Path

from seedvec import Client
from tests.harness import ROOT, Server


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "seedvec.cli", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def test_health(shared_server: Server) -> None:
    healthy = command("health", "--url", shared_server.url)
    assert (healthy.returncode, healthy.stderr) == (0, "")
    sick = command("health", "--url", "http://127.0.0.1:1")
    assert sick.returncode == 1
    assert "cannot serve" in sick.stderr


def test_check_and_info_beside_a_server(shared_server: Server) -> None:
    with Client(shared_server.url) as client:
        client.collection("looked-at", 2).add([[1.0, 0.0], [0.0, 1.0]])
    checked = command("check", str(shared_server.data_dir))
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "sound" in checked.stdout
    described = command("info", str(shared_server.data_dir))
    assert described.returncode == 0
    assert "looked-at" in described.stdout
    assert command("check", str(shared_server.data_dir / "absent")).returncode == 2


def test_check_says_unsound_by_its_status(tmp_path: Path) -> None:
    with Server(tmp_path / "data", workers=1, checked=False) as server, Client(server.url) as client:
        client.collection("spoilt", 2)
        server.stop()
        (catalogue,) = server.data_dir.glob("c/*/catalog.db")
        data = bytearray(catalogue.read_bytes())
        data[200:4000] = bytes(3800)
        catalogue.write_bytes(data)
        assert command("check", str(server.data_dir)).returncode == 1


def test_help_names_the_commands() -> None:
    said = command("--help")
    assert said.returncode == 0
    assert all(name in said.stdout for name in ("serve", "check", "info", "health"))
    assert "SEEDVEC_PENDING_ROWS" in command("serve", "--help").stdout
