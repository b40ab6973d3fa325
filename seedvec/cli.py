"""The command `seedvec`. What needs no server code is done here; the rest is handed to the server's own command."""

import argparse
import os
import sys
from pathlib import Path

from seedvec import __version__, snapshot_command
from seedvec.health import health
from seedvec.server import default_url
from seedvec.transfer import main as transfer

SERVE = "serve"
SERVER_COMMANDS = {
    SERVE: "run the server",
    "check": "verify a data folder",
    "repair": "save what can be saved of a damaged data folder",
    "info": "say what a data folder or file holds",
}
TRANSFERS = {"import": "put a file into a collection", "export": "write a collection to a file"}
SERVER = "app.cli"
FOLDER = "app.folder_command"
IN_PLACE = "app.transferring"
"""Files in and out of a data folder that no server has in use."""
BENCH = "bench"
OFFLINE = "app.snapshot_command"
"""Snapshots of a data folder that no server has in use."""


def main() -> int:
    """Entry point. Returns the exit status."""
    arguments = sys.argv[1:]
    if arguments and arguments[0] in SERVER_COMMANDS:
        return _hand_over(arguments, SERVER if arguments[0] == SERVE else FOLDER)
    if arguments and arguments[0] in snapshot_command.COMMANDS:
        offline = snapshot_command.parse(arguments).data is not None
        return _hand_over(arguments, OFFLINE) if offline else snapshot_command.main(arguments)
    if arguments and arguments[0] in TRANSFERS:
        in_place = any(a == "--data" or a.startswith("--data=") for a in arguments)
        return _hand_over(arguments, IN_PLACE) if in_place else transfer(arguments)
    if arguments and arguments[0] == BENCH:
        # A process of its own, in this one's place: a health check must not load what draws.
        os.execv(sys.executable, [sys.executable, "-m", "seedvec.bench", *arguments[1:]])
    parsed = _parser().parse_args(arguments)
    return health(parsed.url)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="seedvec", description="Vector similarity search over HTTP.")
    parser.add_argument("--version", action="version", version=f"seedvec {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in {**SERVER_COMMANDS, **TRANSFERS}.items():
        commands.add_parser(name, help=f"{about} (`seedvec {name} --help`)", add_help=False)
    for name, about in snapshot_command.COMMANDS.items():
        commands.add_parser(name, help=f"{about} (`seedvec {name} --help`)", add_help=False)
    about = "measure recall and speed of a collection's searches over HTTP"
    commands.add_parser(BENCH, help=f"{about} (`seedvec {BENCH} --help`)", add_help=False)
    asked = commands.add_parser("health", help="exit status 0 where a server can serve, else 1")
    asked.add_argument("--url", default=default_url(), help="the server [SEEDVEC_URL; default: %(default)s]")
    return parser


def _hand_over(arguments: list[str], module: str) -> int:
    """Become `python -m module`, so that signals reach the server itself."""
    root = Path(__file__).resolve().parent.parent
    # Looked for by path, not by name: an `app` elsewhere on the path is somebody else's.
    if not (root / "app" / "supervisor.py").is_file():
        sys.stderr.write(
            f"seedvec: {arguments[0]} needs the server, which this installation has not: "
            "run it from a checkout of the project (`make setup`) or from its container image\n"
        )
        return 2
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    os.execve(sys.executable, [sys.executable, "-m", module, *arguments], environment)


if __name__ == "__main__":
    sys.exit(main())
