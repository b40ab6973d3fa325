"""Recall is a number you ask for: is it kept, and at what cost? `make bench-recall` (about half an hour on two cores).

    python -m benchmarks.recall [--data FILE.hdf5 …] [--parts requests,grown,unlike,builds,speed,families] [--rows N]

requests   requested recall × k × metric × kind: measured, and the cost beside the cheapest parameters that would do
grown      the same after each step of a collection that grows; what is built anew
unlike     queries that are not like the data: before and after calibrating on them, and noticed by itself
builds     time and memory of a build beside plain Faiss building the same index
speed      the whole search path in process beside plain Faiss with re-ranking
families   where one kind of index overtakes the other: what `auto` goes by

Files are in the layout of ann-benchmarks, small before large (without: clustered synthetic vectors). The parts after
the first take the largest. Each part's rows go into a file of their own in --results; docs/recall-figures.md and
docs/recall-*.svg are made from all that are there.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from app.keeping import FEW_THREADS
from benchmarks import datasets, recall_figures, recall_plots, table
from benchmarks.recall_builds import builds
from benchmarks.recall_data import METRICS, Data, read
from benchmarks.recall_families import families
from benchmarks.recall_grown import by_tenths, evenly, grown
from benchmarks.recall_requests import requests
from benchmarks.recall_speed import speeds
from benchmarks.recall_unlike import UNLIKE, unlike
from benchmarks.served import Served

Rows = Iterator[dict[str, Any]]
PARTS = ("requests", "grown", "unlike", "builds", "speed", "families")
GRAPH_ROWS = 200_000
"""Of a larger file as many are taken where a graph is built under cosine or dot: a million take ten minutes."""
FAMILY_ROWS = (20_000, 60_000, 200_000, 1_000_000)
UNLIKE_ROWS = 200_000
TENTHS_OF = 0.5
"""Share of the rows that a collection begins with which then grows by tenths."""
JUDGING = 2_000
"""Queries that judge after each step of growing, each of which needs a truth of its own."""


class Run:
    """All parts, on the data and in the folder that the command line names."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.cache = options.cache or folder / "truths"
        self.sets = [self._read(file) for file in options.data] if options.data else [self._clustered()]
        self.large = max(self.sets, key=lambda data: len(data.train))
        self.parts: dict[str, Callable[[], Rows]] = {
            "requests": self.requests,
            "grown": self.grown,
            "unlike": self.unlike,
            "builds": self.builds,
            "speed": self.speed,
            "families": self.families,
        }

    def _read(self, file: Path) -> Data:
        return read(file, self.options.rows, self.options.queries, self.cache)

    def _clustered(self) -> Data:
        made = datasets.load(None, self.options.rows)
        return Data(made.name, made.train, made.queries[: self.options.queries], self.cache)

    def fresh(self) -> Path:
        shutil.rmtree(self.folder / "data", ignore_errors=True)
        return self.folder / "data"

    def first(self, data: Data, rows: int) -> Data:
        return replace(data, train=data.train[:rows])

    def requests(self) -> Rows:
        for data in self.sets:
            for metric in self.options.metrics:
                kinds = list(self.options.kinds)
                if "hnsw" in kinds and metric != "l2" and len(data.train) > GRAPH_ROWS:
                    kinds.remove("hnsw")
                    yield from requests(self.fresh(), self.first(data, GRAPH_ROWS), metric, ["hnsw"])
                yield from requests(self.fresh(), data, metric, kinds)

    def grown(self) -> Rows:
        data = replace(self.large, queries=self.large.queries[:JUDGING])
        n = len(data.train)
        for kind in ("ivf", "hnsw"):
            # A graph of a million takes minutes: it grows to a share of it.
            most = n if kind == "ivf" else min(n, 2 * GRAPH_ROWS)
            yield from grown(self.fresh(), data, "l2", kind, "5 × a fifth", evenly(most))
            yield from grown(self.fresh(), data, "l2", kind, "5 × 10 %", by_tenths(round(TENTHS_OF * most)))

    def unlike(self) -> Rows:
        data = self.first(self.large, UNLIKE_ROWS)
        for what in UNLIKE:
            for kind in ("ivf", "hnsw"):
                yield from unlike(self.fresh(), data, what, kind)

    def builds(self) -> Rows:
        vectors = self.folder / "vectors.npy"
        np.save(vectors, self.large.train)
        yield from builds(vectors, "ivf", self.folder, rounds=3)
        yield from builds(vectors, "hnsw", self.folder, rounds=1)

    def speed(self) -> Rows:
        folder = self.fresh()
        data = self.large
        with Served(folder) as served:
            served.collection.create(data.train.shape[1], metric="l2", id_type="int", index={"kind": "flat"})
            served.fill(data.train, 0)
            served.ready()
        for kind in ("ivf", "hnsw"):
            with Served(folder) as served:
                served.index(kind, 0.95)
            for requested in (0.90, 0.95, 0.99):
                yield speeds(folder, data, "l2", requested)

    def families(self) -> Rows:
        for data in self.sets:
            sizes = [n for n in FAMILY_ROWS if n <= len(data.train)]
            for rows in sizes or [len(data.train)]:
                for metric in self.options.metrics:
                    if rows <= GRAPH_ROWS or metric == "l2":
                        yield from families(self.first(data, rows), metric, self.folder)


def main() -> None:
    options = parsed()
    if FEW_THREADS.items() - os.environ.items():
        # As the server's own processes; it has to stand in the environment before NumPy and Faiss are imported.
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.recall", *sys.argv[1:]], os.environ | FEW_THREADS)
    with tempfile.TemporaryDirectory(dir=options.tmp, prefix="seedvec-recall-") as folder:
        run = Run(options, Path(folder))
        # Without the paths of this machine.
        told = {name: getattr(options, name) for name in ("rows", "queries", "metrics", "kinds")}
        told["data"] = [data.name for data in run.sets]
        for name in options.parts:
            begun = time.perf_counter()
            rows = []
            for row in run.parts[name]():
                rows.append(row)
                print(" ".join(f"{key}={table.text(value)}" for key, value in row.items()), flush=True)
                # What was measured stays, whatever becomes of the rest.
                table.write(options.results / f"recall-{name}.json", f"recall {name}", told, rows)
            print(f"{name}: {time.perf_counter() - begun:.0f} s\n{table.show(rows)}\n", flush=True)
    recall_figures.write(options.docs, options.results)
    recall_plots.write(options.docs, options.results)
    print(f"written: {options.docs}/recall-*", file=sys.stderr)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", default=[], help="HDF5 files")
    parser.add_argument("--rows", type=int, help="take only the first rows of each")
    parser.add_argument("--queries", type=int, default=10_000, help="take so many of each")
    parser.add_argument("--parts", type=words, default=PARTS, help="comma separated")
    parser.add_argument("--metrics", type=words, default=METRICS, help="comma separated")
    parser.add_argument("--kinds", type=words, default=("hnsw", "ivf", "auto"), help="comma separated")
    parser.add_argument("--tmp", type=Path, help="where data folders are made")
    parser.add_argument("--cache", type=Path, help="folder that keeps the exact answers for the next run")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"), help="for the JSON files")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="for the tables and the plots")
    return parser.parse_args()


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


if __name__ == "__main__":
    main()
