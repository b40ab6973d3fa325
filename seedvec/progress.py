"""A progress bar on a terminal, and nothing where there is none."""

import sys
import time
from types import TracebackType
from typing import Literal, Self

SHOWN_S = 0.1
WIDTH = 30


class Bar:
    """what: a word for what is done; unit: "B" (shown as MB) or a word; total: None where it is not known."""

    def __init__(self, what: str, total: int | None, unit: Literal["B", "rows"]) -> None:
        self._what = what
        self._total = total
        self._unit = unit
        self._done = 0
        self._begun = time.monotonic()
        self._shown = 0.0
        self._on = sys.stderr.isatty()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, n: int) -> None:
        self.set(self._done + n, self._total)

    def set(self, done: int, total: int | None) -> None:
        self._done, self._total = done, total
        now = time.monotonic()
        if self._on and now - self._shown >= SHOWN_S:
            self._shown = now
            self._show(now)

    def close(self) -> None:
        """The last line stays."""
        if self._on and self._shown:
            self._show(time.monotonic())
            sys.stderr.write("\n")
        self._on = False

    def _show(self, now: float) -> None:
        rate = self._done / max(now - self._begun, 1e-3)
        text = f"\r\033[K{self._what} {self._amount(self._done)}"
        if self._total:
            part = min(1.0, self._done / self._total)
            filled = round(part * WIDTH)
            bar = "#" * filled + "." * (WIDTH - filled)
            text = f"\r\033[K{self._what} [{bar}] {part:4.0%} of {self._amount(self._total)}"
        sys.stderr.write(f"{text}, {self._amount(rate)}/s")
        sys.stderr.flush()

    def _amount(self, n: float) -> str:
        return f"{n / 1e6:,.1f} MB" if self._unit == "B" else f"{n:,.0f} {self._unit}"
