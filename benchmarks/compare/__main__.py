"""This server beside its peers, on the same data, in the same run; `make bench` runs it.

    python -m benchmarks.compare [--data FILE.hdf5] [--rows N] [--peers chroma,lance,milvus,qdrant,plain] [--quick]

Each system is filled with the data, tuned to the recall on the queries, and asked in rounds, everyone in turn and one
at a time; ratios are taken within a round. Peers that are embedded pay for no HTTP. `--keep DIR` keeps what was filled
and tuned, and uses it again.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks import datasets, table
from benchmarks.compare import pages
from benchmarks.compare.ours import Ours
from benchmarks.compare.peer import Peer, System
from benchmarks.compare.run import Comparison
from benchmarks.compare.settings import PARTS, Setting, asked
from benchmarks.compare.tables import tables
from benchmarks.compare.work import Work
from benchmarks.options import names, numbers, shares

K = 10
PEERS = ("chroma", "lance", "milvus", "qdrant", "plain")
COLD_STARTS = 3
QUICK = {"rows": 50_000, "rounds": 2, "seconds": 1.0, "clients": [1, 8], "recalls": [0.95], "ingest_rows": 10_000}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    data = datasets.load(options.data, options.rows)
    if data.metric != "l2":
        raise SystemExit(f"{data.name}: Euclidean distances are what is compared, not {data.metric}")
    data = datasets.first(data, options.queries)
    print(f"{data.name}: {data.train.shape[0]:,} × {data.train.shape[1]}, {len(data.queries):,} queries", flush=True)
    with tempfile.TemporaryDirectory(dir=options.tmp, prefix="seedvec-compare-") as temporary:
        work = Work(Path(temporary), data, K)
        work.write(options.queries)
        place = (options.keep or work.folder) / f"{data.name}-{len(data.train)}"
        place.mkdir(parents=True, exist_ok=True)
        comparison = Comparison(work, place, options.seconds, options.ingest_rows)
        compared(comparison, systems(options, place), options)
    cores = len(os.sched_getaffinity(0))
    print("\n" + "\n".join(part.text() for part in tables(comparison.records, cores)))
    told = vars(options) | {"dataset": data.name, "data": options.data and options.data.name}
    told = {name: value for name, value in told.items() if name not in ("keep", "tmp", "python", "out", "publish")}
    out = options.out or Path(f"benchmarks/results/compare-{data.name}.json")
    table.write(out, "compare", told | {"rows": len(data.train), "dimension": data.train.shape[1]}, comparison.records)
    print(f"written: {out}", file=sys.stderr)
    if options.publish:
        pages.write(options.publish, out.parent)


def compared(comparison: Comparison, taking_part: Sequence[System], options: argparse.Namespace) -> None:
    begun = time.perf_counter()
    settings = asked(sorted(options.recalls), sorted(options.clients), options.skip)
    with ExitStack() as stack:
        able = []
        for system in taking_part:
            stack.callback(comparison.close, system)
            if comparison.prepare(system, settings):
                able.append(system)
        for number in range(options.rounds):
            passed_s = time.perf_counter() - begun
            print(f"  round {number + 1} of {options.rounds}, after {passed_s:.0f} s", file=sys.stderr, flush=True)
            comparison.round(number, able, settings)
        for system in able:
            comparison.sizes(system)
        if "cold" not in options.skip:
            for number in range(min(options.rounds, COLD_STARTS)):
                comparison.round(number, able, [Setting("cold", min(options.recalls))])


def systems(options: argparse.Namespace, place: Path) -> list[System]:
    """plain Faiss is the project's own dependency; the others have an interpreter of their own."""
    peers = [
        Peer(name, Path(sys.executable) if name == "plain" else options.python, place / f"{name}.log")
        for name in options.peers
    ]
    return [Ours(options.workers), *peers]


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="ann-benchmarks HDF5 file (default: clustered synthetic vectors)")
    parser.add_argument("--rows", type=int, help="take only the first rows")
    parser.add_argument("--queries", type=int, default=1000, help="different queries, asked in turn")
    parser.add_argument("--peers", type=names(PEERS), default=list(PEERS), help="comma separated; none: ''")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each thing asked")
    parser.add_argument("--clients", type=numbers, default=[1, 8, 32], help="comma separated")
    parser.add_argument("--recalls", type=shares, default=[0.95, 0.99], help="comma separated")
    parser.add_argument("--skip", type=names(PARTS), default=[], help=f"of {','.join(PARTS)}")
    parser.add_argument("--ingest-rows", type=int, default=10_000, help="rows that each round ingests afresh")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="of the server")
    parser.add_argument("--quick", action="store_true", help=f"where nothing else is said: {QUICK}")
    parser.add_argument("--keep", type=Path, help="where filled folders are kept between runs")
    parser.add_argument("--tmp", type=Path, help="where what is not kept is made")
    parser.add_argument("--python", type=Path, default=Path("build/peers-venv/bin/python"), help="of the peers")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/compare-<data>.json")
    parser.add_argument("--publish", type=Path, help="folder for comparison.md and its pictures")
    known, _ = parser.parse_known_args(arguments)
    if known.quick:
        parser.set_defaults(**QUICK)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
