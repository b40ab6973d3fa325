"""docs/settings.md, written from the settings table: `python -m app.settings_page > docs/settings.md`."""

import math
import sys
from dataclasses import fields

from app.settings import Option, Settings, default_text, flag, option, variable

HEAD = """\
# Settings

Written from the table in `app/settings.py` by `python -m app.settings_page`; a test fails where they differ.

A flag of `seedvec serve` wins over its environment variable, which wins over the default. Sizes in bytes take the
suffixes `KiB`, `MiB` and `GiB`. What is secret has no flag: a command line can be read by every user of the machine.

| flag | environment | default | range | |
|---|---|---|---|---|
"""


def page() -> str:
    """The whole document."""
    rows = [
        f"| {_flag(f.name, option(f))} | `{variable(f.name)}` | {default_text(f)} | {_range(option(f))} "
        f"| {option(f).help} |"
        for f in fields(Settings)
    ]
    return HEAD + "\n".join(rows) + "\n"


def _flag(name: str, entry: Option) -> str:
    return "none" if entry.secret else f"`{flag(name)}`"


def _range(entry: Option) -> str:
    if entry.choices:
        return ", ".join(f"`{choice}`" for choice in entry.choices)
    if math.isinf(entry.low):
        return ""
    return f"{entry.low:.10g} … {entry.high:.15g} {entry.unit}".rstrip()


if __name__ == "__main__":
    sys.stdout.write(page())
