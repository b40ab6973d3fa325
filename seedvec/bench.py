"""`seedvec bench`: recall and speed of a collection's searches over HTTP, at every k, recall and number of clients.

Runs as a process of its own (`python -m seedvec.bench`): what draws and computes is loaded for nothing else.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from seedvec.client import Client
from seedvec.collection import Collection
from seedvec.errors import SeedvecError
from seedvec.load import Load, Loaded
from seedvec.server import default_url

try:
    import numpy as np

    from seedvec.query_files import QueryFileError, holds_truth, read_queries, read_truth
except ImportError:
    np = None  # type: ignore[assignment]
try:
    from seedvec import curves
except ImportError:
    curves = None  # type: ignore[assignment]

SECONDS = 2.0
WARM_REQUESTS = 50
EXACT_AT_ONCE = 100
FORMATS = (".svg", ".png")
MISUSED = 2
Hits = list[dict[str, Any]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Measured:
    """One line of the table. expected: what the server's calibration says, where it says anything."""

    k: int
    recall: float
    clients: int
    expected: float | None
    measured: float
    qps: float
    p50_ms: float
    p99_ms: float


class Truth:
    """What the nearest of each query are: ids that were given, or the distances of exact answers."""

    def __init__(self, ids: list[list[Any]] | None, far: list[list[float]] | None) -> None:
        self._ids, self._far = ids, far

    def share(self, query: int, k: int, hits: Hits) -> float:
        """Recall of one answer. By ids, those among the first k given that are hits; by distances, hits that are no
        farther than the true k-th."""
        if self._ids is not None:
            wanted = self._ids[query][:k]
            return len({hit["id"] for hit in hits} & set(wanted)) / len(wanted)
        assert self._far is not None
        nearest = self._far[query][:k]
        near = sum(float(hit["distance"]) <= nearest[-1] for hit in hits)
        return min(near, len(nearest)) / len(nearest)


def main(arguments: list[str]) -> int:
    """Run it. Returns the exit status."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    if np is None:
        return _fail("bench needs NumPy: pip install 'seedvec[bench]'", MISUSED)
    if parsed.out is not None and curves is None:
        return _fail("drawing needs matplotlib: pip install 'seedvec[bench]', or leave out --out", MISUSED)
    try:
        _bench(parsed)
    except QueryFileError as error:
        return _fail(str(error), MISUSED)
    except (SeedvecError, OSError, ValueError) as error:
        return _fail(str(error), 1)
    return 0


def _bench(parsed: argparse.Namespace) -> None:
    queries = read_queries(parsed.queries)[: parsed.limit]
    truth_file = parsed.truth or (parsed.queries if holds_truth(parsed.queries) else None)
    with Client(parsed.url) as client:
        count = client.collection(parsed.collection).count()
        if not count:
            raise ValueError(f"collection {parsed.collection} is empty")
        if truth_file is not None:
            truth = Truth(_lists(truth_file, len(queries), min(max(parsed.k), count)), None)
        else:
            truth = Truth(None, _exact(client.collection(parsed.collection), queries, max(parsed.k)))
    done = []
    sys.stdout.write(_HEAD)
    for clients in parsed.clients:
        with Load(parsed.url, clients) as load:
            for k in parsed.k:
                for recall in parsed.recall:
                    loaded = _loaded(load, parsed, queries, k, recall)
                    done.append(_measured(loaded, truth, k, recall, clients))
                    sys.stdout.write(_line(done[-1]))
                    sys.stdout.flush()
    if parsed.out is not None:
        parsed.out.write_bytes(_drawn(parsed, done))


def _lists(path: Path, queries: int, k: int) -> list[list[Any]]:
    """Raises QueryFileError."""
    ids = read_truth(path)
    if len(ids) < queries or len(ids[0]) < k:
        found = f"{len(ids)} lists of {len(ids[0]) if ids else 0} ids"
        raise QueryFileError(f"{path} has {found}, {queries} of {k} are needed")
    return ids


def _exact(collection: Collection, queries: Any, k: int) -> list[list[float]]:
    """Distances of the true nearest, as the server's exact search finds them."""
    far: list[list[float]] = []
    for begin in range(0, len(queries), EXACT_AT_ONCE):
        part = queries[begin : begin + EXACT_AT_ONCE]
        far.extend(hits.distances for hits in collection.search(part, k, exact=True, include=[]))
    return far


def _loaded(load: Load, parsed: argparse.Namespace, queries: Any, k: int, recall: float) -> Loaded:
    path = f"/v1/collections/{quote(parsed.collection, safe='')}/search"
    requests = []
    for vector in queries.tolist():
        body = json.dumps({"vector": vector, "k": k, "recall": recall, "include": []})
        requests.append(load.request(path, body.encode()))
    load.run(requests[:WARM_REQUESTS], 0.0)
    return load.run(requests, parsed.seconds)


def _measured(loaded: Loaded, truth: Truth, k: int, recall: float, clients: int) -> Measured:
    answers = [json.loads(body) for body in loaded.bodies]
    shares = [truth.share(query, k, answer["hits"]) for query, answer in enumerate(answers)]
    p50, p99 = np.percentile(loaded.latencies_s, (50, 99)).tolist()
    qps = len(loaded.latencies_s) / loaded.elapsed_s
    expected = answers[-1]["expected_recall"]
    return Measured(k, recall, clients, expected, float(np.mean(shares)), qps, p50 * 1000, p99 * 1000)


_HEAD = (
    f"{'k':>6} {'asked':>7} {'expected':>9} {'measured':>9} {'clients':>8} {'QPS':>10} {'p50 ms':>9} {'p99 ms':>9}\n"
)


def _line(m: Measured) -> str:
    expected = "-" if m.expected is None else f"{m.expected:.4f}"
    return (
        f"{m.k:>6} {m.recall:>7g} {expected:>9} {m.measured:>9.4f} {m.clients:>8} {m.qps:>10,.1f} {m.p50_ms:>9.3f} "
        f"{m.p99_ms:>9.3f}\n"
    )


def _drawn(parsed: argparse.Namespace, done: Sequence[Measured]) -> bytes:
    drawn = []
    for clients in parsed.clients:
        for k in parsed.k:
            mine = [m for m in done if (m.k, m.clients) == (k, clients)]
            name = f"k = {k}" if len(parsed.clients) == 1 else f"k = {k}, {_clients(clients)}"
            drawn.append(curves.Curve(name, [m.p50_ms for m in mine], [m.measured for m in mine]))
    title = f"{parsed.collection}: recall over HTTP"
    if len(parsed.clients) == 1:
        title += f", {_clients(parsed.clients[0])}"
    suffix = parsed.out.suffix.removeprefix(".")
    return curves.draw(title, drawn, requested=parsed.recall, format=suffix, cost="p50 of a search, ms")


def _clients(n: int) -> str:
    return "1 client" if n == 1 else f"{n} clients"


# ---------------------------------------------------------------- the command line


def _parser() -> argparse.ArgumentParser:
    about = "Measure recall and speed of a collection's searches over HTTP."
    parser = argparse.ArgumentParser(prog="seedvec bench", description=about)
    add = parser.add_argument
    add("collection", metavar="COLLECTION")
    add("--url", default=default_url(), help="the server [SEEDVEC_URL; default: %(default)s]")
    add("--queries", required=True, type=Path, help=".npy (q x d), or .hdf5 as ann-benchmarks has it")
    add("--truth", type=Path, help=".npy or .hdf5: ids of each query's nearest; default: what the exact search finds")
    add("--k", type=_list(int, 1, 10_000), default=[10], help="one, or several: 1,10,100 [default: 10]")
    add(
        "--recall",
        type=_list(float, 0.5, 1.0),
        default=[0.9, 0.95, 0.99],
        help="to ask for [default: .9,.95,.99; 1 is the exact search]",
    )
    add("--clients", type=_list(int, 1, 1000), default=[1], help="searching at once: 1,8 [default: 1]")
    add("--seconds", type=_number(float, 0.0, 3600.0), default=SECONDS, help="of each line [default: %(default)s]")
    add("--limit", type=_number(int, 1, 10**9), help="take only the first so many queries")
    add("--out", type=_picture, help="draw the curves: .svg or .png")
    return parser


def _list(kind: Callable[[str], T], low: Any, high: Any) -> Callable[[str], list[T]]:
    number = _number(kind, low, high)
    return lambda text: [number(one) for one in text.split(",")]


def _number(kind: Callable[[str], T], low: Any, high: Any) -> Callable[[str], T]:
    def convert(text: str) -> T:
        try:
            value: Any = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} does not lie in {low} to {high}")
        converted: T = value
        return converted

    return convert


def _picture(text: str) -> Path:
    path = Path(text)
    if path.suffix not in FORMATS:
        raise argparse.ArgumentTypeError(f"{text} must end in {' or '.join(FORMATS)}")
    return path


def _fail(text: str, status: int) -> int:
    sys.stderr.write(f"seedvec: {text}\n")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
