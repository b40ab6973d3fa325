"""`python -m app.cli serve`: the server. `seedvec` (seedvec/cli.py) hands over to it.

Every import here and in what is imported here is waited for before anything else of the server starts: little beside
Python's own library.
"""

import argparse
import os
import sys
from dataclasses import fields

from app.logs import configure
from app.settings import SettingError, Settings, add_flags, load, unknown_variables
from app.supervisor import StartError, serve

FAILED, MISUSED = 1, 2


def main(arguments: list[str]) -> int:
    """Run the server until it is told to stop. Returns the exit status."""
    parsed = _parser().parse_args(arguments)
    names = {f.name for f in fields(Settings)}
    try:
        settings = load({name: text for name, text in vars(parsed).items() if name in names}, os.environ)
        configure("supervisor", settings.log_level, settings.log_format)
        for name in unknown_variables(os.environ):
            sys.stderr.write(f"seedvec: {name} is no setting of this server: it is ignored\n")
        return serve(settings)
    except SettingError as error:
        return _fail(str(error), MISUSED)
    except StartError as error:
        return _fail(str(error), FAILED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="seedvec", description="Vector similarity search over HTTP.")
    commands = parser.add_subparsers(dest="command", required=True)
    add_flags(commands.add_parser("serve", help="run the server", allow_abbrev=False))
    return parser


def _fail(text: str, status: int) -> int:
    sys.stderr.write(f"seedvec: {text}\n")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
