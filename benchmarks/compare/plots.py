"""docs/comparison-*.svg: bars of a comparison's medians, a line from the least to the most of its rounds."""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from benchmarks.compare.figures import OURS, Record, chosen, medians, short
from benchmarks.compare.settings import Setting, of
from benchmarks.compare.tables import KINDS

OURS_COLOUR, THEIRS_COLOUR, TAIL_COLOUR = "#0072b2", "#999999", "#d55e00"
# The same picture from the same figures, byte for byte.
matplotlib.rcParams["svg.hashsalt"] = "seedvec"
matplotlib.rcParams["svg.fonttype"] = "none"


def write(docs: Path, name: str, records: Sequence[Record], shown: Setting) -> list[Path]:
    """A file of queries a second and one of latency, of one setting. name: of the data. → the files written."""
    written = []
    for what, draw in (("qps", _qps), ("latency", _latency)):
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        draw(figure.subplots(), records, shown)
        FigureCanvasSVG(figure)
        written.append(docs / f"comparison-{what}-{name}.svg")
        figure.savefig(written[-1], metadata={"Date": None})
    return written


def shown(records: Sequence[Record], clients: int) -> Setting | None:
    """The search that stands for all: the lowest recall, with so many clients or else the most that there are."""
    searches = [of(r) for r in records if "round" in r and r["part"] == "search"]
    return max(searches, key=lambda s: (-(s.recall or 0), s.clients == clients, s.clients or 0), default=None)


def _systems(records: Sequence[Record], setting: Setting, key: Callable[[dict[str, float]], float]) -> list[str]:
    """Those that have figures, the best first."""
    names = dict.fromkeys(r["system"] for r in records if "round" in r and of(r) == setting)
    return sorted(names, key=lambda name: key(medians(chosen(records, name, setting))))


def _named(system: str) -> str:
    return f"{system} ({KINDS[system]})"


def _qps(axes: Axes, records: Sequence[Record], setting: Setting) -> None:
    names = _systems(records, setting, lambda figures: -figures["qps"])
    for place, name in enumerate(names):
        rounds = [r["qps"] for r in chosen(records, name, setting)]
        middle = medians(chosen(records, name, setting))["qps"]
        axes.barh(place, middle, color=OURS_COLOUR if name == OURS else THEIRS_COLOUR)
        axes.plot([min(rounds), max(rounds)], [place, place], color="black", lw=1)
        axes.annotate(short(middle), (max(rounds), place), xytext=(4, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(names)), [_named(name) for name in names])
    axes.set(xlabel=f"queries a second ({setting})")
    axes.invert_yaxis()
    axes.margins(x=0.12)


def _latency(axes: Axes, records: Sequence[Record], setting: Setting) -> None:
    """p50 and behind it p99, on a logarithmic scale: they differ by powers of ten."""
    names = _systems(records, setting, lambda figures: figures["p99_ms"])
    for place, name in enumerate(names):
        figures = medians(chosen(records, name, setting))
        axes.plot([figures["p50_ms"], figures["p99_ms"]], [place, place], color=THEIRS_COLOUR, lw=3, zorder=1)
        axes.scatter(figures["p50_ms"], place, color=OURS_COLOUR, label="p50" if not place else None)
        axes.scatter(figures["p99_ms"], place, color=TAIL_COLOUR, label="p99" if not place else None)
        text = f"{short(figures['p50_ms'])} / {short(figures['p99_ms'])} ms"
        axes.annotate(text, (figures["p99_ms"], place), xytext=(6, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(names)), [_named(name) for name in names])
    axes.set(xlabel=f"milliseconds ({setting})", xscale="log")
    axes.invert_yaxis()
    axes.margins(x=0.25, y=0.15)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=8, frameon=False)
