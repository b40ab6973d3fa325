"""Whole files in and out beside `cp` of the same bytes on the same disk: MB/s, and what it costs in memory.

    python -m benchmarks.transfer [--rows N] [--dimension D] [--formats npy,raw,…] [--runs 5] [--docs docs]

The commands as they are typed, from their start to their end: over HTTP to a real server, and in place (`--data`). `cp`
is followed by a sync of what it wrote, as an import and an export end with one. Runs alternate; medians. The peak of
memory is that of a run of its own: what all processes of the server hold in proportion (PSS, of mapped files too) above
what they held before.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import table
from tests.harness import Server
from tests.processes import descendants

LOOK_S = 0.02
WARM = 3
"""Times the file: what an import takes of the page cache, and some more."""
PIECE = bytes(4 << 20)
CP, BRING, PLACE, OUT, OUT_PLACED = "cp", "import", "import --data", "export", "export --data"
WAYS = (BRING, PLACE, OUT, OUT_PLACED)
HEADING = "<!-- written by `make bench-transfer BENCH='--docs docs'` -->\n# Files in and out: figures\n"


class Kind(NamedTuple):
    """A line of the table. slow: not measured unless it is asked for."""

    name: str
    format: str
    ending: str
    export: Sequence[str] = ()
    slow: bool = False


KINDS = {
    kind.name: kind
    for kind in (
        Kind("npy", "npy", ".npy"),
        Kind("raw", "raw", ".raw"),
        Kind("shards", "shards", ".shards"),
        Kind("safetensors", "safetensors", ".safetensors"),
        Kind("tensorblob", "tensorblob", ".blob"),
        Kind("hdf5", "hdf5", ".h5"),
        Kind("npz", "npz", ".npz", slow=True),
        Kind("hdf5-gzip", "hdf5", ".h5", ("--compression", "gzip"), slow=True),
        Kind("pt", "pt", ".pt", slow=True),
        Kind("parquet", "parquet", ".parquet", slow=True),
        Kind("arrow", "arrow", ".arrow", slow=True),
    )
}


def main() -> None:
    options = parsed()
    # As it is for users: modules that were compiled once are not compiled again at every start.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    rows = []
    with tempfile.TemporaryDirectory(dir=options.tmp, prefix="seedvec-transfer-") as folder:
        for row in measured(Path(folder), options):
            rows.append(row)
            print(table.show([row]), flush=True)
    print("\n" + table.show(rows), flush=True)
    table.write(options.out, "transfer", vars(options), rows)
    print(f"written: {options.out}", file=sys.stderr)
    if options.docs is not None:
        (options.docs / "transfer-figures.md").write_text(page(options, rows))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=128)
    usual = ",".join(kind.name for kind in KINDS.values() if not kind.slow)
    parser.add_argument("--formats", default=usual, help=f"of {', '.join(KINDS)} (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tmp", type=Path, help="where the files and the data folders are made")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/transfer.json"))
    parser.add_argument("--docs", type=Path, help="where transfer-figures.md is to be written")
    return parser.parse_args()


def measured(folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    source = folder / "source.npy"
    make_file(source, options.rows, options.dimension)
    with Server(folder / "data", 2) as server:
        make(server, "source", options.dimension)
        seedvec("import", "source", source, "--url", server.url)
        source.unlink()
        for name in options.formats.split(","):
            yield Way(folder, server, KINDS[name], options).measure()


def make_file(path: Path, rows: int, dimension: int) -> None:
    rng = np.random.default_rng(0)
    vectors = np.lib.format.open_memmap(path, "w+", np.float32, (rows, dimension))
    for begin in range(0, rows, 100_000):
        vectors[begin : begin + 100_000] = rng.standard_normal((min(100_000, rows - begin), dimension), np.float32)
    vectors.flush()


def make(server: Server, name: str, dimension: int) -> None:
    """Without an index: what the builder does afterwards is measured elsewhere."""
    settings = {"dimension": dimension, "index": {"kind": "flat"}}
    assert server.client.put(f"/v1/collections/{name}", json=settings).status_code == 201


class Way:
    """One kind of file there and back in all ways."""

    def __init__(self, folder: Path, server: Server, kind: Kind, options: argparse.Namespace) -> None:
        self._server = server
        self._kind = kind
        self._options = options
        self._file = folder / f"x{kind.ending}"
        self._copy = folder / "copy"
        self._other = folder / "other"
        self._spare = folder / "spare"
        self._url = ("--url", server.url)

    def measure(self) -> dict[str, Any]:
        seconds: dict[str, list[float]] = {name: [] for name in (CP, *WAYS)}
        for _ in range(self._options.runs):
            for name, act in (
                (OUT, self._out),
                (CP, lambda: copy(self._file, self._copy)),
                (BRING, self._bring),
                (PLACE, self._place),
                (OUT_PLACED, self._out_placed),
            ):
                self._warm_memory()
                seconds[name].append(timed(act))
            self._clear()
        with watched(self._server) as peak:
            self._out()
            self._bring()
        self._clear()
        return self._row({name: statistics.median(runs) for name, runs in seconds.items()}, seconds, peak[0])

    def _row(self, median: dict[str, float], seconds: dict[str, list[float]], peak: int) -> dict[str, Any]:
        megabytes = self._options.rows * self._options.dimension * 4 / 1e6
        row: dict[str, Any] = {"file": self._kind.name, "cp MB/s": round(megabytes / median[CP])}
        for name in WAYS:
            ratio = statistics.median(a / b for a, b in zip(seconds[CP], seconds[name], strict=True))
            row |= {f"{name} MB/s": round(megabytes / median[name]), f"{name} / cp": round(ratio, 2)}
        return row | {"memory + MB": round(peak / 1e6)}

    def _warm_memory(self) -> None:
        """A hypervisor may have taken free memory back, and then 512 MB of page cache cost 1.1 s to be had again, not
        0.12: that would be measured of whoever comes first. So each begins with as much as it needs just freed."""
        with self._spare.open("wb", buffering=0) as file:
            for _ in range(WARM * self._options.rows * self._options.dimension * 4 // len(PIECE)):
                file.write(PIECE)
        self._spare.unlink()

    def _clear(self) -> None:
        for path in (self._file, self._copy, self._other):
            remove(path)
        self._server.client.delete("/v1/collections/target")

    def _export(self, name: str, where: Sequence[Any]) -> None:
        remove(self._file)
        seedvec("export", name, self._file, "--format", self._kind.format, "--no-sidecars", *self._kind.export, *where)

    def _import(self, where: Sequence[Any]) -> None:
        raw = ("--dtype", "float32", "--shape", self._options.dimension)
        told = raw if self._kind.name in ("raw", "shards") else ()
        seedvec("import", "target", self._file, "--format", self._kind.format, *told, *where)

    def _out(self) -> None:
        self._export("source", self._url)

    def _bring(self) -> None:
        make(self._server, "target", self._options.dimension)
        self._import(self._url)

    def _place(self) -> None:
        self._import(("--data", self._other))

    def _out_placed(self) -> None:
        self._export("target", ("--data", self._other))


def timed(act: Callable[[], None]) -> float:
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


def seedvec(*words: Any) -> None:
    run = "import sys; from seedvec.cli import main; sys.exit(main())"
    subprocess.run([sys.executable, "-c", run, *map(str, words)], check=True, stdout=subprocess.DEVNULL)


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
    """The peak, in bytes, of what all the server's processes hold above what they held before."""
    assert server.process is not None
    supervisor, peak, stop = server.process.pid, [0], threading.Event()
    before = held(supervisor)

    def look() -> None:
        while not stop.wait(LOOK_S):
            peak[0] = max(peak[0], held(supervisor) - before)

    watching = threading.Thread(target=look)
    watching.start()
    try:
        yield peak
    finally:
        stop.set()
        watching.join()


def held(supervisor: int) -> int:
    return sum(pss(pid) for pid in descendants(supervisor))


def pss(pid: int) -> int:
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in rollup.splitlines() if line.startswith("Pss:"))


def page(options: argparse.Namespace, rows: Sequence[dict[str, Any]]) -> str:
    """For the documentation."""
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    size = options.rows * options.dimension * 4 / 1e6
    what = f"{options.rows:,} × {options.dimension} float32 ({size:,.0f} MB) on {cores} cores (load {load:.1f})"
    lines = [
        HEADING,
        f"{what}, medians of {options.runs} alternating runs:",
        "MB/s, and in brackets as a share of `cp` with a sync of the same bytes on the same disk. Timed is the whole",
        "command, `seedvec import` or `seedvec export`, with the starts of its processes, which a larger file does not",
        "notice. Memory: the peak of all the server's processes above what they held before (PSS), during both.",
        "",
        f"| file | {CP} | {' | '.join(f'`{name}`' for name in WAYS)} | memory, MB |",
        f"|---|{'---|' * (len(WAYS) + 2)}",
    ]
    for row in rows:
        cells = [f"{row[f'{name} MB/s']:,} ({row[f'{name} / cp']:.2f})" for name in WAYS]
        lines.append(f"| {row['file']} | {row['cp MB/s']:,} | {' | '.join(cells)} | {row['memory + MB']} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
