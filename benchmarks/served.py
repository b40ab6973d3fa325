"""One collection in a real server, for benchmarks: filled, grown, indexed, and asked in batches over HTTP."""

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import apsw
import numpy as np
from numpy.typing import NDArray

from tests.harness import Server
from tests.wire import NPY, Collection, npy

NAME = "bench"
ROWS_A_WRITE = 100_000
BODY_BYTES = 128 << 20
READY_S = 3600.0
POLL_S = 0.1
OPENED_S, LEAST_RECALL = 5.0, 0.5
BATCH = 500
UNSAMPLED = {"SEEDVEC_KEEP_QUERIES": "0"}
"""Where held-out queries measure, the server must not calibrate on them."""


@dataclass(frozen=True, slots=True)
class Answered:
    """ids: (q, k) int64, -1 where there are fewer; the rest of the first batch."""

    ids: NDArray[np.int64]
    exact: bool
    expected_recall: float | None
    calibrated_on: str | None


@dataclass(frozen=True, slots=True)
class Built:
    """One segment's index, as the catalogue has it."""

    rows: int
    kind: str
    meta: dict[str, Any]

    @property
    def built_rows(self) -> int:
        """Rows of the last build from scratch: fewer than `rows` where it was extended since."""
        return int(self.meta.get("built_rows", self.rows))


class Served:
    """`with Served(folder) as served:`; the collection is there from `create` on, or from an earlier server."""

    def __init__(self, folder: Path, workers: int = 2, env: dict[str, str] | None = None) -> None:
        self.server = Server(folder, workers=workers, env=UNSAMPLED if env is None else env, checked=False)
        self.collection: Collection

    def __enter__(self) -> "Served":
        self.server.__enter__()
        self.collection = self.server.collection(NAME)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.__exit__(kind, error, trace)

    def fill(self, rows: NDArray[Any], first_id: int) -> None:
        """Adds rows (n, d) with ids from first_id on; what the server puts off (429) is sent again."""
        step = min(ROWS_A_WRITE, max(1, BODY_BYTES // rows[0].nbytes))
        for begin in range(0, len(rows), step):
            body = npy(np.asarray(rows[begin : begin + step]))
            path = f"{self.collection.path}/vectors?first_id={first_id + begin}"
            while (answer := self.collection.wire.call("POST", path, body, Content_Type=NPY)).status == 429:
                time.sleep(POLL_S)
            assert answer.status == 201, answer

    def index(self, kind: str, recall: float, **params: int) -> float:
        """Builds another index under another default recall. → seconds until it is ready."""
        self.collection.wire.ok(200, "PATCH", self.collection.path, {"recall": recall})
        begun = time.perf_counter()
        self.collection.wire.ok(202, "PUT", f"{self.collection.path}/index", {"kind": kind, **params})
        self.ready()
        return time.perf_counter() - begun

    def ready(self, timeout_s: float = READY_S) -> dict[str, Any]:
        """Waits until nothing is being built. Raises SystemExit where a build has failed."""
        end = time.monotonic() + timeout_s
        while True:
            described = self.collection.describe()
            if described["index"]["state"] == "ready":
                return described
            if described["index"]["state"] != "building" or time.monotonic() > end:
                raise SystemExit(f"the index does not become ready: {described['index']}")
            time.sleep(POLL_S)

    def opened(self, query: NDArray[Any]) -> None:
        """Waits until the worker of this connection has opened the indexes that there are, which it does in the
        background, answering exactly meanwhile; or for OPENED_S: some are searched exactly because that is cheaper."""
        end = time.monotonic() + OPENED_S
        path = f"{self.collection.path}/search"
        body = {"vector": query.tolist(), "k": 10, "recall": LEAST_RECALL, "include": []}
        while self.collection.wire.ok(200, "POST", path, body)["exact"] and time.monotonic() < end:
            time.sleep(POLL_S)

    def search(self, queries: NDArray[Any], k: int, **asked: Any) -> Answered:
        """asked: what the query string takes besides k (`recall`, `exact`)."""
        query = "".join(f"&{name}={json.dumps(value)}" for name, value in asked.items())
        path = f"{self.collection.path}/search?k={k}&include={query}"
        ids = np.full((len(queries), k), -1, np.int64)
        answers = []
        for begin in range(0, len(queries), BATCH):
            body = npy(np.asarray(queries[begin : begin + BATCH]))
            answers.append(self.collection.wire.ok(200, "POST", path, body, Content_Type=NPY))
            for row, result in zip(ids[begin:], answers[-1]["results"], strict=False):
                row[: len(result["hits"])] = [hit["id"] for hit in result["hits"]]
        first = answers[0]
        return Answered(ids, all(a["exact"] for a in answers), first["expected_recall"], first["calibrated_on"])


def built(folder: Path) -> list[Built]:
    """The indexes of the one collection in a data folder, largest first; beside a running server, or without."""
    return sorted((Built(rows, kind, json.loads(meta)) for rows, kind, meta in _indexes(folder)), key=lambda b: -b.rows)


def _indexes(folder: Path) -> Iterable[tuple[int, str, str]]:
    found: list[tuple[int, str, str]] = []
    for catalogue in (folder / "c").glob("*/catalog.db"):
        db = apsw.Connection(str(catalogue), flags=apsw.SQLITE_OPEN_READONLY)
        rows = db.execute("SELECT s.rows, i.kind, i.meta FROM segments s JOIN indexes i USING (seq)").fetchall()
        found += [(int(str(n)), str(kind), str(meta)) for n, kind, meta in rows]
        db.close()
    return found
