"""docs/recall-figures.md: the tables of `make bench-recall`, made from its JSON."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
HEAD = """# Recall: figures

Made by `make bench-recall` (`benchmarks/recall.py`); the figures themselves are in `benchmarks/results/recall-*.json`.
Recall is judged by an oracle of its own (`benchmarks/oracle.py`) on queries that are not in the data. Times are of the
processor, one query on one thread, the whole search path in process. [indexes.md](indexes.md) says what follows.
"""


def write(docs: Path, results: Path) -> None:
    """results: the folder with recall-<part>.json; parts that were not measured are left out."""
    text = [HEAD]
    for part, render in PARTS.items():
        file = results / f"recall-{part}.json"
        if file.exists():
            record = json.loads(file.read_text())
            text.append(render(record["rows"]) + f"\n\n{_ran(record)}\n")
    (docs / "recall-figures.md").write_text("\n".join(text))


def _ran(record: Row) -> str:
    machine = record["machine"]
    return f"{record['at'][:10]}, {machine['cores']} cores, load {machine['load'][0]:.1f} at the end."


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Callable[[Row], str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(show(dict(row)) for show in columns.values()) + " |" for row in rows]
    return "\n".join(lines)


def _of(name: str) -> Callable[[Row], str]:
    return lambda row: _text(row.get(name))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 2 else f"{value:.2f}" if abs(value) < 10 else f"{value:,.0f}"
    if isinstance(value, dict):
        return " ".join(f"{name} {number}" for name, number in value.items())
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _chosen(row: Row) -> str:
    return "exact" if row["exact"] else _text(row["chosen"])


def _missed(rows: Sequence[Row]) -> str:
    below = [row for row in rows if "below" in row["missed"]]
    dear = [row for row in rows if "dear" in row["missed"]]
    return (
        f"{len(rows)} cells. Below the request by more than 0.005: {len(below)}. "
        f"More than twice the cost of the cheapest that would have done: {len(dear)}."
    )


def _requests(rows: Sequence[Row]) -> str:
    columns = {
        "data": _of("data"),
        "metric": _of("metric"),
        "kind": _of("kind"),
        "k": _of("k"),
        "requested": lambda row: f"{row['requested']:g}",
        "measured": _of("measured"),
        "expected": _of("expected"),
        "chosen": _chosen,
        "µs": _of("us"),
        "cheapest that would do": _of("cheapest"),
        "its µs": _of("cheapest_us"),
        "times": _of("times"),
        "missed": _of("missed"),
    }
    became = {(r["data"], r["metric"], r["kind"], r["became"], round(r["build_s"], 1)): None for r in rows}
    kinds = [dict(zip(("data", "metric", "kind", "became", "build_s"), key, strict=True)) for key in became]
    built = table(
        kinds,
        {name: _of(name) for name in ("data", "metric", "kind", "became")}
        | {"s from request to ready": _of("build_s")},
    )
    head = "## Requested and measured\n\n![](recall-requests.svg)\n"
    return f"{head}\n{_missed(rows)}\n\n{built}\n\n{table(rows, columns)}"


def _grown(rows: Sequence[Row]) -> str:
    columns = {
        name: _of(name)
        for name in ("data", "kind", "steps", "rows", "segments", "built anew", "extended", "ready_s", "k")
    } | {
        "requested": lambda row: f"{row['requested']:g}",
        "measured": _of("measured"),
        "expected": _of("expected"),
        "missed": _of("missed"),
    }
    head = "## Grown in steps\n\n![](recall-grown.svg)\n"
    note = (
        "`built anew`: rows of indexes built from scratch in that step; `extended`: rows put into one that was there."
    )
    below = sum("below" in row["missed"] for row in rows)
    return (
        f"{head}\n{note}\n{len(rows)} cells. Below the request by more than 0.005: {below}.\n\n{table(rows, columns)}"
    )


def _unlike(rows: Sequence[Row]) -> str:
    columns = {name: _of(name) for name in ("data", "rows", "metric", "kind", "queries", "when")} | {
        "s": _of("seconds"),
        "requested": lambda row: f"{row['requested']:g}",
        "measured": _of("measured"),
        "expected": _of("expected"),
        "calibrated_on": _of("calibrated_on"),
    }
    return f"## Queries unlike the data (k = 10)\n\n{table(rows, columns)}"


def _all(title: str) -> Callable[[Sequence[Row]], str]:
    def render(rows: Sequence[Row]) -> str:
        names = list(dict.fromkeys(name for row in rows for name in row))
        return f"## {title}\n\n{table(rows, {name: _of(name) for name in names})}"

    return render


PARTS: dict[str, Callable[[Sequence[Row]], str]] = {
    "requests": _requests,
    "grown": _grown,
    "unlike": _unlike,
    "builds": _all("Builds, beside plain Faiss building the same index"),
    "speed": _all("The whole search path in process, beside plain Faiss with re-ranking at equal recall (k = 10)"),
    "families": _all("Where one kind overtakes the other (k = 10)"),
}
