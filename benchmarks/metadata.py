"""What filters cost: columns on disk and in memory, a filter's evaluation, delete and patch by filter.

    python -m benchmarks.metadata [--rows 1000000] [--dimension 16] [--batch 50000]

A fresh folder and a real server, rows with five fields of metadata loaded over HTTP. The collection has no index:
what is measured is metadata alone. Counts are compared with NumPy's over the same values.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from benchmarks import memory, table
from tests.harness import Server
from tests.processes import holder_of
from tests.wire import Collection

NAME = "bench"
CATEGORIES, SIZES, TAGS, MOST_TAGS = 20, 1000, 50, 4
ASKED = 50
"""Filters, of which the median counts."""
POLL_S = 0.1
SETTLED_S = 15.0
"""The folder is as small as it gets when it has not shrunk for so long."""
SETTLE_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Rows:
    """Five fields of n rows: a category, a small integer, a float, an all distinct string (of `serial`), some tags."""

    vectors: NDArray[np.float32]
    category: NDArray[np.int64]
    size: NDArray[np.int64]
    price: NDArray[np.float64]
    serial: NDArray[np.int64]
    tags: list[list[str]]

    @staticmethod
    def draw(n: int, dimension: int) -> "Rows":
        rng = np.random.default_rng(1)
        words = [f"tag-{i}" for i in range(TAGS)]
        counts, drawn = rng.integers(0, MOST_TAGS + 1, n).tolist(), rng.integers(0, TAGS, (n, MOST_TAGS)).tolist()
        return Rows(
            rng.standard_normal((n, dimension), np.float32),
            rng.integers(0, CATEGORIES, n),
            rng.integers(0, SIZES, n),
            np.round(rng.random(n), 6),
            rng.permutation(n),
            [[words[tag] for tag in row[:count]] for count, row in zip(counts, drawn, strict=True)],
        )

    def bodies(self, batch: int) -> Iterator[bytes]:
        category, size, price = self.category.tolist(), self.size.tolist(), self.price.tolist()
        for begin in range(0, len(category), batch):
            part = range(begin, min(begin + batch, len(category)))
            metadata = [
                {
                    "category": f"category {category[i]}",
                    "size": size[i],
                    "price": price[i],
                    "serial": f"serial-{self.serial[i]:09d}",
                    "tags": self.tags[i],
                }
                for i in part
            ]
            body = {"ids": list(part), "vectors": self.vectors[part.start : part.stop], "metadata": metadata}
            yield orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)

    def two_conditions(self, number: int) -> tuple[dict[str, Any], NDArray[np.bool_]]:
        """A filter of a category and a range of prices, another for each number, and what it matches."""
        category, low = number % CATEGORIES, (number % 97) / 200
        filter = {"category": f"category {category}", "price": {"$gte": low, "$lt": low + 0.4}}
        return filter, (self.category == category) & (self.price >= low) & (self.price < low + 0.4)


class Bench:
    def __init__(self, server: Server, rows: Rows, batch: int) -> None:
        self.server, self.rows, self.batch = server, rows, batch
        self.figures: list[dict[str, Any]] = []
        self.alive = np.ones(len(rows.size), np.bool_)
        self.number = 0

    def note(self, what: str, value: float, unit: str, processor_s: float | None = None) -> None:
        self.figures.append({"figure": what, "value": value, "unit": unit, "processor s": processor_s})
        print(f"{what}: {value:,.4g} {unit}", "" if processor_s is None else f"({processor_s:.2f} s)", flush=True)

    def timed(self, what: str, act: Callable[[], Any]) -> Any:
        """Beside the time on the clock that of the workers' processors, which other work on the machine is not in."""
        begun, used = time.perf_counter(), self.processor_s()
        answer = act()
        self.note(what, time.perf_counter() - begun, "s", self.processor_s() - used)
        return answer

    def processor_s(self) -> float:
        """Of all workers so far."""
        total = 0
        for pid in self.server.children("app.worker"):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")

    # ---------------------------------------------------------------- asking

    def at_each(self) -> list[Collection]:
        """The collection over a connection to each worker."""
        found: dict[int, Collection] = {}
        while len(found) < self.server.workers:
            wire = self.server.wire()
            wire.ok(200, "GET", "/livez")
            pid = holder_of(self.server.port, wire.connect(), self.server.children("app.worker"))
            if pid is not None:
                found.setdefault(pid, Collection(wire, NAME))
        return list(found.values())

    def count(self, c: Collection, filter: dict[str, Any], matching: NDArray[np.bool_]) -> int:
        answer: int = c.wire.ok(200, "POST", f"{c.path}/count", {"filter": filter})["count"]
        wanted = int(np.count_nonzero(matching & self.alive))
        if answer != wanted:
            raise SystemExit(f"{filter}: {answer} match, {wanted} should")
        return answer

    def fresh(self) -> tuple[dict[str, Any], NDArray[np.bool_]]:
        """A filter that nobody has asked yet."""
        self.number += 1
        return self.rows.two_conditions(self.number)

    def filter_ms(self, c: Collection, filter: dict[str, Any]) -> float:
        answer = c.search(self.rows.vectors[0], filter=filter, explain=True, include=[])
        if len(answer["hits"]) != min(10, answer["explain"]["matching"]):
            raise SystemExit(f"{filter}: {len(answer['hits'])} hits")
        ms: float = answer["explain"]["filter_ms"]
        return ms

    def evaluation(self, c: Collection, what: str) -> None:
        self.note(f"{what}, first of all", self.filter_ms(c, self.fresh()[0]), "ms")
        self.note(f"{what}, not asked before", statistics.median(self.fresh_ms(c) for _ in range(ASKED)), "ms")
        again = self.fresh()[0]
        self.filter_ms(c, again)
        self.note(f"{what}, asked before", statistics.median(self.filter_ms(c, again) for _ in range(ASKED)), "ms")

    def fresh_ms(self, c: Collection) -> float:
        filter, matching = self.fresh()
        took = self.filter_ms(c, filter)
        self.count(c, filter, matching)
        return took

    # ---------------------------------------------------------------- the disk

    @property
    def folder(self) -> Path:
        (catalogue,) = self.server.data_dir.glob("c/*/catalog.db")
        return catalogue.parent

    def mib(self, pattern: str) -> float:
        """Files that go meanwhile are left out."""
        total = 0
        for file in self.folder.glob(pattern):
            try:
                total += file.stat().st_size
            except FileNotFoundError:
                continue
        return total / 2**20

    def described(self) -> bool:
        """Every segment has its columns file."""
        names = [file.name for file in (self.folder / "segments").iterdir()]
        segments = [name.removesuffix(".h5") for name in names if name.endswith(".h5")]
        with_columns = {name.partition(".")[0] for name in names if name.endswith(".npz")}
        return all(name in with_columns for name in segments)

    def wait(self, done: Callable[[], bool]) -> None:
        end = time.monotonic() + SETTLE_TIMEOUT_S
        while not done():
            if time.monotonic() > end:
                raise SystemExit("it does not come to rest")
            time.sleep(POLL_S)

    def settle(self) -> None:
        """Until merges are done and the folder does not shrink any more. The time to find that out is not counted."""
        least, since = self.mib("**/*"), time.monotonic()
        begun = since
        while time.monotonic() - since < SETTLED_S:
            time.sleep(POLL_S)
            now = self.mib("**/*")
            if now != least:
                least, since = now, time.monotonic()
            if time.monotonic() - begun > SETTLE_TIMEOUT_S:
                raise SystemExit("the folder does not come to rest")
        self.note("  until merged, and the space given back", since - begun, "s")


def load(bench: Bench) -> None:
    c = bench.server.collection(NAME)
    c.create(bench.rows.vectors.shape[1], metric="l2", id_type="int", index={"kind": "flat"})
    sending = 0.0
    for body in bench.rows.bodies(bench.batch):
        begun = time.perf_counter()
        while (answer := c.wire.call("POST", f"{c.path}/vectors", body, Content_Type="application/json")).status == 429:
            time.sleep(0.2)
        sending += time.perf_counter() - begun
        assert answer.status == 201, answer
    bench.note("load, acknowledged", sending, "s")
    begun = time.perf_counter()
    bench.wait(bench.described)
    bench.note("columns of all segments written, after the last write", time.perf_counter() - begun, "s")
    bench.settle()
    bench.wait(bench.described)
    bench.note("segments", c.describe()["segments"], "")
    bench.note("columns on disk", bench.mib("segments/*.npz"), "MiB")
    bench.note("vectors on disk", bench.mib("segments/*.h5"), "MiB")
    bench.note("catalogue on disk (ids, metadata)", bench.mib("catalog.db*"), "MiB")


def private_mib(bench: Bench) -> float:
    """Of one worker."""
    return memory.measure(bench.server.children("app.worker")).anonymous / bench.server.workers / 2**20


def ask(bench: Bench) -> None:
    """After a restart: nothing is in memory but what was mapped."""
    bench.server.stop()
    begun = time.perf_counter()
    bench.server.start()
    bench.note("restart: ready after", time.perf_counter() - begun, "s")
    first = bench.server.collection(NAME)
    bench.count(first, *bench.fresh())
    bench.note("restart: first filtered answer after", time.perf_counter() - begun, "s")
    both = bench.at_each()
    for c in both:
        c.search(bench.rows.vectors[0])
        bench.count(c, *bench.fresh())
    after_one = private_mib(bench)
    bench.note("private memory of a worker after its first filter", after_one, "MiB")
    bench.evaluation(both[1], "two conditions")
    serial, tag = int(bench.rows.serial[7]), "tag-7"
    bench.timed(
        "count: one distinct string",
        lambda: bench.count(both[0], {"serial": f"serial-{serial:09d}"}, bench.rows.serial == serial),
    )
    tagged = np.array([tag in tags for tags in bench.rows.tags])
    bench.timed("count: one tag of an array", lambda: bench.count(both[0], {"tags": tag}, tagged))
    filter, matching = bench.fresh()
    bench.timed("count: two conditions", lambda: bench.count(both[0], filter, matching))
    filter = bench.fresh()[0]
    page = bench.timed(
        "list: 100 that match two conditions",
        lambda: both[0].wire.ok(200, "POST", f"{both[0].path}/vectors/list", {"filter": filter, "limit": 100}),
    )
    assert len(page["items"]) == 100
    for c in both:
        bench.evaluation(c, "two conditions")
    bench.note("private memory of a worker after 150 filtered searches", private_mib(bench), "MiB")


def patch(bench: Bench) -> None:
    both = bench.at_each()
    rows = bench.rows
    matching = (rows.size < SIZES // 10) & bench.alive
    body = {"filter": {"size": {"$lt": SIZES // 10}}, "metadata": {"sale": True}}
    answer = bench.timed(
        f"patch by filter of {np.count_nonzero(matching):,}: acknowledged",
        lambda: both[0].wire.ok(200, "POST", f"{both[0].path}/vectors/patch", body),
    )
    assert answer["patched"] == np.count_nonzero(matching), answer
    for c in both:
        bench.timed("  first count of them", lambda c=c: bench.count(c, {"sale": True}, matching))  # type: ignore[misc]
    bench.evaluation(both[0], "  two conditions meanwhile")
    bench.settle()
    bench.evaluation(both[0], "  two conditions thereafter")
    bench.count(both[1], {"sale": True}, matching)


def delete(bench: Bench) -> None:
    both = bench.at_each()
    before = bench.mib("**/*")
    matching = bench.rows.price < 0.5
    filter = {"price": {"$lt": 0.5}}
    answer = bench.timed(
        f"delete by filter of {np.count_nonzero(matching):,}: acknowledged",
        lambda: both[0].wire.ok(200, "POST", f"{both[0].path}/vectors/delete", {"filter": filter}),
    )
    assert answer["deleted"] == np.count_nonzero(matching), answer
    bench.alive &= ~matching
    for c in both:
        bench.timed("  first count of the rest", lambda c=c: bench.count(c, {"price": {"$gte": 0}}, bench.alive))  # type: ignore[misc]
    bench.note("  disk before", before, "MiB")
    bench.note("  disk at the acknowledgement", bench.mib("**/*"), "MiB")
    bench.settle()
    bench.note("  disk after the merge", bench.mib("**/*"), "MiB")
    bench.note("  catalogue after the merge", bench.mib("catalog.db*"), "MiB")
    for c in both:
        bench.count(c, *bench.fresh())


def main() -> None:
    options = parsed()
    rows = Rows.draw(options.rows, options.dimension)
    with (
        tempfile.TemporaryDirectory(dir=options.tmp, prefix="seedvec-metadata-") as folder,
        Server(Path(folder) / "data", workers=options.workers) as server,
    ):
        bench = Bench(server, rows, options.batch)
        load(bench)
        ask(bench)
        patch(bench)
        delete(bench)
    print("\n" + table.show(bench.figures))
    table.write(options.out, "metadata", vars(options), bench.figures)
    print(f"written: {options.out}", file=sys.stderr)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=16)
    parser.add_argument("--batch", type=int, default=50_000, help="rows a request")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tmp", type=Path, help="where the data folder is made")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/metadata.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
