"""Snapshots of a large collection taken, downloaded, uploaded and restored while writes go on.

    python -m benchmarks.snapshots [--data FILE.hdf5] [--rows 1000000] [--times 5] [--writers 2]

What the writes wait: each writer adds one row after the other; the longest of its waits while a snapshot is taken
stands beside the longest of as long a time before. A second, small collection is in every other snapshot: for several
the write locks are held together for a moment. Afterwards everything is compared: each row acknowledged before a
snapshot began is in it, none that was sent after its answer, and what is restored is the snapshot, bit for bit.
"""

import argparse
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from benchmarks import datasets, table
from benchmarks.served import NAME, Served
from seedvec.folder import open as open_folder
from tests.harness import Server
from tests.wire import Collection

SMALL = "small"
AGAIN = "again"
FIRST_ID = 1 << 40
"""Of what is written meanwhile."""
IDS_A_WRITER = 1 << 32
BATCH_ROWS = 50_000
CHUNK_BYTES = 1 << 20
PAUSE_S = 2.0


class Writer(threading.Thread):
    """Adds a row at a time and keeps when each was sent and answered. Ids ascend."""

    def __init__(self, collection: Collection, dimension: int, number: int) -> None:
        super().__init__(daemon=True)
        self.collection = collection
        self.first = FIRST_ID + number * IDS_A_WRITER
        self.row = np.ones((1, dimension), np.float32)
        self.sent: list[float] = []
        self.answered: list[float] = []
        self.stopped = False
        self.fault: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.stopped:
                self.sent.append(time.perf_counter())
                self.collection.add([self.first + len(self.answered)], self.row)
                self.answered.append(time.perf_counter())
        except BaseException as fault:
            self.fault = fault

    def waits(self, begin: float, end: float) -> list[float]:
        """Seconds, of those under way between the two moments."""
        pairs = zip(self.sent, self.answered, strict=False)
        return [answered - sent for sent, answered in pairs if answered >= begin and sent <= end]

    def count(self, moments: list[float], moment: float) -> int:
        return int(np.searchsorted(moments, moment))


def main() -> None:
    options = parsed()
    data = datasets.load(options.data, options.rows)
    print(f"{data.name}: {data.train.shape[0]:,} × {data.train.shape[1]}")
    with tempfile.TemporaryDirectory(dir=options.tmp) as tmp, Served(Path(tmp) / "data") as served:
        fill(served, data.train, data.metric, options.kind)
        rows = measured(served.server, data.train.shape[1], options)
        print("\n" + table.show(rows), flush=True)
    chosen = {name: value for name, value in vars(options).items() if name in ("rows", "times", "writers", "kind")}
    table.write(options.out, "snapshots", chosen | {"dataset": data.name}, rows)
    print(f"written: {options.out}")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="ann-benchmarks HDF5 file (default: clustered synthetic vectors)")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--times", type=int, default=6, help="snapshots; every other one of two collections")
    parser.add_argument("--writers", type=int, default=2)
    parser.add_argument("--kind", default="flat", help="of index: it is one more file to link, and takes time to build")
    parser.add_argument("--tmp", type=Path, help="where the data folder is made")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/snapshots.json"))
    return parser.parse_args()


def fill(served: Served, rows: NDArray[np.float32], metric: str, kind: str) -> None:
    served.collection.create(rows.shape[1], metric=metric, id_type="int", index={"kind": kind})
    served.fill(rows, 0)
    served.collection.wait_ready(3600)
    small = served.server.collection(SMALL)
    small.create(rows.shape[1], metric=metric, id_type="int", index={"kind": "flat"})
    small.add([0], rows[:1])


def measured(server: Server, dimension: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row a snapshot, then one for what is done with the last."""
    writers = [Writer(server.collection(NAME), dimension, n) for n in range(options.writers)]
    for writer in writers:
        writer.start()
    time.sleep(PAUSE_S)
    found = []
    moments = []
    for i in range(options.times):
        names = [NAME, SMALL] if i % 2 else [NAME]
        row, moment = taken(server, f"s{i}", names, writers)
        found.append(row)
        moments.append(moment)
    last = f"s{options.times - 1}"
    found += [
        timed("download", writers, lambda: download(server, last, options.tmp)),
        timed("upload", writers, lambda: upload(server, options.tmp)),
        timed("restore", writers, lambda: restore(server, last)),
    ]
    for writer in writers:
        writer.stopped = True
    for writer in writers:
        writer.join()
        if writer.fault is not None:
            raise writer.fault
    for i, moment in enumerate(moments):
        judge(server, f"s{i}", writers, *moment)
    same(snapshot_folder(server, last), server.data_dir)
    return found


def taken(
    server: Server, name: str, names: list[str], writers: list[Writer]
) -> tuple[dict[str, Any], tuple[float, float]]:
    begun = time.perf_counter()
    server.client.post("/v1/snapshots", json={"name": name, "collections": names}).raise_for_status()
    ended = time.perf_counter()
    time.sleep(PAUSE_S)  # what waits for it has been answered
    return row(f"snapshot of {len(names)}", begun, ended, writers), (begun, ended)


def timed(what: str, writers: list[Writer], act: Any) -> dict[str, Any]:
    begun = time.perf_counter()
    size = act()
    ended = time.perf_counter()
    time.sleep(PAUSE_S)
    rate = {"MB/s": size / (ended - begun) / 1e6} if size else {}
    return row(what, begun, ended, writers) | rate


def row(what: str, begun: float, ended: float, writers: list[Writer]) -> dict[str, Any]:
    """Waits in ms; before: of the time just before, as long, and PAUSE_S at least."""
    during = [wait for writer in writers for wait in writer.waits(begun, ended)]
    span = max(ended - begun, PAUSE_S)
    before = [wait for writer in writers for wait in writer.waits(begun - span, begun - 0.01)]
    return {
        "what": what,
        "s": ended - begun,
        "writes": len(during),
        "p50_ms": 1e3 * float(np.median(during)),
        "max_ms": 1e3 * max(during),
        "p50_before_ms": 1e3 * float(np.median(before)),
        "max_before_ms": 1e3 * max(before),
    }


def tar_path(tmp: Path | None) -> Path:
    return (tmp or Path(tempfile.gettempdir())) / "seedvec-bench-snapshot.tar"


def download(server: Server, name: str, tmp: Path | None) -> int:
    with tar_path(tmp).open("wb") as file, server.client.stream("GET", f"/v1/snapshots/{name}.tar") as answer:
        for chunk in answer.iter_bytes(CHUNK_BYTES):
            file.write(chunk)
    return tar_path(tmp).stat().st_size


def upload(server: Server, tmp: Path | None) -> int:
    size = tar_path(tmp).stat().st_size
    with tar_path(tmp).open("rb") as file:
        answer = httpx.put(f"{server.url}/v1/snapshots/sent.tar", content=file, timeout=3600, trust_env=False)
    assert answer.status_code == 201, answer.text
    tar_path(tmp).unlink()
    return size


def restore(server: Server, name: str) -> int:
    body = {"as": AGAIN, "collections": [NAME]}
    httpx.post(f"{server.url}/v1/snapshots/{name}/restore", json=body, timeout=3600, trust_env=False).raise_for_status()
    return 0


# -------------------------------------------------------------------- equality


def snapshot_folder(server: Server, name: str) -> Path:
    """By its manifest: folders have generated names."""
    for folder in (server.data_dir / "snapshots").iterdir():
        if f'"name": "{name}"' in (folder / "manifest.json").read_text():
            return folder
    raise SystemExit(f"there is no snapshot {name}")


def judge(server: Server, name: str, writers: list[Writer], begun: float, ended: float) -> None:
    """Of each writer exactly its first rows are in it: those acknowledged before at least, those sent after never."""
    held = open_folder(snapshot_folder(server, name)).snapshot(NAME, metadata=False)
    ids = np.sort(np.asarray(held.ids()))
    for writer in writers:
        mine = ids[(ids >= writer.first) & (ids < writer.first + IDS_A_WRITER)] - writer.first
        assert np.array_equal(mine, np.arange(len(mine))), f"{name}: rows are missing in the midst"
        low, high = writer.count(writer.answered, begun), writer.count(writer.sent, ended)
        assert low <= len(mine) <= high, f"{name}: {len(mine)} rows, acknowledged before {low}, sent {high}"


def same(snapshot: Path, data: Path) -> None:
    """The restored collection is the snapshot's, row by row in key order."""
    one = open_folder(snapshot).snapshot(NAME, metadata=False)
    other = open_folder(data).snapshot(AGAIN, metadata=False)
    assert len(one) == len(other) > 0
    pairs = zip(one.batches(BATCH_ROWS), other.batches(BATCH_ROWS), strict=True)
    for (vectors, ids, _), (vectors_again, ids_again, _) in pairs:
        assert np.array_equal(ids, ids_again), "other ids"
        assert np.asarray(vectors).tobytes() == np.asarray(vectors_again).tobytes(), "other vectors"


if __name__ == "__main__":
    main()
