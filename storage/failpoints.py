"""Named places where a crash or a failing disk is worth trying: one beside every write, fsync and rename.

Armed by the environment, so that a whole server can be made to die at one place:

    SEEDVEC_FAILPOINTS="segment.fsync:kill:2,segment.write:enospc"

is `name[@module]:action[:nth]`, comma separated. With nth only the nth hit (from 1) of that process acts, without it
every hit; with a module only a process started as `python -m module` is concerned (`segment.fsync@app.builder:kill`).
Actions: `kill` (SIGKILL itself), `enospc`, `eio` (OSError), `sleep=SECONDS`, and `halfwrite` (where the place offers
it: half of the bytes are written, then SIGKILL). Unarmed, a hit is one lookup in an empty dictionary.
"""

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

VARIABLE: Final = "SEEDVEC_FAILPOINTS"
_declared: set[str] = set()
ERRORS: Final = {"enospc": errno.ENOSPC, "eio": errno.EIO}


class BadFailpoint(ValueError):
    """The text that arms failpoints cannot be read, or names an action that does not exist."""


@dataclass(slots=True)
class _Armed:
    name: str
    action: str
    seconds: float
    nth: int | None
    hits: int = 0

    def strike(self, halfwrite: Callable[[], object] | None) -> None:
        self.hits += 1
        if self.nth is not None and self.hits != self.nth:
            return
        if self.action == "sleep":
            time.sleep(self.seconds)
        elif self.action in ERRORS:
            number = ERRORS[self.action]
            raise OSError(number, f"{os.strerror(number)} (failpoint {self.name})")
        else:
            if self.action == "halfwrite" and halfwrite is not None:
                halfwrite()
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class _Watched:
    name: str
    see: "See"

    def strike(self, halfwrite: Callable[[], object] | None) -> None:
        self.see(self.name, halfwrite)


See = Callable[[str, Callable[[], object] | None], None]
_armed: dict[str, _Armed | _Watched] = {}


def declare(name: str) -> str:
    """Makes a failpoint known (at import of the module that hits it) and gives its name back."""
    _declared.add(name)
    return name


def names() -> list[str]:
    """All failpoints of the modules imported so far, sorted: what a crash suite goes through."""
    return sorted(_declared)


def hit(name: str, halfwrite: Callable[[], object] | None = None) -> None:
    """Acts if `name` is armed. halfwrite: writes half of what is about to be written, for that action."""
    armed = _armed.get(name)
    if armed is not None:
        armed.strike(halfwrite)


def arm(text: str) -> None:
    """Replaces what is armed. Raises BadFailpoint, and then nothing has changed."""
    points = [_parsed(part.strip()) for part in text.split(",") if part.strip()]
    _armed.clear()
    _armed.update((point.name, point) for point, module in points if not module or module == _module())


@contextmanager
def armed(text: str) -> Iterator[None]:
    """Armed within the block, nothing afterwards."""
    arm(text)
    try:
        yield
    finally:
        _armed.clear()


@contextmanager
def watched(see: See) -> Iterator[None]:
    """Within the block every hit calls `see(name, halfwrite)`, in the thread that hits; nothing is armed.

    What lies on the disk while `see` runs is what a kill at that very place would leave.
    """
    _armed.clear()
    _armed.update((name, _Watched(name, see)) for name in _declared)
    try:
        yield
    finally:
        _armed.clear()


def _module() -> str:
    """What `python -m` was told to run in this process; empty where it was started otherwise."""
    words = sys.orig_argv
    return words[words.index("-m") + 1] if "-m" in words[:-1] else ""


def _parsed(part: str) -> tuple[_Armed, str]:
    fields = part.split(":")
    name, _, module = fields[0].partition("@")
    if not 2 <= len(fields) <= 3 or not name:
        raise BadFailpoint(f"{VARIABLE}: {part!r} is not name[@module]:action[:nth]")
    action, _, argument = fields[1].partition("=")
    if action not in {"kill", "halfwrite", "sleep", *ERRORS}:
        raise BadFailpoint(f"{VARIABLE}: no action {action!r} (kill, halfwrite, enospc, eio, sleep=SECONDS)")
    try:
        seconds = float(argument) if action == "sleep" else 0.0
        nth = int(fields[2]) if len(fields) == 3 else None
    except ValueError as e:
        raise BadFailpoint(f"{VARIABLE}: {part!r}: {e}") from e
    return _Armed(name, action, seconds, nth), module


arm(os.environ.get(VARIABLE, ""))
