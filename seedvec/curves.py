"""Recall against cost, drawn: fronts of a calibration, or what `seedvec bench` has measured. Needs matplotlib."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

Format = Literal["svg", "png"]
SIZE_INCHES = (8.0, 4.8)
DOTS_PER_INCH = 120
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
"""Of Okabe and Ito: told apart by every kind of eye."""
MARKERS = "os^Dv*P"
TICKS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)
TOP = 0.0005
"""What is missing to 1 is drawn on a logarithmic scale, this much added: else 1 would lie infinitely high."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One way of searching. cost and recall: of each point; lower: the recall it was certified for, where it was."""

    name: str
    cost: Sequence[float]
    recall: Sequence[float]
    lower: Sequence[float] | None = None


def draw(
    title: str,
    curves: Sequence[Curve],
    *,
    requested: Sequence[float],
    format: Format,
    cost: str,
    otherwise: str = "nothing was measured",
) -> bytes:
    """The picture. requested: recalls to mark; cost: what the cost is, with its unit; otherwise: what to say where
    there is no curve."""
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "seedvec", "font.size": 10}):
        figure = Figure(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH, layout="constrained")
        axes = figure.subplots()
        axes.set_title(title)
        curves = [curve for curve in curves if len(curve.cost)]
        for i, curve in enumerate(curves):
            _add(axes, curve, COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)])
        if curves:
            _mark(axes, requested)
            _scale(axes, curves, requested, cost)
            figure.legend(loc="outside right upper", frameon=False)
        else:
            axes.set_axis_off()
            axes.text(0.5, 0.5, otherwise, ha="center", va="center", fontsize=13, transform=axes.transAxes)
        out = io.BytesIO()
        # Without a date the same data give the same bytes.
        figure.savefig(out, format=format, metadata={"Date": None} if format == "svg" else {})
        return out.getvalue()


def _add(axes: Axes, curve: Curve, colour: str, marker: str) -> None:
    order = np.argsort(curve.recall, kind="stable")
    cost, recall = np.asarray(curve.cost)[order], np.asarray(curve.recall)[order]
    axes.plot(cost, recall, color=colour, marker=marker, markersize=5, linewidth=1.5, label=curve.name)
    if curve.lower is not None:
        axes.fill_between(cost, np.asarray(curve.lower)[order], recall, color=colour, alpha=0.2, linewidth=0)


def _scale(axes: Axes, curves: Sequence[Curve], requested: Sequence[float], cost: str) -> None:
    drawn = [recall for curve in curves for recall in (curve.lower or curve.recall)]
    lowest = min((*drawn, *requested))
    axes.set_yscale("function", functions=(_stretched, _shrunk))
    axes.yaxis.set_major_locator(FixedLocator(TICKS))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylim(max(0.0, lowest - 0.1 * (1.001 - lowest)), 1 + TOP / 4)
    axes.set_ylabel("recall@k")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(cost)
    axes.grid(True, alpha=0.3)


def _mark(axes: Axes, requested: Sequence[float]) -> None:
    name = f"asked for: {', '.join(f'{recall:g}' for recall in requested)}"
    for i, recall in enumerate(requested):
        axes.axhline(recall, color="#666666", linestyle="--", linewidth=1, label=None if i else name, zorder=1)


def _stretched(recall: Any) -> NDArray[np.float64]:
    return np.asarray(-np.log10(np.maximum(1 + TOP - np.asarray(recall, float), TOP / 10)))


def _shrunk(height: Any) -> NDArray[np.float64]:
    return np.asarray(1 + TOP - 10.0 ** -np.asarray(height, float))
