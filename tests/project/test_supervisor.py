"""The supervisor with a real server: what it refuses, what it starts again, how it stops."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.settings import Settings
from tests.harness import HOST, ROOT, Server, wait_for
from tests.processes import holder_of, wait_gone

PATIENCE_S = 30.0
COLLECTION = "/v1/collections/things"
DRAIN_S = Settings(data=ROOT).drain_s


def refusal(*arguments: str, **variables: str) -> tuple[int, str]:
    """Exit status and words of a `serve` that does not start."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("SEEDVEC_")}
    done = subprocess.run(
        [sys.executable, "-m", "seedvec.cli", "serve", *arguments],
        cwd=ROOT,
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    return done.returncode, done.stderr.strip()


def half_an_add(server: Server) -> tuple[socket.socket, bytes]:
    """A connection on which an add has begun, and the rest of it."""
    server.client.put(COLLECTION, json={"dimension": 2}).raise_for_status()
    body = json.dumps({"items": [{"id": 1, "vector": [1, 2]}]}).encode()
    head = f"POST {COLLECTION}/vectors HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    begun = socket.create_connection((HOST, server.port), timeout=PATIENCE_S)
    begun.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:10])
    server.wait_read(begun)
    return begun, body[10:]


def test_an_open_address_is_refused(tmp_path: Path) -> None:
    status, words = refusal("--data", str(tmp_path / "d"), "--host", "0.0.0.0")
    assert status == 2
    expected = (
        "refusing to bind 0.0.0.0 without a key: set SEEDVEC_API_KEY, or --insecure behind an authenticating proxy"
    )
    assert words == f"seedvec: {expected}"
    assert not (tmp_path / "d").exists()


def test_an_empty_key_is_no_key(tmp_path: Path) -> None:
    """As a compose file gives it where the variable behind it is not set."""
    assert refusal("--data", str(tmp_path / "d"), SEEDVEC_API_KEY="") == (2, "seedvec: SEEDVEC_API_KEY is empty")


def test_an_open_address_is_taken_with_a_key(shared_server: Server, tmp_path: Path) -> None:
    """As far as the port, which is in use."""
    where = ("--data", str(tmp_path / "d"), "--host", "0.0.0.0", "--port", str(shared_server.port))
    status, words = refusal(*where, SEEDVEC_API_KEY="sesame")
    assert status == 1 and f"cannot listen on 0.0.0.0:{shared_server.port}" in words
    assert "sesame" not in words


def test_while_the_folder_is_recovered_workers_wait(tmp_path: Path) -> None:
    """They are there, and import; none has anything of the folder open but the lock that it inherited."""
    server = Server(tmp_path / "data", env={"SEEDVEC_FAILPOINTS": "import.clear_staging@app.recover:sleep=1"})
    server.start(wait=False)
    try:
        wait_for("the recovery runs", lambda: bool(server.children("app.recover")), every_s=0.01)
        (recovery,) = server.children("app.recover")
        os.kill(recovery, signal.SIGSTOP)  # for as long as the workers' imports may take here
        try:
            wait_for("two workers wait", lambda: [*map(is_waiting, server.children("app.worker"))] == [True, True])
            assert [held(pid, server.data_dir) for pid in server.children("app.worker")] == [{"LOCK"}, {"LOCK"}]
            assert not server.children("app.sealer") and not server.children("app.builder")
        finally:
            os.kill(recovery, signal.SIGCONT)
        server.wait_serving()
        assert server.children("app.sealer") and server.children("app.builder")
    finally:
        server.stop()


def test_the_worker_that_forks_the_others_dies_before(tmp_path: Path) -> None:
    """The supervisor learns of those that never came by their channels, and starts each anew."""
    server = Server(tmp_path / "data")
    server.start(wait=False)
    try:
        wait_for("it is there", lambda: bool(server.children("app.worker")), every_s=0.005)
        os.kill(server.children("app.worker")[0], signal.SIGKILL)
        server.wait_serving()
        assert server.log_tail().count(" died (") == 2 and server.log_tail().count(" is ready") == 2
    finally:
        server.stop()


def test_forked_workers_outlive_the_one_that_forked_them(tmp_path: Path) -> None:
    with Server(tmp_path / "data", workers=3) as server:
        workers = server.children("app.worker")
        assert server.process is not None
        assert [parent(pid) for pid in workers] == [server.process.pid] * 3
        os.kill(workers[0], signal.SIGKILL)
        wait_for("another takes its place", lambda: len(set(server.children("app.worker")) - {*workers}) == 1)
        assert {*workers[1:]} < {*server.children("app.worker")}


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def is_waiting(pid: int) -> bool:
    """Whether it has imported everything, since it watches its parent, and now sleeps."""
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return len(list(Path(f"/proc/{pid}/task").iterdir())) > 1 and state == "S"


def held(pid: int, folder: Path) -> set[str]:
    """Names below `folder` that the process has open."""
    targets = (Path(os.readlink(fd)) for fd in Path(f"/proc/{pid}/fd").iterdir())
    return {str(t.relative_to(folder)) for t in targets if t.is_relative_to(folder)}


def test_a_folder_that_cannot_be_recovered_is_not_served(tmp_path: Path) -> None:
    failing = "import.clear_staging@app.recover:eio"
    status, words = refusal("--data", str(tmp_path / "d"), "--port", "0", SEEDVEC_FAILPOINTS=failing)
    assert status == 1 and "could not be recovered" in words and "is ready" not in words


@pytest.mark.parametrize("flag", ["--keys-file", "--api-key-file", "--tls-cert"])
def test_a_file_of_secrets_that_is_not_there(tmp_path: Path, flag: str) -> None:
    """Told once, before anything is started: a server without its keys would be open, or look as if it ran."""
    status, words = refusal("--data", str(tmp_path / "d"), "--port", "0", flag, str(tmp_path / "absent"))
    assert status == 2 and words.startswith("seedvec: ") and "absent" in words and "No such file" in words
    assert not (tmp_path / "d").exists()


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    status, words = refusal("--data", str(tmp_path / "d"), SEEDVEC_WORKERS="none")
    assert (status, words) == (2, "seedvec: SEEDVEC_WORKERS: 'none' is not a whole number")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    status, words = refusal("--data", str(tmp_path / "file"), "--port", "0")
    assert status == 1
    assert "cannot make the data folder" in words


def test_a_second_server_on_the_folder_is_refused(shared_server: Server) -> None:
    status, words = refusal("--data", str(shared_server.data_dir), "--port", "0")
    assert status == 1
    assert (
        f"{shared_server.data_dir} is in use by process {shared_server.process.pid if shared_server.process else 0}"
        in words
    )
    assert shared_server.url in words


def test_a_port_in_use_is_refused(shared_server: Server, tmp_path: Path) -> None:
    status, words = refusal("--data", str(tmp_path / "other"), "--port", str(shared_server.port))
    assert status == 1
    assert f"cannot listen on 127.0.0.1:{shared_server.port}" in words


def said_ready(server: Server) -> int:
    """Workers that have come up so far."""
    return server.log_tail().count(" is ready")


@pytest.mark.parametrize("module", ["app.worker", "app.sealer", "app.builder"])
def test_what_dies_is_started_again(shared_server: Server, module: str) -> None:
    wait_for("all have come up", lambda: said_ready(shared_server) >= shared_server.workers)
    before, said = set(shared_server.children(module)), said_ready(shared_server)
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    wait_for("another one runs", lambda: len(set(shared_server.children(module)) - before) == 1)
    assert set(shared_server.children(module)) & before == before - {victim}
    assert "killed by SIGKILL); starting another in 0.1 s" in shared_server.log_tail()
    if module == "app.worker":
        wait_for("it is ready", lambda: said_ready(shared_server) == said + 1)
    assert shared_server.client.get("/readyz").status_code == 200


def test_what_dies_at_once_is_started_with_growing_pauses(shared_server: Server) -> None:
    """Killed as often as it appears, the sealer must not be started in a tight loop."""
    until, seen = time.monotonic() + 3.0, set()
    while time.monotonic() < until:
        for pid in shared_server.children("app.sealer"):
            seen.add(pid)
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    # Pauses of 0.1, 0.2, 0.4, 0.8, 1.6 s: six at most in three seconds.
    assert 3 <= len(seen) <= 6
    wait_for("it runs again", lambda: bool(shared_server.children("app.sealer")))


def test_connections_are_spread_over_the_workers(shared_server: Server) -> None:
    connections = [socket.create_connection((HOST, shared_server.port), timeout=PATIENCE_S) for _ in range(8)]
    workers = shared_server.children("app.worker")

    def holders() -> list[int]:
        found = [holder_of(shared_server.port, c.getsockname()[1], workers) for c in connections]
        return sorted(sum(holder == worker for holder in found) for worker in workers)

    try:
        # Others than these eight count too, and those closed a moment ago.
        wait_for("each worker holds three or more", lambda: min(holders()) >= 3 and sum(holders()) == 8)
    finally:
        for connection in connections:
            connection.close()


def test_while_no_worker_runs_connections_wait(tmp_path: Path) -> None:
    with Server(tmp_path / "data", workers=1) as server:
        (worker,) = server.children("app.worker")
        os.kill(worker, signal.SIGKILL)
        assert not wait_gone([worker], PATIENCE_S), "what it was dealt before its end would be lost with it"
        assert server.client.get("/readyz", timeout=PATIENCE_S).status_code == 200
        assert server.children("app.worker") != [worker]


def test_what_is_being_answered_at_the_stop_is_finished(server: Server) -> None:
    begun, rest = half_an_add(server)
    with begun:
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        wait_for("the stop is under way", lambda: "stopping" in server.log_tail())
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOST, server.port), timeout=PATIENCE_S)
        begun.sendall(rest)
        assert begun.recv(4096).startswith(b"HTTP/1.1 201")
    server.process.wait(PATIENCE_S)
    assert server.process.returncode == 0
    server.stop()
    server.start()
    assert server.client.get(COLLECTION).json()["count"] == 1


def test_what_does_not_finish_is_cut_off(tmp_path: Path) -> None:
    with Server(tmp_path / "data", workers=1, env={"SEEDVEC_DRAIN_S": "1"}, may_trace=True) as server:
        begun, _ = half_an_add(server)
        with begun:
            assert server.process is not None
            started = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(PATIENCE_S) == 0
            assert time.monotonic() - started < DRAIN_S
        server.stop()


def test_a_second_signal_kills(tmp_path: Path) -> None:
    """It would wait for longer than the test does."""
    with Server(tmp_path / "data", env={"SEEDVEC_DRAIN_S": str(4 * PATIENCE_S)}) as server:
        begun, _ = half_an_add(server)
        with begun:
            assert server.process is not None
            server.process.send_signal(signal.SIGTERM)
            wait_for("the stop is under way", lambda: "stopping" in server.log_tail())
            server.process.send_signal(signal.SIGINT)
            assert server.process.wait(PATIENCE_S) == 3
        server.process = None


def test_killed_and_started_again_at_once(server: Server) -> None:
    server.client.put(COLLECTION, json={"dimension": 2}).raise_for_status()
    server.kill()
    server.start()
    assert server.client.get(COLLECTION).status_code == 200
