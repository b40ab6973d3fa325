"""Whole files in and out beside `cp` of the same bytes on the same disk: MB/s, and what it costs in memory.

    python -m benchmarks.transfer [--rows N] [--dimension D] [--formats npy,raw,safetensors,tensorblob,hdf5] [--times 3]

Each file is written by an export and read by an import, over HTTP (a real server, curl's part done by the command) and
in place. `cp` is followed by a sync of the copy, as an import ends with one. Best of `--times`, on a busy machine the
only number that says anything.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import table
from tests.harness import Server
from tests.processes import command, descendants

FORMATS = {"npy": ".npy", "raw": ".raw", "safetensors": ".safetensors", "tensorblob": ".blob", "hdf5": ".h5"}
CHILDREN = ("app.reading_file", "app.writing_file")
LOOK_S = 0.01


def main() -> None:
    options = parsed()
    with tempfile.TemporaryDirectory(dir=options.tmp, prefix="seedvec-transfer-") as folder:
        rows = list(measured(Path(folder), options))
    print(table.show(table.turned(rows)), flush=True)
    table.write(options.out, "transfer", vars(options), rows)
    print(f"written: {options.out}", file=sys.stderr)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=128)
    parser.add_argument("--formats", default=",".join(FORMATS), help="comma separated")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--tmp", type=Path, help="where the files and the data folder are made")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/transfer.json"))
    return parser.parse_args()


def measured(folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    source = folder / "source.npy"
    rng = np.random.default_rng(0)
    shape = (options.rows, options.dimension)
    vectors = np.lib.format.open_memmap(source, "w+", np.float32, shape)
    for begin in range(0, options.rows, 100_000):
        vectors[begin : begin + 100_000] = rng.standard_normal((min(100_000, options.rows - begin), shape[1]))
    vectors.flush()
    del vectors
    bytes_ = options.rows * options.dimension * 4
    with Server(folder / "data", 2) as server:
        make(server, "source", options.dimension)
        make(server, "target", options.dimension)
        seedvec("import", "source", source, "--url", server.url)
        for name in options.formats.split(","):
            yield one(folder, server, name, bytes_, options)


def make(server: Server, name: str, dimension: int) -> None:
    """Without an index: what the builder does afterwards is measured elsewhere."""
    settings = {"dimension": dimension, "index": {"kind": "flat"}}
    assert server.client.put(f"/v1/collections/{name}", json=settings).status_code == 201


def one(folder: Path, server: Server, name: str, bytes_: int, options: argparse.Namespace) -> dict[str, Any]:
    file = folder / f"x{FORMATS[name]}"
    how = ["--dtype", "float32", "--shape", options.dimension] if name == "raw" else []
    url = ["--url", server.url]

    def export() -> None:
        remove(file)
        seedvec("export", "source", file, "--format", name, "--no-sidecars", *url)

    def bring() -> None:
        seedvec("import", "target", file, "--format", name, *how, *url)

    def bring_in_place() -> None:
        seedvec("import", "target", file, "--format", name, *how, "--data", folder / "other")

    def anew() -> None:
        server.client.delete("/v1/collections/target")
        make(server, "target", options.dimension)

    with watched(server) as peak:
        out = best(options.times, export)
        came = best(options.times, bring, anew)
    copied = best(options.times, lambda: copy(file, folder / "copy"), lambda: remove(folder / "copy"))
    placed = best(options.times, bring_in_place, lambda: remove(folder / "other"))
    remove(file)
    rates = {"cp": copied, "import": came, "import --data": placed, "export": out}
    row: dict[str, Any] = {"format": name}
    row |= {f"{what} MB/s": round(bytes_ / seconds / 1e6) for what, seconds in rates.items()}
    row |= {f"{what} / cp": round(copied / seconds, 2) for what, seconds in rates.items() if what != "cp"}
    return row | {"child MB": round(peak[0] / 1e6), "server + MB": round(peak[1] / 1e6)}


def seedvec(*words: Any) -> None:
    run = "import sys; from seedvec.cli import main; sys.exit(main())"
    subprocess.run([sys.executable, "-c", run, *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def best(times: int, act: Callable[[], None], after: Callable[[], None] = lambda: None) -> float:
    seconds = []
    for _ in range(times):
        begun = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - begun)
        after()
    return min(seconds)


def copy(file: Path, to: Path) -> None:
    subprocess.run(["cp", "-r", str(file), str(to)], check=True)
    for path in [to] if to.is_file() else to.iterdir():
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


@contextmanager
def watched(server: Server) -> Iterator[list[int]]:
    """Peaks of private memory, in bytes: of a child, and of all the server's processes above what they had."""
    assert server.process is not None
    supervisor, peak, stop = server.process.pid, [0, 0], threading.Event()
    before = sum(private(pid) for pid in descendants(supervisor))

    def look() -> None:
        while not stop.wait(LOOK_S):
            pids = descendants(supervisor)
            now = {pid: private(pid) for pid in pids}
            children = [now[pid] for pid in pids if any(name in command(pid) for name in CHILDREN)]
            peak[0] = max([peak[0], *children])
            peak[1] = max(peak[1], sum(now.values()) - before)

    watching = threading.Thread(target=look)
    watching.start()
    try:
        yield peak
    finally:
        stop.set()
        watching.join()


def private(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssAnon"))


if __name__ == "__main__":
    main()
