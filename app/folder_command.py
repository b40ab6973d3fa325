"""`seedvec check`, `repair` and `info`: a data folder looked at, or saved, without its server.

`python -m app.folder_command`; `seedvec` (seedvec/cli.py) hands over to it. Not of `app.cli`: the server's start would
wait for what it loads.
"""

import argparse
import os
import sys
from pathlib import Path

from index.norms import norms
from storage.check import check
from storage.errors import StorageError
from storage.info import info
from storage.lock import LockHeld
from storage.repair import repair

OK, UNSOUND, FAILED, MISUSED = 0, 1, 1, 2


def main(arguments: list[str]) -> int:
    """Run one command. Returns the exit status."""
    parsed = _parser().parse_args(arguments)
    path = Path(parsed.path)
    if not path.exists():
        return _fail(f"{path} does not exist", MISUSED)
    try:
        if parsed.command == "repair":
            return _repair(path, parsed)
        return _check(path) if parsed.command == "check" else _info(path)
    except BrokenPipeError:  # `seedvec info … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="seedvec", description="Vector similarity search over HTTP.")
    commands = parser.add_subparsers(dest="command", required=True)
    about = "verify a data folder, also beside a running server; exit status 0: sound, 1: not"
    commands.add_parser("check", help=about).add_argument("path", metavar="DIR")
    about = "save what checksums prove whole, and list what is lost; the server must be stopped; exit status as check"
    repairing = commands.add_parser("repair", help=about)
    repairing.add_argument("path", metavar="DIR")
    repairing.add_argument("--dry-run", action="store_true", help="only say what would be done")
    repairing.add_argument("--json", action="store_true", help="report every item, as JSON")
    about = "say what a data folder, a segment or an index file holds"
    commands.add_parser("info", help=about).add_argument("path", metavar="DIR|FILE")
    return parser


def _check(path: Path) -> int:
    report = check(path)
    sys.stdout.write(f"{report}\n")
    return OK if report.sound else UNSOUND


def _repair(path: Path, parsed: argparse.Namespace) -> int:
    try:
        report = repair(path, norms, dry_run=parsed.dry_run)
    except LockHeld as error:
        return _fail(f"{error}: stop it first", MISUSED)
    except (StorageError, OSError) as error:
        return _fail(f"the repair did not get to its end, and can be run again: {error}", FAILED)
    sys.stdout.write(f"{report.json() if parsed.json else report}\n")
    return OK if report.complete else UNSOUND


def _info(path: Path) -> int:
    sys.stdout.write(f"{info(path)}\n")
    return OK


def _fail(text: str, status: int) -> int:
    sys.stderr.write(f"seedvec: {text}\n")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
