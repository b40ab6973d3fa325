"""`make fuzz`: the reference tried by schemathesis with 10,000 cases on one server, and every decoder of bytes from
outside with mutants of sound input, requests as bytes among them. Ends with 1 where anything was found.

    python -m benchmarks.fuzz [--cases 280] [--dear-cases 60] [--raw 3000] [--mutants 1000] [--seed 1] [--keep FOLDER]

Said of the server: cases by operation and what they were answered, and the private memory of its workers before,
meanwhile and after.
"""

import argparse
import contextlib
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz import raw
from tests.fuzz.reference import ENV, PATIENT, Tried, attempt
from tests.harness import ROOT, Server

WANTED = 10_000
DEAR = ("import", "export", "copy", "upload_snapshot", "take_snapshot", "restore_snapshot", "measure_recall")
"""Operations of which each takes a process of its own, or most of a second."""
GROWTH_BYTES = 96 << 20
"""Of all workers together, from a quarter of the cases on: caches are full by then."""


def main() -> None:
    given = arguments()
    with contextlib.ExitStack() as stack:
        folder = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fuzz-")))
        found = reference(given, folder)
    bad = decoders(given.mutants, given.seed)
    sys.exit(1 if found or bad else 0)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=280, help="of each operation, beside examples and edges")
    parser.add_argument("--dear-cases", type=int, default=60, help="of those that take a process each")
    parser.add_argument("--mutants", type=int, default=1000, help="of each decoder")
    parser.add_argument("--raw", type=int, default=3000, help="requests as bytes, nearly right")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="a folder for the data, the log and schemathesis' reports")
    return parser.parse_args()


def reference(given: argparse.Namespace, folder: Path) -> bool:
    """Whether anything was found. Two processes of schemathesis ask at once."""
    cheap = [option for name in DEAR for option in ("--exclude-operation-id", name)]
    dear = [option for name in DEAR for option in ("--include-operation-id", name)]
    runs = {
        "cheap": [*cheap, "--max-examples", str(given.cases)],
        "dear": [*dear, "--max-examples", str(given.dear_cases)],
    }
    folder.mkdir(parents=True, exist_ok=True)
    # Leaving it asserts that its log has no stack, that it ends well and that its data folder is sound.
    with Server(folder / "data", env=ENV | PATIENT) as server, ThreadPoolExecutor() as pool:
        begun = [
            pool.submit(attempt, server, folder / name, ["--no-shrink", *options], given.seed)
            for name, options in runs.items()
        ]
        tried = dict(zip(runs, (one.result() for one in begun), strict=True))
        found = [told(name, one) for name, one in tried.items()]
        memory = server.private_bytes()
        print(
            f"\nrequests that no library would send: {dict(sorted(raw.attempt(server, given.raw, given.seed).items()))}"
        )
        print(f"private memory after them: {server.private_bytes() - memory >> 10} KiB more")
    cases = sum(one.cases for one in tried.values())
    print(f"\n{cases:,} cases (wanted: {WANTED:,})")
    return grown(tried["cheap"]) or any(found) or cases < WANTED


def told(name: str, tried: Tried) -> bool:
    """Prints it; whether anything was found."""
    if tried.status:
        print(tried.failures)
    width = max(map(len, tried.by_operation))
    for operation, statuses in tried.by_operation.items():
        shown = "  ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))
        print(f"{operation:{width}}  {sum(statuses.values()):5}  {shown}")
    by_class = Counter[str]()
    for statuses in tried.by_operation.values():
        for status, count in statuses.items():
            by_class[f"{status // 100}xx"] += count
    print(f"{name}: {tried.cases:,} cases, {dict(sorted(by_class.items()))}; status {tried.status}")
    if tried.never_done:
        print(f"never done: {', '.join(tried.never_done)}")
    return bool(tried.status or tried.server_errors or tried.never_done)


def grown(tried: Tried) -> bool:
    memory = tried.private_bytes
    quarter = max(memory[: len(memory) // 4 + 1])
    before, early, most, after = (size >> 20 for size in (memory[0], quarter, max(memory), memory[-1]))
    print(
        f"private memory of the workers: {before} MiB before, {early} in the first quarter, {most} at most, "
        f"{after} after"
    )
    return memory[-1] - quarter > GROWTH_BYTES


def decoders(mutants: int, seed: int) -> bool:
    """Whether anything was found. Their lines, or what was found, go to standard output."""
    print(f"\ndecoders, {mutants:,} mutants each")
    command = [sys.executable, "-m", "tests.fuzz.child", str(mutants), str(seed)]
    return subprocess.run(command, cwd=ROOT, stderr=subprocess.STDOUT, check=False).returncode != 0


if __name__ == "__main__":
    main()
