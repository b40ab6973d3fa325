"""In which order the files of a folder are rows of one whole."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from uuid import UUID

_DIGITS: Final = re.compile(r"(\d+)")
UNORDERED: Final = (
    "the shards are joined in the order of their names, which are random: it says nothing of when they were written"
)


def files_of(folder: Path, suffixes: Sequence[str] = ()) -> list[Path]:
    """The files of a folder in order; empty where it is none, or has none. Hidden ones, subfolders, and with suffixes
    given whatever ends otherwise, are left out. Raises OSError.

    Where every name is a UUID they go by its hexadecimal digits: UUIDs of version 7 begin with the time, so that is
    the order they were made in, and numbers inside them mean nothing. Else names go as people count: `part-9` stands
    before `part-10`.
    """
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if _counts(p, suffixes)]
    if all(uuid_of(p) is not None for p in found):
        return sorted(found, key=lambda p: (str(uuid_of(p)), p.name))
    return sorted(found, key=lambda p: (_as_counted(p.name), p.name))


def uuid_of(path: Path) -> UUID | None:
    """The UUID that a file is named, whatever its ending."""
    try:
        return UUID(path.stem)
    except ValueError:
        return None


def _counts(path: Path, suffixes: Sequence[str]) -> bool:
    return not path.name.startswith(".") and path.is_file() and (not suffixes or path.suffix.lower() in suffixes)


def _as_counted(name: str) -> list[tuple[int, int, str]]:
    # Digits and what is between them alternate, but a name may begin with either: so each part says which it is.
    parts = [part for part in _DIGITS.split(name) if part]
    return [(0, int(part), part) if part[0].isdecimal() and part.isascii() else (1, 0, part) for part in parts]
