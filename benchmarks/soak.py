"""Mixed load for a long time: every answer is judged, and memory, files, descriptors and disk must stay bounded.

    python -m benchmarks.soak [--minutes 20] [--clients 5] [--rows 50000] [--rate 20] [--plot docs/soak.png]

A real server with two workers; each client, a process, keeps its share of the rows in churn in two collections (an
HNSW graph over float32, inverted lists over float16) and now and then makes and drops a third. Exit status 1: an
answer was wrong or a bound is broken.
"""

import argparse
import multiprocessing
import queue
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from multiprocessing.context import SpawnProcess
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import soak_client, table
from benchmarks.soak_client import Kept, Order, Report
from benchmarks.soak_watch import BOUNDS, SHORTEST_S, Sample, Watch, draw, percentiles, quarters
from tests.harness import Server

DIMENSION = 32
EVERY_S = 5.0
"""Between two samples."""
SAY_EVERY_S = 30.0
END_S = 300.0
"""A client may take so long to look at all of its rows once the time is over."""
LEAST_RECALL = 0.93
"""Of what the approximate searches promise (0.95 on average), measured on some thousands of queries."""
COLLECTIONS = (Kept("graph", "l2", "float32", "hnsw"), Kept("lists", "cosine", "float16", "ivf"))
# Seals every 500 rows, and so merges, all the time.
SETTINGS = {"SEEDVEC_PENDING_ROWS": "2000", "SEEDVEC_SEAL_QUIET_S": "0.5", "SEEDVEC_INDEX_MIN_ROWS": "2000"}


class Soak:
    """One run: clients started, reports gathered, samples taken."""

    def __init__(self, server: Server, options: argparse.Namespace) -> None:
        self.server, self.options = server, options
        self.context = multiprocessing.get_context("spawn")
        self.reports: Queue[Report] = self.context.Queue()
        self.watch = Watch(server)
        self.running: set[int] = set()
        self.filling: set[int] = set()
        self.faults: list[str] = []
        self.reads_s: list[float] = []
        self.writes_s: list[float] = []
        self.lately: tuple[list[float], list[float]] = ([], [])
        self.recalls: list[float] = []
        self.shares: list[float] = []
        self.rows_written = self.refusals = 0

    def run(self) -> None:
        for kept in COLLECTIONS:
            self.server.collection(kept.name).create(
                DIMENSION, metric=kept.metric, dtype=kept.dtype, id_type="int", index={"kind": kept.kind}
            )
        processes = self.begun()
        said = 0.0
        try:
            while self.running and not self.faults:
                self.gather(EVERY_S, processes)
                if self.filling or time.monotonic() > self.end:
                    continue
                sample = self.watch.sample(*self.lately)
                self.lately = ([], [])
                if sample.at_s - said >= SAY_EVERY_S:
                    said = sample.at_s
                    self.say(sample)
        finally:
            for process in processes.values():
                if self.faults:
                    process.terminate()
                process.join(10)

    def begun(self) -> dict[int, SpawnProcess]:
        o = self.options
        self.end = time.monotonic() + 60 * o.minutes
        processes = {}
        for owner in range(o.clients):
            rows = o.rows // o.clients // len(COLLECTIONS)
            order = Order(self.server.port, owner, DIMENSION, rows, o.rate, self.end, COLLECTIONS)
            processes[owner] = self.context.Process(target=soak_client.run, args=(order, self.reports), daemon=True)
            processes[owner].start()
        self.running, self.filling = set(processes), set(processes)
        return processes

    def gather(self, seconds: float, processes: dict[int, SpawnProcess]) -> None:
        """Takes what the clients report for so long."""
        until = time.monotonic() + seconds
        while self.running and (left := until - time.monotonic()) > 0:
            try:
                self.take(self.reports.get(timeout=left))
            except queue.Empty:
                break
        self.faults += [
            f"client {n} died" for n in self.running if not processes[n].is_alive() and self.reports.empty()
        ]
        if time.monotonic() > self.end + END_S:
            self.faults.append("the clients do not come to an end")

    def take(self, report: Report) -> None:
        self.lately[0].extend(report.reads_s)
        self.lately[1].extend(report.writes_s)
        self.reads_s += report.reads_s
        self.writes_s += report.writes_s
        self.recalls += report.recalls
        self.shares += report.shares
        self.rows_written += report.rows_written
        self.refusals += report.refusals
        if report.ready:
            self.filling.discard(report.owner)
        if report.done:
            self.running.discard(report.owner)
        if report.fault:
            self.faults.append(report.fault)

    def say(self, s: Sample) -> None:
        states = [self.server.client.get(f"/v1/collections/{kept.name}").json() for kept in COLLECTIONS]
        counts = " + ".join(f"{state['count']:,} {state['index']['state']}" for state in states)
        print(
            f"{s.at_s / 60:5.1f} min: rows {counts}; {s.answers_per_s:.0f} answers/s, reads {s.read_p50_ms:.1f} / "
            f"{s.read_p99_ms:.0f} ms, writes {s.write_p50_ms:.1f} / {s.write_p99_ms:.0f} ms; pss {s.pss_mib:.0f} "
            f"(anonymous {s.anonymous_mib:.0f}) MiB, {s.descriptors:.0f} descriptors, {s.files:.0f} files, disk "
            f"{s.disk_mib:.0f} MiB (WAL {s.wal_mib:.1f}); so far {len(self.watch.segments)} segments, "
            f"{len(self.watch.indexes)} indexes",
            flush=True,
        )

    # -- the verdict

    def broken(self) -> list[str]:
        samples = self.watch.samples
        if not samples:
            return ["no sample was taken"]
        found = [why for why in (bound.broken(samples) for bound in BOUNDS) if why]
        for name, values in (("within filters", self.recalls), ("over all rows", self.shares)):
            if values and float(np.mean(values)) < LEAST_RECALL:
                found.append(f"recall {name} is {np.mean(values):.3f} over {len(values)} approximate searches")
        return found

    def figures(self) -> dict[str, Any]:
        reads, writes = percentiles(self.reads_s), percentiles(self.writes_s)
        return {
            "minutes": self.options.minutes,
            "answers_judged": len(self.reads_s) + len(self.writes_s),
            "rows_written": self.rows_written,
            "segments_made": len(self.watch.segments),
            "indexes_built": len(self.watch.indexes),
            "approximate_searches": len(self.recalls) + len(self.shares),
            "recall_within_filters": mean(self.recalls),
            "recall_over_all_rows": mean(self.shares),
            "refusals_repeated": self.refusals,
            "read_p50_ms": reads[0],
            "read_p99_ms": reads[1],
            "write_p50_ms": writes[0],
            "write_p99_ms": writes[1],
        }


def mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def halves(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """What the bounds are judged by."""
    rows = []
    for bound in BOUNDS:
        values = np.array([getattr(s, bound.name) for s in samples])
        third, last = quarters(values)
        rows.append({"figure": bound.name, "3rd quarter": third, "4th quarter": last, "most": float(values.max())})
    return rows


def main() -> int:
    options = parsed()
    # Leaving it stops the server, asserts that no child is left and that the log has no stack trace, and checks every
    # byte of the folder.
    with (
        tempfile.TemporaryDirectory(dir=options.tmp, prefix="seedvec-soak-") as folder,
        Server(Path(folder) / "data", workers=2, env=SETTINGS) as server,
    ):
        soak = Soak(server, options)
        soak.run()
        if soak.faults:
            print(f"--- the server's log ends with\n{server.log_tail()}", file=sys.stderr)
    figures, samples = soak.figures(), soak.watch.samples
    print("\n" + table.show([{"figure": name, "": value} for name, value in figures.items()]))
    if samples:
        print("\n" + table.show(halves(samples)))
        title = (
            f"{options.clients} clients, {options.rows:,} live rows × {DIMENSION}, 2 workers: "
            f"{figures['answers_judged']:,} answers judged, {len(soak.faults)} wrong"
        )
        draw(samples, title, options.plot)
        table.write(options.out, "soak", vars(options), [figures, *halves(samples), *map(asdict, samples)])
        print(f"\nwritten: {options.plot}, {options.out}")
        if samples[-1].at_s < SHORTEST_S:
            print(f"under {SHORTEST_S / 60:g} minutes growth is not judged")
    failures = soak.faults + soak.broken()
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    return 1 if failures else 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--clients", type=int, default=5)
    parser.add_argument("--rows", type=int, default=50_000, help="live rows, of all clients and collections together")
    parser.add_argument("--rate", type=float, default=20, help="requests a second of each client, at most")
    parser.add_argument("--tmp", type=Path, help="where the data folder is made")
    parser.add_argument("--plot", type=Path, default=Path("docs/soak.png"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/soak.json"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
