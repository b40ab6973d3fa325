"""Rows of figures as text, and as JSON for whoever compares runs."""

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def show(rows: Sequence[Mapping[str, Any]]) -> str:
    """A column for each name that any row has; floats with four figures."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *([text(row.get(name, "")) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)


def turned(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A line for each figure and a column for each row: for many figures of few rows. Headings are the first figure."""
    key, *figures = list(rows[0])
    return [{key: figure} | {str(row[key]): row[figure] for row in rows} for figure in figures]


def text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def write(path: Path, benchmark: str, arguments: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """With what one must know to compare it: the machine, its load, the time."""
    record = {
        "benchmark": benchmark,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "load": os.getloadavg(),
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
        },
        "arguments": {name: str(value) for name, value in arguments.items()},
        "rows": list(rows),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, default=float) + "\n")
