"""What `seedvec check` found, in words for people."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Severity = Literal["error", "warning", "note"]
"""error: something that was acknowledged is lost, wrong, or about to be; warning: derived or lesser things that the
server mends or does without; note: worth knowing."""


@dataclass(frozen=True, slots=True)
class Finding:
    severity: Severity
    where: str
    what: str
    advice: str

    def __str__(self) -> str:
        advice = f"\n         {self.advice}" if self.advice else ""
        return f"{self.severity:<8} {self.where}: {self.what}{advice}"


@dataclass(slots=True)
class Report:
    """sound: no finding is an error."""

    path: Path
    findings: list[Finding] = field(default_factory=list)
    collections: int = 0
    live: int = 0
    bytes: int = 0
    """Of the segment and index files that were read."""

    @property
    def sound(self) -> bool:
        return not any(f.severity == "error" for f in self.findings)

    def add(self, severity: Severity, where: str, what: str, advice: str = "") -> None:
        self.findings.append(Finding(severity, where, what, advice))

    def __str__(self) -> str:
        held = f"{self.collections} collections, {self.live:,} live vectors, {self.bytes:,} bytes verified"
        verdict = "sound" if self.sound else "NOT SOUND"
        order = {"error": 0, "warning": 1, "note": 2}
        lines = [str(f) for f in sorted(self.findings, key=lambda f: order[f.severity])]
        return "\n".join([*lines, f"{self.path}: {verdict} ({held})"])


def examples(values: list[object], count: int | None = None) -> str:
    """`3, 5, 8 … (1,204 in all)`: the first few, and how many there are."""
    shown = ", ".join(repr(v) for v in values[:5])
    total = len(values) if count is None else count
    return shown if total <= 5 else f"{shown} … ({total:,} in all)"
