"""The table at the end of a run: a line a suite, to which its tests add what they tried and what was lost."""

from dataclasses import dataclass
from typing import Literal

Extent = Literal["quick", "whole"]
_HEAD = ("suite", "cases", "acknowledged operations judged", "lost", "seconds")


@dataclass(slots=True)
class _Line:
    cases: int = 0
    judged: int = 0
    lost: int = 0
    seconds: float = 0.0


_suites: dict[str, _Line] = {}


def record(suite: str, cases: int, lost: int, *, judged: int = 0, seconds: float = 0.0) -> None:
    """Adds to the line of a suite. judged: acknowledged operations that were looked for; lost: what was not found."""
    line = _suites.setdefault(suite, _Line())
    line.cases += cases
    line.judged += judged
    line.lost += lost
    line.seconds += seconds


def lines() -> list[str]:
    if not _suites:
        return []
    rows = [_HEAD] + [
        (name, f"{v.cases:,}", f"{v.judged:,}", f"{v.lost:,}", f"{v.seconds:.1f}") for name, v in _suites.items()
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
