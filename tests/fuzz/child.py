"""`python -m tests.fuzz.child CASES SEED [NAME …]`: the decoders, each with so many mutants, in a process with limits.

A line of JSON for each decoder: `{"name", "cases", "refused", "worst_s", "peak_bytes"}`. Ends with 1, and says why,
where a decoder raises anything else, takes too long or too much memory; it is killed where one crashes.
"""

import faulthandler
import json
import resource
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from hypothesis import given

from tests.fuzz.decoders import Decoder, decoders
from tests.fuzz.mutants import Mutant, mutants, repeatable

CASE_S = 10.0
"""None of the bodies is over 300 KB; on a busy machine most take a millisecond."""
HANG_S = 30.0
MEMORY_BYTES = 512 << 20
"""More than the process has when the first case begins, libraries loaded: beyond it a case gets MemoryError, which no
decoder may raise."""


class TooSlow(BaseException):
    """No decoder may take it for its own."""


@dataclass
class Held:
    name: str
    cases: int = 0
    refused: int = 0
    worst_s: float = 0.0
    peak_bytes: int = 0


def main(cases: int, seed: int, names: list[str]) -> None:
    faulthandler.enable()
    signal.signal(signal.SIGALRM, too_slow)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        (made := Path(folder) / "made").mkdir()
        for number, decoder in enumerate(decoders(made)):
            if names and decoder.name not in names:
                continue
            for sound in decoder.sound:  # taken as it stands: and its libraries are loaded
                run(decoder, sound.whole, Path(folder) / "case")
            most = _status("VmData") + MEMORY_BYTES
            resource.setrlimit(resource.RLIMIT_DATA, (most, resource.RLIM_INFINITY))
            held = hold(decoder, cases, seed + number, Path(folder))
            print(json.dumps(asdict(held)), flush=True)


def hold(decoder: Decoder, cases: int, seed: int, folder: Path) -> Held:
    """Raises what the decoder may not, for the smallest mutant that makes it."""
    held, case = Held(decoder.name), folder / "case"
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that from here on
    before = _status("VmRSS")

    @repeatable(cases, seed)
    @given(mutants(decoder.sound))
    def attempt(mutant: Mutant) -> None:
        held.cases += 1
        begun = time.perf_counter()
        try:
            run(decoder, mutant.body, case)
        except decoder.raises:
            held.refused += 1
        held.worst_s = max(held.worst_s, time.perf_counter() - begun)

    attempt()
    held.worst_s = round(held.worst_s, 3)
    held.peak_bytes = _status("VmHWM") - before
    return held


def run(decoder: Decoder, body: bytes, case: Path) -> None:
    """With an empty folder of its own. Raises TooSlow, and whatever it raises."""
    case.mkdir()
    signal.setitimer(signal.ITIMER_REAL, CASE_S)
    # A library that goes round for ever hears no signal: this ends the process with its stack, and leaves the case.
    faulthandler.dump_traceback_later(HANG_S, exit=True)
    try:
        decoder.run(body, case)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        shutil.rmtree(case)


def too_slow(signum: int, frame: FrameType | None) -> None:
    """For SIGALRM."""
    raise TooSlow(f"over {CASE_S:g} s")


def _status(name: str) -> int:
    """Bytes, of what the kernel knows of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
