"""The project's own OpenAPI tried by schemathesis on a real server: what was asked, what was answered, what it took."""

import json
import os
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.harness import ROOT, SMALL, Server

COUNTS = "counts.json"
"""`operation status` → cases."""
SNAPSHOT = "snapshot.tar"
REPORT = "report.json"
KEY = "fuzz-" + "k" * 40
ENV = SMALL | {"SEEDVEC_API_KEY": KEY}
PATIENT = {"SEEDVEC_HEADER_S": "2", "SEEDVEC_BODY_S": "2"}
"""For so long a request waits that lacks its end."""
CONFIG = ROOT / "tests/fuzz/schemathesis.toml"
COLLECTIONS = {"colours": "int", "words": "str", "bags": "str"}
"""Name → type of ids; `bags` are sparse. The names of `schemathesis.toml`; the first is that of the examples."""
DIMENSION = 3
ROWS = 60
FILL_S = 1.0


@dataclass(frozen=True)
class Tried:
    """by_operation: operation → status → cases. failures: what schemathesis says of each. private_bytes: of all the
    workers together, beforehand and whenever looked at since."""

    by_operation: dict[str, dict[int, int]]
    failures: str
    status: int
    private_bytes: list[int]

    @property
    def cases(self) -> int:
        return sum(sum(statuses.values()) for statuses in self.by_operation.values())

    @property
    def server_errors(self) -> int:
        """Answers that are the server's fault: 503 is an answer to who asks too much."""
        return sum(n for found in self.by_operation.values() for s, n in found.items() if s >= 500 and s != 503)

    @property
    def never_done(self) -> list[str]:
        """Operations of which no case was ever done."""
        return [name for name, found in self.by_operation.items() if not any(s < 300 for s in found)]


def fill(server: Server) -> None:
    """What the cases may empty, drop or change, as it was. Whatever they have made of a name, it is left so."""
    client = server.client
    client.headers["api-key"] = KEY
    for name, kind in COLLECTIONS.items():
        path, sparse = f"/v1/collections/{name}", name == "bags"
        metric = "dot" if sparse else "l2"
        client.put(path, json={"dimension": DIMENSION, "metric": metric, "id_type": kind, "sparse": sparse})
        if client.get(path).json().get("count", ROWS) >= ROWS:
            continue
        ids = [f"w{i}" if kind == "str" else i for i in range(ROWS)]
        vectors = np.random.default_rng(1).standard_normal((ROWS, DIMENSION)).round(2).tolist()
        some: list[Any] = [{"indices": [0, 2], "values": v[:2]} for v in vectors] if sparse else vectors
        metadata = [{"name": ("red", "green", "blue")[i % 3], "hue": i} for i in range(ROWS)]
        client.put(f"{path}/vectors", json={"ids": ids, "vectors": some, "metadata": metadata})
    for alias in ("palette", "latest"):
        client.put(f"/v1/aliases/{alias}", json={"collection": "words"})
    client.post("/v1/snapshots", json={"name": "monday", "collections": ["colours"]})


def attempt(server: Server, folder: Path, options: list[str], seed: int = 1) -> Tried:
    """Runs schemathesis with those options besides; folder: where it may leave what it found."""
    fill(server)
    folder.mkdir(parents=True, exist_ok=True)
    tar = server.client.get("/v1/snapshots/monday.tar")
    (folder / SNAPSHOT).write_bytes(tar.raise_for_status().content)
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"]
    command += [f"{server.url}/openapi.json", "--seed", str(seed), "--checks", "all"]
    command += ["--report", "json", "--report-json-path", REPORT, *options]
    env = os.environ | {"FUZZ_KEY": KEY, "FUZZ_FOLDER": str(folder), "PYTHONPATH": str(ROOT)}
    with filled_again(server) as watched:
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    counted = json.loads((folder / COUNTS).read_text())
    return Tried(_by_operation(counted), done.stdout[-60_000:] + done.stderr[-2000:], done.returncode, watched)


@contextmanager
def filled_again(server: Server) -> Iterator[list[int]]:
    """Every second meanwhile, so that cases find something; the list gets what the workers take then."""
    found, over = [server.private_bytes()], threading.Event()

    def go() -> None:
        while not over.wait(FILL_S):
            fill(server)
            found.append(server.private_bytes())

    thread = threading.Thread(target=go)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()
        found.append(server.private_bytes())


def _by_operation(counted: dict[str, int]) -> dict[str, dict[int, int]]:
    found: defaultdict[str, dict[int, int]] = defaultdict(dict)
    for key, count in sorted(counted.items()):
        operation, _, status = key.rpartition(" ")
        found[operation][int(status)] = count
    return dict(found)
