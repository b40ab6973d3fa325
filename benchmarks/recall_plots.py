"""docs/recall-*.svg: what the benchmark of recall found, drawn from its JSON. Files that are not there are left out."""

import json
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from benchmarks.recall_requests import BELOW, DEARER

Rows = list[dict[str, Any]]
COLOURS = {"hnsw": "#0072b2", "ivf": "#d55e00", "auto": "#009e73"}
MARKS = {"l2": "o", "cosine": "s", "dot": "^"}
# The same picture from the same figures, byte for byte.
matplotlib.rcParams["svg.hashsalt"] = "seedvec"
matplotlib.rcParams["svg.fonttype"] = "none"


def write(docs: Path, results: Path) -> None:
    """results: the folder with recall-<part>.json."""
    for part, draw in (("requests", _requests), ("grown", _grown), ("families", _families)):
        rows = read(results, part)
        if rows:
            figure = draw(rows)
            FigureCanvasSVG(figure)
            figure.savefig(docs / f"recall-{part}.svg", metadata={"Date": None})


def read(results: Path, part: str) -> Rows:
    file = results / f"recall-{part}.json"
    rows: Rows = json.loads(file.read_text())["rows"] if file.exists() else []
    return rows


def _requests(rows: Rows) -> Figure:
    """Above: what was found, less what was asked for. Below: how many times the cheapest that would have done."""
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    kept, dear = figure.subplots(2, 1, sharex=True)
    wanted = sorted({(row["requested"], row["k"]) for row in rows})
    for row in rows:
        place = wanted.index((row["requested"], row["k"])) + _aside(row)
        look = {"color": COLOURS[row["kind"]], "marker": MARKS[row["metric"]], "ms": 5, "ls": "", "alpha": 0.8}
        kept.plot(place, row["measured"] - row["requested"], **look)
        if row["times"] is not None:
            dear.plot(place, row["times"], **look)
    kept.axhline(-BELOW, color="black", lw=0.8, ls="--")
    kept.axhline(0, color="black", lw=0.5)
    kept.set_ylabel("recall measured − requested")
    dear.axhline(DEARER, color="black", lw=0.8, ls="--")
    dear.set_ylabel("cost ÷ cheapest that would do")
    dear.set_xticks(range(len(wanted)), [f"{recall:g}\nk {k}" for recall, k in wanted])
    _legend(kept, rows)
    return figure


def _aside(row: dict[str, Any]) -> float:
    """So that points of one request lie side by side."""
    return 0.22 * (list(COLOURS).index(row["kind"]) - 1) + 0.06 * (list(MARKS).index(row["metric"]) - 1)


def _legend(axes: Axes, rows: Rows) -> None:
    kinds = [kind for kind in COLOURS if any(row["kind"] == kind for row in rows)]
    metrics = [metric for metric in MARKS if any(row["metric"] == metric for row in rows)]
    for kind in kinds:
        axes.plot([], [], color=COLOURS[kind], marker="o", ls="", label=kind)
    for metric in metrics:
        axes.plot([], [], color="gray", marker=MARKS[metric], ls="", label=metric)
    axes.legend(ncols=6, loc="upper right", fontsize=8)


def _grown(rows: Rows) -> Figure:
    """Recall at k = 10 and seconds to ready, by rows, a line each way of growing."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    recall, seconds = figure.subplots(1, 2)
    tens = [row for row in rows if row["k"] == 10]
    for name, own in _by(tens, lambda row: (row["kind"], row["steps"])):
        for requested, line in _by(own, lambda row: row["requested"]):
            recall.plot(
                [row["rows"] for row in line],
                [row["measured"] - requested for row in line],
                marker=".",
                label=f"{name[0]} {name[1]}, {requested:g}",
            )
        first = [row for row in own if row["requested"] == own[0]["requested"]]
        seconds.plot(
            [row["rows"] for row in first], [row["ready_s"] for row in first], marker=".", label=" ".join(name)
        )
    recall.axhline(-BELOW, color="black", lw=0.8, ls="--")
    recall.set(xlabel="rows", ylabel="recall@10 measured − requested")
    seconds.set(xlabel="rows", ylabel="seconds from the first new row to ready")
    recall.legend(fontsize=6, ncols=2)
    seconds.legend(fontsize=7)
    return figure


def _families(rows: Rows) -> Figure:
    """A panel for each file and metric: µs of a certified search by recall, a line a way and size."""
    panels = _by(rows, lambda row: (row["data"], row["metric"]))
    figure = Figure(figsize=(4 * min(3, len(panels)), 3.2 * -(-len(panels) // 3)), layout="constrained")
    axes = figure.subplots(-(-len(panels) // 3), min(3, len(panels)), squeeze=False).ravel()
    for panel, ((data, metric), own) in zip(axes, panels, strict=False):
        for (kind, params, n), line in _by(own, lambda row: (row["kind"], row["params"], row["rows"])):
            links = params.split()[1] if kind == "hnsw" else ""
            panel.plot(
                [f"{row['requested']:g}" for row in line],
                [row["us"] for row in line],
                color=COLOURS[kind],
                ls={"16": "-", "32": "--"}.get(links, "-"),
                marker=".",
                label=f"{kind} {'m ' + links if links else ''} {n:,}",
                alpha=0.4 + 0.6 * n / max(row["rows"] for row in own),
            )
        panel.set(title=f"{data}, {metric}", yscale="log", ylabel="µs a query, one thread")
        panel.legend(fontsize=6)
    for panel in axes[len(panels) :]:
        panel.set_visible(False)
    return figure


def _by(rows: Rows, key: Any) -> list[tuple[Any, Rows]]:
    """Grouped, in order of appearance."""
    groups: dict[Any, Rows] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return list(groups.items())
