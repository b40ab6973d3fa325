"""A server on a free port for as long as a block of code needs one."""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from seedvec import Client

ROOT = Path(__file__).resolve().parent.parent
START_S = 60.0


@contextlib.contextmanager
def server(data: Path) -> Iterator[Client]:
    """Serve the folder; gives a client of that server, which is stopped and waited for at the end."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("SEEDVEC_")}
    command = [sys.executable, "-m", "app.cli", "serve", "--data", str(data.resolve()), "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        with Client(_address(process)) as client:
            client.wait_ready(timeout_s=START_S)
            yield client
    finally:
        process.terminate()
        _, rest = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"the server ended with status {process.returncode}:\n{rest}")


def _address(process: "subprocess.Popen[str]") -> str:
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if found := re.search(r"listening on (http://\S+)", line):
            return found[1]
    raise SystemExit(f"the server did not start:\n{said}")
