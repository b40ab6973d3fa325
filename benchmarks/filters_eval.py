"""How long a filter takes on the columns of one segment, and what the columns cost: in process, without a server.

    python -m benchmarks.filters_eval [--rows 1000000] [--repeat 9]

Five fields a row: a category of 20, a year, a price and an article number (both different in every row), two tags.
Beside each filter stands the same question put to plain NumPy arrays by hand, where there is an obvious way.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from app.engine.filters.columns import evaluate
from app.engine.filters.parse import parse_value
from benchmarks import table
from storage.columns import Columns, ColumnsBuilder, check, open_columns, write

SLICE = 10_000
CATEGORIES, YEARS, TAGS = 20, (1900, 2026), 50
KIB = 1024


class Rows:
    """The same values as documents, a slice at a time, and as arrays. skus: (n,) S13; tags: (n, 2)."""

    def __init__(self, n: int) -> None:
        rng = np.random.default_rng(1)
        self.n = n
        self.categories = rng.integers(0, CATEGORIES, n, dtype=np.uint8)
        self.years = rng.integers(*YEARS, n)
        self.prices = rng.random(n) * 100
        self.numbers = rng.choice(10**9, n, replace=False)
        self.tags = rng.integers(0, TAGS, (n, 2), dtype=np.uint8)
        self.skus = np.array([b"sku-%09d" % number for number in self.numbers.tolist()])

    def documents(self, first: int) -> list[bytes | None]:
        part = slice(first, first + SLICE)
        columns = (self.categories, self.years, self.prices, self.skus, self.tags)
        return [
            b'{"category":"c%d","year":%d,"price":%s,"sku":"%s","tags":["t%d","t%d"]}'
            % (category, year, repr(price).encode(), sku, *tags)
            for category, year, price, sku, tags in zip(*(c[part].tolist() for c in columns), strict=True)
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=9, help="the best of so many is told")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/filters_eval.json"))
    options = parser.parse_args()
    rows = Rows(options.rows)
    with tempfile.TemporaryDirectory(prefix="seedvec-columns-") as folder:
        costs, columns = measured_columns(rows, Path(folder) / "columns.npz")
        print(table.show(costs))
        filters = [measured_filter(columns, options.repeat, *case) for case in cases(rows)]
    print("\n" + table.show(filters))
    table.write(options.out, "filters_eval", vars(options), [*costs, *filters])
    print(f"written: {options.out}", file=sys.stderr)


def measured_columns(rows: Rows, path: Path) -> tuple[list[dict[str, Any]], Columns]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    builder, reading = ColumnsBuilder(rows.n), 0.0
    for first in range(0, rows.n, SLICE):
        documents = rows.documents(first)
        begun = time.process_time()
        builder.add(documents)
        reading += time.process_time() - begun
    begun = time.process_time()
    built = builder.finish()
    finishing = time.process_time() - begun
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * KIB
    memory = built.nbytes
    begun = time.perf_counter()
    size, _ = write(path, built)
    writing = time.perf_counter() - begun
    opening, columns = best(5, lambda: open_columns(path))
    checking, _ = best(1, lambda: check(columns))
    figures: dict[str, Any] = {
        "read, s of one core": reading,
        "finish, s of one core": finishing,
        "both, µs a row": (reading + finishing) / rows.n * 1e6,
        "most memory while building, MiB": peak / 2**20,
        "columns, MiB": memory / 2**20,
        "bytes on disk": size,
        "write and hash, s": writing,
        "open, ms": opening * 1e3,
        "check every column, ms": checking * 1e3,
    }
    return [{"columns": name, "": figure} for name, figure in figures.items()], columns


def best(repeat: int, run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of one core in the quickest run, and what it gave: all of this runs on one thread."""
    quickest, result = float("inf"), None
    for _ in range(repeat):
        begun = time.process_time()
        result = run()
        quickest = min(quickest, time.process_time() - begun)
    return quickest, result


def measured_filter(
    columns: Columns, repeat: int, name: str, json: dict[str, Any], by_hand: Callable[[], Any] | None
) -> dict[str, Any]:
    filter = parse_value(json)
    seconds, mask = best(repeat, lambda: evaluate(filter, columns))
    row = {"filter": name, "ms": seconds * 1e3, "rows": int(mask.sum()), "NumPy by hand, ms": None}
    if by_hand is not None:
        seconds, wanted = best(min(repeat, 3), by_hand)
        if not np.array_equal(mask, wanted):
            raise SystemExit(f"{name}: the filter and NumPy differ")
        row["NumPy by hand, ms"] = seconds * 1e3
    return row


def cases(rows: Rows) -> list[tuple[str, dict[str, Any], Callable[[], Any] | None]]:
    r, rng = rows, np.random.default_rng(2)
    many = min(100_000, r.n)
    skus = np.sort(r.skus[rng.choice(r.n, many, replace=False)])
    prices = np.sort(r.prices[rng.choice(r.n, many, replace=False)])
    category = {"category": "c3"}
    decade = {"year": {"$gte": 1950, "$lt": 1960}}

    def in_decade() -> Any:
        return (r.years >= 1950) & (r.years < 1960)

    def tagged(tag: int) -> Any:
        return (r.tags == tag).any(axis=1)

    return [
        ("category = c3", category, lambda: r.categories == 3),
        ("1950 ≤ year < 1960", decade, in_decade),
        ("category and year", category | decade, lambda: (r.categories == 3) & in_decade()),
        ("category or year", {"$or": [category, decade]}, lambda: (r.categories == 3) | in_decade()),
        ("not category", {"category": {"$ne": "c3"}}, lambda: r.categories != 3),
        ("price < 10 (all distinct)", {"price": {"$lt": 10}}, lambda: r.prices < 10),
        (
            "category in 10",
            {"category": {"$in": [f"c{i}" for i in range(1, CATEGORIES, 2)]}},
            lambda: r.categories % 2 == 1,
        ),
        ("year in 10", {"year": {"$in": list(range(1900, 2000, 10))}}, lambda: np.isin(r.years, range(1900, 2000, 10))),
        ("price in 100,000", {"price": {"$in": prices.tolist()}}, lambda: np.isin(r.prices, prices)),
        ("sku in 10", {"sku": {"$in": [s.decode() for s in skus[:10].tolist()]}}, lambda: np.isin(r.skus, skus[:10])),
        ("sku in 100,000", {"sku": {"$in": [s.decode() for s in skus.tolist()]}}, lambda: np.isin(r.skus, skus)),
        ("sku begins with sku-12", {"sku": {"$prefix": "sku-12"}}, lambda: np.char.startswith(r.skus, b"sku-12")),
        ("sku contains 12345", {"sku": {"$contains": "12345"}}, lambda: np.char.find(r.skus, b"12345") >= 0),
        ("sku contains 7 (most do)", {"sku": {"$contains": "7"}}, lambda: np.char.find(r.skus, b"7") >= 0),
        ("category contains 1", {"category": {"$contains": "1"}}, None),
        ("sku exists", {"sku": {"$exists": True}}, None),
        ("tags: t7", {"tags": "t7"}, lambda: tagged(7)),
        ("tags: all of t7, t8", {"tags": {"$all": ["t7", "t8"]}}, lambda: tagged(7) & tagged(8)),
        ("tags: any of 10", {"tags": {"$in": [f"t{i}" for i in range(10)]}}, lambda: (r.tags < 10).any(axis=1)),
        ("tags: 2 of them", {"tags": {"$size": 2}}, None),
    ]


if __name__ == "__main__":
    main()
